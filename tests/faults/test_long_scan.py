"""A scan of 3,000 slices is prepared within a few times its own size."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.faults.healthy import Healthy, healthy_scan, write_dicom
from tests.pretraining.preparation.synthetic_scans import manifest, use_folders

SLICES, EDGE = 3000, 160
MOST = 6  # times the scan as float32: 3.8 are seen in preprocessing (README, "How fast")
MEASURED = """
import re, resource, sys
from pathlib import Path
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.pipeline import prepare_dataset
if __name__ == "__main__":
    prepare_dataset(PrepareOptions((Path(sys.argv[1]),), int(sys.argv[2]), "CT", processes=1))
    own = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    print("peak", own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads peaks of memory in /proc")
def test_memory_for_a_long_scan(tmp_path, monkeypatch):
    use_folders(monkeypatch, tmp_path)
    healthy = healthy_scan(tmp_path)
    size = [SLICES, EDGE, EDGE]
    repeats = [-(-wanted // n) for wanted, n in zip(size, healthy.voxels.shape, strict=True)]
    voxels = np.tile(healthy.voxels, repeats)[:SLICES, :EDGE, :EDGE]
    write_dicom(tmp_path / "long" / "series", Healthy(voxels, (1.0, 2.5, 2.5)))
    write_dicom(tmp_path / "short" / "series", Healthy(voxels[:20], (1.0, 2.5, 2.5)))
    short, long = (_peaks(tmp_path, name, dataset) for name, dataset in (("short", 702), ("long", 701)))
    (row,) = manifest(tmp_path / "preprocessed" / "Dataset701_CT")
    assert (row["status"], row["shape"]) == ("prepared", f"{SLICES}x{EDGE}x{EDGE}")
    scan = 4 * voxels.size / 1024
    main, worker = ((after - before) / scan for before, after in zip(short, long, strict=True))
    assert worker < MOST
    assert main < 1
    print(f"survived: {SLICES} slices; the worker's peak was {worker:.1f} times the scan above a short one's")


def _peaks(root: Path, name: str, dataset: int) -> tuple[int, int]:
    """kB: the command's own and its worker's."""
    script = root / "measured.py"
    script.write_text(MEASURED)
    command = [sys.executable, str(script), str(root / name), str(dataset)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    own, worker = said.splitlines()[-1].split()[1:]
    return int(own), int(worker)
