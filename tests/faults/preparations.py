"""A small data set whose preparation is ended on purpose, and what is compared afterwards."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import SimpleITK

from pretraining.preparation import fingerprint, preprocess
from pretraining.preparation.lock import LOCK
from pretraining.preparation.manifest import GROUP_KEY as KEY
from pretraining.preparation.pool import Result, attempt
from pretraining.scans.scan import LeftOut, Scan
from tests.faults.healthy import Healthy, write_dicom
from tests.pretraining.preparation.synthetic_scans import World, truncate, use_folders, write_scan


def make_world(patch: pytest.MonkeyPatch, root: Path) -> World:
    """Scans for a data set of MRs (their intensity ranges are measured), with what is left out at every step."""
    scans = root / "scans"
    for seed in range(2):
        write_scan(scans / f"{seed}.nii.gz", seed, 2.4 if seed else 3.0, "MR")
    image = SimpleITK.ReadImage(str(scans / "0.nii.gz"))
    series = Healthy(SimpleITK.GetArrayFromImage(image), (3, 3, 3))
    write_dicom(scans / "series", series, Modality="MR", RescaleIntercept=-1024)
    write_dicom(scans / "pet", series, Modality="PT")
    truncate(write_scan(scans / "broken.nii.gz", 7, modality="MR"))
    write_scan(scans / "ct.nii.gz", 8)
    for channel in range(2):
        write_scan(scans / f"two_000{channel}.nii.gz", 9, modality="MR")
    use_folders(patch, root)
    world = World(root, {}, "MR")
    world.base.mkdir()
    (world.base / KEY).write_bytes(bytes(32))  # else random, and the groups with it
    return world


def contents(base: Path) -> dict[str, bytes]:
    """Every file of a data set; not the lock, which names a process."""
    return {
        str(path.relative_to(base)): path.read_bytes()
        for path in base.rglob("*")
        if path.is_file() and path.name != LOCK
    }


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Byte by byte."""
    assert sorted(found) == sorted(expected)
    different = [name for name in found if found[name] != expected[name]]
    assert different == []


def without_processes(patch: pytest.MonkeyPatch) -> None:
    """Work on scans in this process: for tests of what is written, not of by whom."""

    def for_each_scan(
        work: Callable[[Scan], Result], scans: Sequence[Scan], processes: int, title: str
    ) -> Iterator[tuple[Scan, Result | LeftOut]]:
        for scan in scans:
            yield scan, attempt(work, scan)

    for module in (fingerprint, preprocess):
        patch.setattr(module, "for_each_scan", for_each_scan)
    patch.setenv("BLOSC_NTHREADS", "1")
