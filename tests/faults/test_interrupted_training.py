"""Training that is killed or asked to stop, at any moment and again and again: the run that nobody interrupted.

After SIGTERM, SIGINT and SIGUSR1 the iteration is finished, a checkpoint written, the exit status 75; nothing stays.
"""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import find_free_network_port, get_trainer_from_args

from nnunet_genesis.training.signals import RESUME_STATUS, SIGNALS, Interrupted
from pretraining.__main__ import pretrain
from tests.faults.training_runs import Run, assert_equal_runs, runs
from tests.integration.distributed_rank import watched
from tests.integration.warm_processes import Within, start_command

KINDS = ("pretraining", "fine-tuning")
EPOCHS, ITERATIONS = 3, 4
FLAGS = f"-device cpu --epochs {EPOCHS} --iterations {ITERATIONS} --seed 3 --precision fp32 --memory_format contiguous"
ARGUMENTS = ["701", "3d_fullres", *FLAGS.split()]


@pytest.fixture(scope="module")
def whole(world) -> dict[str, tuple[dict[str, Any], float]]:
    """Final checkpoints of runs that nobody interrupts, and the seconds they take."""
    found = {}
    for kind in KINDS:
        start = time.monotonic()
        run = runs(world, EPOCHS, ITERATIONS)[kind]
        found[kind] = run.finish(), time.monotonic() - start
        run.clear()
    return found


@pytest.fixture
def fresh(world, tmp_path, monkeypatch) -> dict[str, Run]:
    """Both kinds of training with an empty results folder, which the commands that a test starts use too."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums depend on the number of threads
    return runs(world | {"nnUNet_results": tmp_path}, EPOCHS, ITERATIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_two_kills(fresh, whole, kind):
    survive(fresh[kind], *whole[kind], signal.SIGKILL, 2, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("kind", KINDS)
def test_twenty(fresh, whole, kind, number):
    survive(fresh[kind], *whole[kind], number, 20, seed=int(number))


def survive(run: Run, expected: dict, seconds: float, number: int, times: int, seed: int) -> None:
    """Send signal ``number`` at random moments until it has hit ``times``; each run that ends must be ``expected``."""
    draw, moments, finished = random.Random(seed), [], 0
    while len(moments) < times or not finished:
        process = run.start(nnUNet_n_proc_DA=draw.choice("02"))
        moment = draw.uniform(0, seconds)
        process.join(moment if len(moments) < times else None)
        workers: list[str] = []
        if process.is_alive():
            workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(process.pid, number)
            process.join()
        if process.exitcode == 0:  # it was faster
            assert_equal_runs(run.checkpoint("final"), expected)
            assert not list(run.folder().glob("*.tmp*"))
            run.clear()
            finished += 1
        else:
            assert process.exitcode in (-number, RESUME_STATUS)
            assert_all_end(workers)
            moments.append(f"{moment:.1f}" + "*" * (process.exitcode == RESUME_STATUS))
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


@pytest.mark.parametrize(
    ("number", "hook", "call", "epoch"),
    [("SIGTERM", "train_step", 6, 1), ("SIGINT", "train_step", 1, 0), ("SIGUSR1", "validation_step", 1, 0)],
)
def test_fine_tuning_stops_within_an_epoch_and_goes_on(fresh, whole, monkeypatch, number, hook, call, epoch):
    """A signal comes before the given call of ``hook``; the epoch is done again."""
    run = fresh["fine-tuning"]
    handlers = [signal.getsignal(number) for number in SIGNALS]
    assert stop_in(run, monkeypatch, number, hook, call) == RESUME_STATUS
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert not multiprocessing.active_children()
    latest = run.checkpoint("latest")
    assert latest["current_epoch"] == epoch
    assert len(latest["logging"]["train_losses"]) == epoch
    assert f"{number}: stopped in epoch {epoch}. Go on with the same command and --c" in run.log()
    assert_equal_runs(run.finish(), whole["fine-tuning"][0])
    print(f"\nfine-tuning: {number} in {hook}, goes on exactly")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, where checkpoints are read to its memory")
def test_fine_tuning_on_a_gpu_stops_within_an_epoch_and_goes_on(fresh, monkeypatch):
    run = fresh["fine-tuning"]
    assert stop_in(run, monkeypatch, "SIGTERM", "train_step", 6, device="cuda") == RESUME_STATUS
    assert run.checkpoint("latest")["current_epoch"] == 1
    assert run.finish(GENESIS_TEST_DEVICE="cuda")["current_epoch"] == EPOCHS


def stop_in(run: Run, monkeypatch, number: str, hook: str, call: int, device: str = "cpu") -> Any:
    """Train in this process with a signal before the given call of ``hook``; the exit status."""
    for name, value in run.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    trainer = get_trainer_from_args("701", "3d_fullres", 0, run.trainer, device=torch.device(device))
    step, calls = getattr(trainer, hook), []

    def send(batch: dict) -> dict:
        calls.append(batch)
        if len(calls) == call:
            os.kill(os.getpid(), getattr(signal, number))
        return step(batch)

    monkeypatch.setattr(trainer, hook, send)
    with pytest.raises(Interrupted) as stopped:
        trainer.run_training()
    return stopped.value.code


def test_ctrl_c_on_a_terminal_reaches_loader_processes_too(fresh, whole, tmp_path):
    output = tmp_path / "output.txt"
    process = start_command(pretrain, ARGUMENTS, output, nnUNet_n_proc_DA="2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(workers := children.read_text().split()) < 2:
        assert process.is_alive(), output.read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    process.join(300)
    process.kill()
    assert process.exitcode == RESUME_STATUS, output.read_text()
    assert "SIGINT: stopping after this iteration" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert_equal_runs(fresh["pretraining"].finish(), whole["pretraining"][0])
    print("\npretraining: Ctrl-C for it and its loader processes, goes on exactly")


def test_loader_processes_of_nnunet_end_with_a_killed_run(fresh):
    run = fresh["fine-tuning"]
    del run.environment["nnUNet_genesis_seed"]
    process = run.start(nnUNet_n_proc_DA="2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(workers := children.read_text().split()) < 3:  # two for training, one for validation
        process.join(0.02)
        assert process.is_alive()
    process.kill()
    process.join()
    assert_all_end(workers)
    assert run.finish()["init_args"]["genesis"]["seed"] is None
    print(f"\nfine-tuning without a seed: killed, {len(workers)} loader processes of nnU-Net's ended too")


def test_a_signal_to_one_task_of_two_stops_both_after_the_same_iteration(fresh, whole, tmp_path):
    """Rank 1 sends itself a signal; the two go on as one process."""
    run = fresh["pretraining"]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "WORLD_SIZE": "2"}
    arguments, output = [*ARGUMENTS, "--batch_size", "2"], tmp_path / "output.txt"
    more = meeting | {"GENESIS_TEST_STOP": "1"}
    processes = [start_command(watched, arguments, output, RANK=rank, LOCAL_RANK=rank, **more) for rank in "01"]
    for process in processes:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in processes] == [RESUME_STATUS] * 2, output.read_text()
    assert run.checkpoint("latest")["current_epoch"] == 1
    log, expected = run.finish()["logging"], whole["pretraining"][0]["logging"]
    for key in ("train_losses", "val_losses"):
        assert log[key] == pytest.approx(expected[key], abs=1e-5)  # see test_distributed
    print("\npretraining: SIGTERM to one task of two, both stop after the same iteration")


def test_a_signal_to_the_command_that_started_two_processes_stops_both(fresh, tmp_path):
    run, output = fresh["pretraining"], tmp_path / "output.txt"
    command = Within(pretrain, str(tmp_path))
    process = start_command(command, [*ARGUMENTS, "--batch_size", "2", "-num_gpus", "2"], output)
    while not (run.folder() / "checkpoint_latest.pth").is_file():
        assert process.is_alive(), output.read_text()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.join(300)
    process.kill()
    assert process.exitcode == RESUME_STATUS, output.read_text()
    assert run.checkpoint("latest")["current_epoch"] in range(EPOCHS)
    print("\npretraining: SIGTERM to a command of two processes, both stop after the same iteration")
