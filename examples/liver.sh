#!/usr/bin/env bash
# MSD Task03_Liver, the published protocol: examples/liver.sh /data/Task03_Liver -o out
# Without the data: examples/liver.sh --download -o out   (27 GB, https). On two CPU cores: --budget cpu --jobs 2
# All options: examples/liver.sh --help
exec "${PYTHON:-python}" "$(dirname "$0")/protocol.py" --task Task03_Liver "$@"
