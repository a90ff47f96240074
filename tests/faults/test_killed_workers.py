"""A worker process that is killed costs at most its own scan; a full disk ends the run with a message."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_genesis.errors import GenesisError
from pretraining.preparation.manifest import FILE_NAME
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.preparation.planning import PreparedDataset
from pretraining.preparation.pool import for_each_scan
from pretraining.preparation.preprocess import preprocess
from pretraining.scans.find import find_scans
from pretraining.scans.scan import LeftOut, Scan
from tests.faults.killing_work import die, fill_disk, wait_to_be_killed
from tests.faults.preparations import without_processes
from tests.pretraining.preparation.synthetic_scans import World, manifest, use_folders, write_scan


@pytest.fixture(scope="module", autouse=True)
def warm_processes() -> None:
    """Processes are started afresh: they are what is tested."""


def scan(case: str) -> Scan:
    return Scan(case, "nifti", ((f"{case}.nii",),), f"{case}.nii", case, None, (512, 512, 1000), (1, 1, 1))


def test_scan_whose_process_is_killed_is_tried_again_alone(tmp_path, capfd):
    scans = [scan(case) for case in ("a", "twice", "b", "once", "c")]
    results = {s.case: result for s, result in for_each_scan(partial(die, folder=tmp_path), scans, 2, "Trying")}
    assert {case: result for case, result in results.items() if case != "twice"} == {
        case: f"worked on {case}" for case in ("a", "b", "once", "c")
    }
    assert isinstance(results["twice"], LeftOut)
    assert "killed twice" in results["twice"].reason
    assert "memory ran out: it needs about 5.7 GB" in results["twice"].reason
    assert {s.case: len((tmp_path / s.case).read_text().split()) for s in scans} == {
        "a": 1, "twice": 2, "b": 1, "once": 2, "c": 1,
    }  # fmt: skip
    said = "".join(capfd.readouterr())
    assert "twice.nii: its process was killed" in said
    assert "once.nii: its process was killed" in said
    print("survived: two workers killed, one of them twice")


def test_worker_killed_from_outside_is_noticed_at_once(tmp_path):
    def kill() -> None:
        while not (tmp_path / "a").exists():
            time.sleep(0.01)
        os.kill(int((tmp_path / "a").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    ((_, result),) = for_each_scan(partial(wait_to_be_killed, folder=tmp_path), [scan("a")], 1, "Trying")
    killer.join()
    assert result == "worked"  # and not 600 seconds later
    print("survived: a worker killed from outside")


def test_full_disk_ends_the_work():
    with pytest.raises(OSError, match="No space left"):
        list(for_each_scan(fill_disk, [scan("a"), scan("b")], 1, "Trying"))


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "preprocessed"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not hasattr(os, "geteuid") or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_is_named_and_nothing_half_written_is_taken_for_finished(small_disk, tmp_path, monkeypatch):
    for seed in range(8):
        write_scan(tmp_path / "scans" / f"{seed}.nii.gz", seed)
    use_folders(monkeypatch, tmp_path)
    without_processes(monkeypatch)
    world = World(tmp_path, {})
    full = pytest.raises(GenesisError, match=r"Dataset701_CT.*: not written: No space left.*Free some")
    with full:
        prepare_dataset(world.options())  # while analysing
    assert not (world.base / FILE_NAME).exists()  # no scan is blamed for it
    _resize(small_disk, 100_000)
    prepare_dataset(world.options(no_pp=True))
    _make_room(small_disk, 12)  # for a part of an image, which blosc2 calls a RuntimeError
    (first,), _ = find_scans([tmp_path / "scans" / "0.nii.gz"])
    plans, dataset_json = world.json("nnUNetPlans.json"), world.json("dataset.json")
    dataset = PreparedDataset(world.base, plans, dataset_json, {}, ("3d_fullres",))
    with pytest.raises(OSError, match="No space"):
        preprocess(first, dataset, None)
    _make_room(small_disk, 1600)  # for some scans
    with full:
        prepare_dataset(world.options())
    assert not list(manifest(world.base))
    assert 0 < _all_readable(world) < 8
    _resize(small_disk, 100_000)
    assert prepare_dataset(world.options()) == []
    assert _all_readable(world) == len(manifest(world.base)) == 8
    print("survived: a disk that was full while analysing, and while preprocessing")


def _make_room(disk: Path, size: int) -> None:
    """``size`` kB."""
    _resize(disk, shutil.disk_usage(disk).used // 1024 + size)


def _resize(disk: Path, size: int) -> None:
    """Of a small disk, in kB."""
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)


def _all_readable(world: World) -> int:
    cases = [path.stem for path in world.data.glob("*.pkl")]
    for case in cases:
        data, seg, _, _ = nnUNetDatasetBlosc2(str(world.data)).load_case(case)
        assert data[:].any()
        assert seg[:].any()
    return len(cases)
