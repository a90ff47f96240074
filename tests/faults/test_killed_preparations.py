"""A preparation that is killed, whenever, and started again ends with the bytes of one that wasn't."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pretraining.__main__ import prepare
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.scans.scan import ERROR_LOG
from tests.faults.preparations import assert_same, contents, make_world, without_processes
from tests.integration.warm_processes import start_command
from tests.pretraining.preparation.synthetic_scans import World

KILLS = 20


class Killed(BaseException):
    """Ends a preparation without a process."""


class Renames:
    """Counts a data set's renames, by which all that counts comes into being; dies at one, and lets none happen after.

    Those of others don't count: numba renames what it compiles, once.
    """

    def __init__(self, patch: pytest.MonkeyPatch, base: Path, at: int | None = None) -> None:
        self.count, self.base, self.at = 0, base, at
        patch.setattr(os, "replace", self._counted(os.replace))

    def _counted(self, replace: Callable) -> Callable:
        def counted(source: str | Path, target: str | Path) -> None:
            if self.base in Path(target).parents:
                self.count += 1
                if self.at is not None and self.count >= self.at:
                    raise Killed
            replace(source, target)

        return counted


def test_killed_before_each_of_its_renames(tmp_path, monkeypatch):
    whole, killed = _two(tmp_path, monkeypatch)
    without_processes(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setenv("nnUNet_preprocessed", str(whole.base.parent))
        counted = Renames(patch, whole.base)
        prepare_dataset(whole.options(modality="MR"))
    expected = contents(whole.base)
    assert counted.count > 15
    assert not (whole.base / ERROR_LOG).exists()
    start = contents(killed.base)
    for at in range(1, counted.count + 1):
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            Renames(patch, killed.base, at)
            prepare_dataset(killed.options(modality="MR"))
            pytest.fail("was not killed")
        prepare_dataset(killed.options(modality="MR"))
        assert_same(contents(killed.base), expected)
        _back_to(killed.base, start)
    print(f"survived: {counted.count} kills, one before each rename")


def _back_to(base: Path, files: dict[str, bytes]) -> None:
    for path in base.rglob("*"):
        if path.is_file() and str(path.relative_to(base)) not in files:
            path.unlink()


def test_killed_processes(tmp_path, monkeypatch):
    whole, killed = _two(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        without_processes(patch)
        patch.setenv("nnUNet_preprocessed", str(whole.base.parent))
        prepare_dataset(whole.options(modality="MR"))
    moments = {
        "the first scan is analysed": lambda: any((killed.base / "genesis_cache").glob("*.npz")),
        "a case is half renamed, or just finished": lambda: any(killed.data.glob("*.b2nd")),
    }
    for moment in moments.values():
        _run(killed, kill=lambda moment=moment: _until(moment), processes=1)
    (killed.base / "genesis_manifest.csv.tmp123").write_text("source,ca")  # killed while it wrote
    _run(killed, processes=1)
    assert_same(contents(killed.base), contents(whole.base))
    print(f"survived: a process group killed when {' and when '.join(moments)}")


@pytest.mark.soak
def test_killed_at_random(tmp_path, monkeypatch):
    whole, killed = _two(tmp_path, monkeypatch)
    start = time.monotonic()
    _run(whole)
    longest = time.monotonic() - start
    expected, kills = contents(whole.base), 0
    rng, begin = random.Random(0), contents(killed.base)
    while kills < KILLS:
        # Mostly late in a run, as each run that is killed early has done nothing.
        while not (done := _run(killed, kill=lambda: time.sleep(rng.uniform(0.3, 1) * longest))) and kills < KILLS:
            kills += 1
        if not done:
            _run(killed)
        assert_same(contents(killed.base), expected)
        _back_to(killed.base, begin)
    print(f"survived: {kills} kills at random moments")


def _two(root: Path, patch: pytest.MonkeyPatch) -> tuple[World, World]:
    worlds = []
    for name in ("whole", "killed"):
        (root / name).mkdir()
        worlds.append(make_world(patch, root / name))
    shutil.rmtree(root / "killed" / "scans")  # the index has the scans' times
    (root / "killed" / "scans").symlink_to(root / "whole" / "scans")
    return worlds[0], worlds[1]


def _run(world: World, kill: Callable[[], object] | None = None, processes: int = 2) -> bool:
    """Prepare in a process group of its own, which is killed when ``kill`` returns; whether it came to its end."""
    arguments = ["-i", str(world.root / "scans"), "-d", "701", "-n", "CT", "-np", str(processes), "--modality", "MR"]
    output, base = world.root / "output.txt", str(world.base.parent)
    process = start_command(prepare_with_forks, arguments, output, nnUNet_preprocessed=base)
    if kill:
        kill()
        ended = not process.is_alive()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return ended
    process.join()
    assert process.exitcode == 3, (world.root / "output.txt").read_text()  # some are left out
    return True


def prepare_with_forks() -> None:
    """The command; where it asks for fresh processes it forks itself, so that they are of its group too, but quick."""
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: get_context("fork" if method == "spawn" else method)
    prepare()


def _until(moment: Callable[[], bool]) -> None:
    while not moment():
        time.sleep(0.001)
