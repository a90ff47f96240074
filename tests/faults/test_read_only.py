"""Folders of nnU-Net's that may only be read: a message before anything is done, never a traceback."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.training_runs import Run, runs

KINDS = ("pretraining", "fine-tuning")


@pytest.fixture
def read_only(tmp_path) -> Iterator[Callable[[Path], Path]]:
    """Copies a folder to a file system that may only be read."""
    disks = []

    def copy(folder: Path) -> Path:
        disk = tmp_path / folder.name
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("may not mount a file system")
        disks.append(disk)
        shutil.copytree(folder, disk, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        return disk

    yield copy
    for disk in disks:
        subprocess.run(["umount", "--lazy", disk], check=True)


def said(run: Run) -> str:
    output = run.fail()
    assert "Traceback" not in output
    assert "failed to log" not in output
    assert output.count("ERROR: ") == 1
    return output


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_read_only_results_are_named(world, read_only, tmp_path, kind, begun):
    results = tmp_path / "to copy" / "nnUNet_results"
    run = runs(world | {"nnUNet_results": results}, 2, 2)[kind]
    results.mkdir(parents=True)
    if begun:
        run.folder().mkdir(parents=True)
    disk = read_only(results)
    run = runs(world | {"nnUNet_results": disk}, 2, 2, tmp_path / "output.txt")[kind]
    assert f"ERROR: {disk}" in (output := said(run))
    assert "not written: Read-only file system. Make it writable, or choose another folder, then run" in output


@pytest.mark.parametrize("kind", KINDS)
def test_read_only_preprocessed_data_are_named_where_something_must_be_written(world, read_only, tmp_path, kind):
    source = tmp_path / "to copy" / "nnUNet_preprocessed"
    shutil.copytree(world["nnUNet_preprocessed"], source)
    missing = {"pretraining": "genesis_intensity_ranges_*.json", "fine-tuning": "splits_final.json"}[kind]
    for file in source.glob(f"*/{missing}"):
        file.unlink()
    disk = read_only(source)
    folders = world | {"nnUNet_preprocessed": disk, "nnUNet_results": tmp_path / "nnUNet_results"}
    (tmp_path / "nnUNet_results").mkdir()
    run = runs(folders, 2, 2, tmp_path / "output.txt")[kind]
    output = said(run)
    assert f"ERROR: {disk / 'Dataset701_One' / missing.split('*')[0]}" in output
    assert "not written: Read-only file system." in output
