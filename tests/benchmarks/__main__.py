"""``make bench``: all benchmarks, in under 20 minutes on two cores (``DICOM_FILES=10000 NIFTI_FILES=1000``: 9)."""

import platform
from pathlib import Path

import torch

from tests.benchmarks import corruption, discovery, loader, preparation, training


def main() -> None:
    """Print the machine and all tables."""
    print(f"{machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    for benchmark in (corruption, loader, discovery, preparation, training):
        print(f"\n## {(benchmark.__doc__ or '').splitlines()[0]}", flush=True)
        benchmark.main()


def machine() -> str:
    """CPU, cores and GPU."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{len(names)} cores {names[0]}{gpu}" if names else f"{platform.processor()}{gpu}"


if __name__ == "__main__":
    main()
