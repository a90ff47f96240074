"""Checkpoints that are damaged or can't be written: the run goes on from the one before, and equals a whole run."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nnunet_genesis.checkpoint.writing import LATEST, PREVIOUS
from tests.faults.training_runs import Run, assert_equal_runs, runs

KINDS = ("pretraining", "fine-tuning")
LENGTH = (4, 2)


@pytest.fixture(scope="module")
def whole(world) -> dict[str, dict]:
    """Final checkpoints of runs that nothing happens to."""
    return {kind: run.finish() for kind, run in runs(world, *LENGTH).items()}


@pytest.fixture(scope="module")
def half(world, whole, tmp_path_factory) -> Path:
    """Results of runs that were killed when they had two checkpoints to go on from."""
    results = tmp_path_factory.mktemp("half")
    for run in runs(world | {"nnUNet_results": results}, *LENGTH).values():
        run.kill(2)
    return results


@pytest.fixture
def begun(world, half, tmp_path) -> dict[str, Run]:
    """Such runs in a folder of their own."""
    shutil.copytree(half, tmp_path / "results")
    (tmp_path / "results" / "output.txt").unlink()
    return runs(world | {"nnUNet_results": tmp_path / "results"}, *LENGTH)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(("kind", "damage"), [(KINDS[0], truncate), (KINDS[1], flip_a_bit)])
def test_a_damaged_checkpoint_is_passed_over(begun, whole, kind, damage):
    run = begun[kind]
    damage(run.folder() / LATEST)
    assert_equal_runs(run.finish(), whole[kind])
    assert f"{LATEST}: {'truncated or damaged' if damage is truncate else 'damaged'}: " in run.log()
    assert "Trying checkpoint_previous.pth" in run.log()
    assert not list(run.folder().glob("*.tmp*"))
    print(f"\n{kind}: {damage.__name__} in {LATEST}, goes on from the one before and equals the whole run")


def test_an_extended_run_goes_on_from_its_latest_checkpoint(begun, whole):
    run = begun["fine-tuning"]
    final = Path(shutil.copy(run.folder() / PREVIOUS, run.folder() / "checkpoint_final.pth"))  # of the shorter run
    os.utime(final, (1e9, 1e9))
    latest = run.checkpoint("latest")["current_epoch"]
    assert_equal_runs(run.finish(), whole["fine-tuning"])
    assert f"Epoch {latest}" in run.log()
    print("\nfine-tuning: an extended run that was killed goes on from its latest checkpoint")


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_an_early_version_wrote_within_an_epoch_goes_on(begun, whole, kind):
    run = begun[kind]
    latest = run.checkpoint("latest")
    epoch, so_far = latest["current_epoch"], {"loss": torch.zeros(1), "skipped": torch.zeros(1, dtype=torch.bool)}
    latest["logging"]["lrs"].append(0.1)  # early versions had logged the epoch's start
    (latest if kind == "pretraining" else latest["init_args"]["genesis"])["so_far"] = so_far
    torch.save(latest, run.folder() / LATEST)
    final = run.finish()
    for key, values in final["logging"].items():
        assert len(values) == len(whole[kind]["logging"][key]), key
    assert f"WARNING: the checkpoint was written within epoch {epoch}, by an early version." in run.log()


def test_another_seed_than_the_run_was_started_with_is_refused(begun):
    assert "nnUNet_genesis_seed=4: the run in" in begun["fine-tuning"].fail(nnUNet_genesis_seed="4")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_damaged_checkpoints_stops_with_a_message(begun, kind):
    for file in begun[kind].folder().glob("checkpoint_*.pth"):
        truncate(file)
    output = begun[kind].fail()
    assert f"ERROR: {begun[kind].folder() / PREVIOUS}: truncated or damaged: " in output
    assert "Traceback" not in output


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_may_not_grow_leaves_the_old_checkpoint(begun, whole, kind):
    run = begun[kind]
    before = (run.folder() / LATEST).read_bytes()
    output = run.fail(GENESIS_TEST_FILE_SIZE=str(len(before) // 2))
    assert "not written: File too large" in output or "not written: is the disk full?" in output
    _assert_survived(run, before, output, whole[kind])
    print(f"\n{kind}: a checkpoint that can't be written, goes on and equals the whole run")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"may not mount a small file system: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_the_old_checkpoint(begun, world, whole, small_disk, kind):
    shutil.copytree(begun[kind].folder().parents[2], small_disk / "results")
    run = runs(world | {"nnUNet_results": small_disk / "results"}, *LENGTH, small_disk.parent / "output.txt")[kind]
    before = (run.folder() / LATEST).read_bytes()
    ballast, free = small_disk / "ballast", shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(free - len(before) // 2))
    output = run.fail()
    assert "not written: No space left on device (0 MiB are free there)" in output or "is the disk full?" in output
    ballast.unlink()
    _assert_survived(run, before, output, whole[kind])
    print(f"\n{kind}: a full disk, goes on and equals the whole run")


def _assert_survived(run: Run, before: bytes, output: str, expected: dict) -> None:
    assert "go on with the same command and --c" in output
    assert "Traceback" not in output
    assert (run.folder() / LATEST).read_bytes() == before
    assert not list(run.folder().glob("*.tmp*"))
    assert_equal_runs(run.finish(), expected)
