"""Training that is killed or asked to stop, at any moment and again and again: the run that nobody interrupted."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from nnunet_genesis.interruption import RESUME_STATUS
from tests.faults.training_runs import Run, assert_equal_runs, make_world, runs

KINDS = ("pretraining", "fine-tuning")
EPOCHS = 6


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    """A small labelled data set; both kinds of training take it."""
    make_world(nnunet_folders)
    return nnunet_folders


@pytest.fixture(scope="module")
def whole(world) -> dict[str, tuple[dict[str, Any], float]]:
    """Final checkpoints of runs that nobody interrupts, and the seconds they take."""
    found = {}
    for kind in KINDS:
        start = time.monotonic()
        run = runs(world, EPOCHS)[kind]
        found[kind] = run.finish(), time.monotonic() - start
        run.clear()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_two_kills(world, whole, kind):
    survive(runs(world, EPOCHS)[kind], *whole[kind], signal.SIGKILL, 2, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_two_requests_to_stop(world, whole, kind):
    survive(runs(world, EPOCHS)[kind], *whole[kind], signal.SIGTERM, 2, seed=2)


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("kind", KINDS)
def test_twenty(world, whole, kind, number):
    survive(runs(world, EPOCHS)[kind], *whole[kind], number, 20, seed=int(number))


def survive(run: Run, expected: dict, seconds: float, number: int, times: int, seed: int) -> None:
    """Send signal ``number`` at random moments until it has hit ``times``; each run that ends must be ``expected``."""
    draw, moments, finished = random.Random(seed), [], 0
    while len(moments) < times or not finished:
        process = run.start(nnUNet_n_proc_DA=draw.choice("02"))
        moment = draw.uniform(0, seconds)
        process.join(moment if len(moments) < times else None)
        if process.is_alive():
            workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(process.pid, number)
            process.join()
            assert process.exitcode in (-number, RESUME_STATUS)
            assert_all_end(workers)
            moments.append(f"{moment:.1f}" + "*" * (process.exitcode == RESUME_STATUS))
        else:
            assert process.exitcode == 0
            assert_equal_runs(run.checkpoint("final"), expected)
            assert not list(run.folder().glob("*.tmp*"))
            run.clear()
            finished += 1
    print(
        f"\n{run.name}: survived {times} {signal.Signals(number).name} (seed {seed}; seconds after the start: "
        f"{' '.join(moments)}; * with a checkpoint), {finished} run(s) equal to the uninterrupted one"
    )


def assert_all_end(pids: list[str]) -> None:
    """No loader process stays behind."""
    deadline = time.monotonic() + 60
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.1)
