"""Finding scans: headers a second with 1 and 2 processes, memory, and a second call, which takes them from the index.

``DICOM_FILES`` (100,000; in series of 100) and ``NIFTI_FILES`` (10,000) say how many tiny files are made.
"""

import os
import re
import struct
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from pretraining.preparation.index import FILE_NAME, read_indexed
from pretraining.scans.find import find_scans
from tests.benchmarks.timing import quiet
from tests.pretraining.scans.dicom_series import make_slice

DICOM_FILES, NIFTI_FILES = (
    int(os.environ.get(name, count)) for name, count in (("DICOM_FILES", 100_000), ("NIFTI_FILES", 10_000))
)
SLICES = 100


def main() -> None:
    """Print the table."""
    print(f"{'files':>15} {'processes':>9} {'s':>7} {'files a s':>9} {'scans':>6} {'again: s':>8} {'index, MB':>9} "
          f"{'peak, MB':>8}")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, make, count in (("DICOM", write_dicom, DICOM_FILES), ("NIfTI", write_nifti, NIFTI_FILES)):
            make(folder / kind, count // 10)
            make(folder / f"{kind} all", count)
            for scans, processes in ((kind, 1), (f"{kind} all", 1), (f"{kind} all", 2)):
                row = [measured(folder / scans, folder / f"{scans} {processes}", processes) for _ in range(2)]
                (seconds, found, peak), (again, *_) = row
                size = (folder / f"{scans} {processes}" / FILE_NAME).stat().st_size / 1e6
                files = count if scans.endswith("all") else count // 10
                print(f"{files:>9} {kind} {processes:9} {seconds:7.1f} {files / seconds:9.0f} {found:6} {again:8.1f} "
                      f"{size:9.1f} {peak:8.0f}", flush=True)  # fmt: skip


def measured(scans: Path, folder: Path, processes: int) -> tuple[float, int, float]:
    """Find scans in a fresh process: seconds, number of scans, its peak memory, MB."""
    folder.mkdir(exist_ok=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(find, scans, folder, processes).result()


def find(scans: Path, folder: Path, processes: int) -> tuple[float, int, float]:
    """As :func:`measured`, in this process."""
    start = time.perf_counter()
    with quiet():
        found, left_out = find_scans([scans], None, partial(read_indexed, folder=folder, processes=processes))
    assert found
    assert not left_out
    seconds = time.perf_counter() - start
    # Not its maximum by getrusage, which is the parent's where that is higher.
    peak = float(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e3
    return seconds, len(found), peak


def write_dicom(folder: Path, count: int) -> None:
    """Write slices that differ in number, place and identifiers only, in series of 100."""
    template = make_slice(
        folder / "template", 0, SeriesInstanceUID="1.2.826.0.1.77777.1000000", StudyInstanceUID="1.2.826.0.1.77777.2",
        ImagePositionPatient=["0", "0", "1000.00"], InstanceNumber="8765", PatientID="PATIENT1000000",
        SeriesDescription="thorax 1.5 B60f", AcquisitionNumber="1", KVP="120", SliceThickness="1.5",
        ConvolutionKernel="B60f", FrameOfReferenceUID="1.2.826.0.1.77777.3", AcquisitionTime="101112",
    ).read_bytes()  # fmt: skip
    (folder / "template").unlink()
    for number in range(count):
        series, place = divmod(number, SLICES)
        (folder / str(series)).mkdir(exist_ok=True)
        content = template.replace(b"77777.1000000", b"77777.%07d" % (1_000_000 + series))
        content = content.replace(b"PATIENT1000000", b"PATIENT%07d" % (1_000_000 + series))
        content = content.replace(b"\\1000.00", b"\\%07.2f" % (1.5 * place)).replace(b"8765", b"%04d" % place)
        content = content[:-48] + struct.pack("<24h", *range(place + series, place + series + 24))  # no copies
        (folder / str(series) / f"{place}.dcm").write_bytes(content)


def write_nifti(folder: Path, count: int) -> None:
    """Write copies of one file, each with a time of its own in its gzip header: equal ones, and links, count once."""
    # Not above: processes would import torch with it.
    from tests.pretraining.preparation.synthetic_scans import write_scan

    content = write_scan(folder / "0.nii.gz").read_bytes()[:2000]  # only the header is read
    for number in range(count):
        (folder / str(number // 1000)).mkdir(exist_ok=True)
        own = content[:4] + number.to_bytes(4, "little") + content[8:]
        (folder / str(number // 1000) / f"{number}.nii.gz").write_bytes(own)
    (folder / "0.nii.gz").unlink()


if __name__ == "__main__":
    main()
