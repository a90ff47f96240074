"""The process of one part, which the environment names."""

import importlib
import json
import os
import sys
from pathlib import Path

import torch

from tests.benchmarks.gpu.part import UNAVAILABLE_STATUS, NotAvailable, Part


def main() -> None:
    """Run the part; exit status 3 where it isn't available."""
    told = json.loads(os.environ["GENESIS_GPU_PART"])
    part = Part(
        name=told["name"],
        device=torch.device(told["device"]),
        tiny=told["tiny"],
        folder=Path(told["folder"]),
        rows_file=Path(told["rows_file"]),
        seconds=told["seconds"],
    )
    torch.set_num_threads(1)
    try:
        importlib.import_module(f"tests.benchmarks.gpu.{part.name.partition(':')[0]}").main(part)
    except NotAvailable as reason:
        part.row(f"not available: {reason}")
        sys.exit(UNAVAILABLE_STATUS)


if __name__ == "__main__":
    main()
