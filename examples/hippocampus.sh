#!/usr/bin/env bash
# MSD Task04_Hippocampus, the published protocol: examples/hippocampus.sh /data/Task04_Hippocampus -o out
# Without the data: examples/hippocampus.sh --download -o out   (27 MB, https). On two CPU cores: --budget cpu --jobs 2
# All options: examples/hippocampus.sh --help
exec "${PYTHON:-python}" "$(dirname "$0")/protocol.py" --task Task04_Hippocampus "$@"
