"""Several processes, started as torchrun and srun start them, on one "machine" and on two: the run of one process.

Everything runs on CPUs over gloo. Two "machines" are two torchrun agents that meet on 127.0.0.1.
"""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import find_free_network_port

from nnunet_genesis.errors import GenesisError
from pretraining.run import pretrain
from tests.integration.distributed_rank import watched
from tests.integration.warm_processes import start_command

CPU = torch.device("cpu")
EPOCHS, ITERATIONS, RATE = 2, 3, 1e-3
BATCH = 5  # doesn't divide evenly over 2 or 4
OPTIONS = {"epochs": EPOCHS, "iterations": ITERATIONS, "batch_size": BATCH, "peak_lr": RATE, "precision": "fp32"}
FLAGS = f"-device cpu --epochs {EPOCHS} --iterations {ITERATIONS} --batch_size {BATCH} --lr {RATE} --precision fp32"
ARGUMENTS = ["701", "3d_fullres", *FLAGS.split()]
RANK = ["-m", "tests.integration.distributed_rank", *ARGUMENTS]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def one_process(world) -> dict[str, Any]:
    """The checkpoint of the same run in one process."""
    return torch.load(pretrain("701", "3d_fullres", device=CPU, **OPTIONS), weights_only=True)


@pytest.fixture
def results(world, tmp_path, monkeypatch) -> Path:
    """An empty results folder for the processes that a test starts."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path


def run_all(commands: list[list[str]], environments: list[dict[str, str]]) -> tuple[list[int], str]:
    """Run at the same time; exit statuses and what all of them printed."""
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for command, more in zip(commands, environments, strict=True)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.terminate()  # a torchrun agent ends its processes
    return [process.returncode for process in processes], "\n".join(outputs)


def run_tasks_of_srun(folder: Path, *more: dict[str, str]) -> tuple[list[int | None], str]:
    """Processes that are started as srun starts them, and by nothing else."""
    meeting = {"SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(find_free_network_port()), "SLURM_STEP_ID": "0"}
    meeting["SLURM_STEP_NUM_TASKS"] = str(len(more))
    output = folder / "output.txt"
    tasks = [
        start_command(watched, ARGUMENTS, output, **meeting, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **own)
        for rank, own in enumerate(more)
    ]
    for task in tasks:
        task.join(600)
        task.kill()
    return [task.exitcode for task in tasks], output.read_text()


def assert_same_curve(results: Path, expected: dict[str, Any]) -> None:
    """The losses agree within what float32 rounding can explain.

    Patches, initial weights and each patch's forward pass are the same; sums over a batch of n voxels are rounded in
    another order, which changes a gradient by about √n·2⁻²⁴ of itself. AdamW moves each of P weights by at most the
    learning rate η; where its gradient gᵢ changes by δᵢ, its step changes by at most η·δᵢ/|gᵢ|, and the loss by
    η·Σδᵢ ≤ η·√P·|δ|. Clipping keeps |g| ≤ 1, so T steps change the loss by at most about T·η·√(P·n)·2⁻²⁴. R² divides
    the loss by the target's variance, here above 0.01.
    """
    (file,) = results.glob("*/*/fold_0/checkpoint_final.pth")
    found = torch.load(file, weights_only=True)["logging"]
    weights = sum({value.data_ptr(): value.numel() for value in expected["network_weights"].values()}.values())
    tolerance = EPOCHS * ITERATIONS * RATE * math.sqrt(weights * BATCH * 16 * 24 * 24) * 2**-24
    assert tolerance < 2e-5  # another seed changes these losses by 1e-3 to 1e-2
    for key, times in (("train_losses", 1), ("val_losses", 1), ("r2", 100), ("r2_shuffling", 100), ("ssim", 100)):
        assert found[key] == pytest.approx(expected["logging"][key], abs=times * tolerance), key
    assert len(found["train_losses"]) == EPOCHS
    assert len(list(file.parent.glob("progress.png"))) == 1
    assert not list(file.parent.glob("genesis_begun"))


@pytest.mark.soak  # four processes are srun's below
def test_four_processes_of_torchrun_make_the_curve_of_one(results, one_process):
    status, output = run_all([[*TORCHRUN, "--standalone", "--nproc-per-node=4", *RANK]], [{}])
    assert status == [0], output
    assert_same_curve(results, one_process)
    assert output.count("Fine-tune from it") == 1


def test_four_tasks_of_srun_make_the_curve_of_one(results, one_process):
    status, output = run_tasks_of_srun(results, {}, {}, {}, {})
    assert status == [0] * 4, output
    assert_same_curve(results, one_process)
    assert output.count("Fine-tune from it") == 1


@pytest.mark.soak  # six starts of torch, a minute of CPU
def test_two_machines_of_which_one_loses_its_process_go_on_and_make_the_curve_of_one(results, one_process, monkeypatch):
    monkeypatch.setenv("GENESIS_TEST_KILL", "1")
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    meeting = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{find_free_network_port()}"]
    machine = [*TORCHRUN, *meeting, "--local-addr=127.0.0.1", "--nproc-per-node=1", "--max-restarts=1", *RANK]
    status, output = run_all([machine, machine], [{}, {}])
    assert status == [0, 0], output
    assert "Signal 9" in output or "SIGKILL" in output or "exitcode: -9" in output
    assert output.count("Going on from") == 1
    assert_same_curve(results, one_process)


def test_where_one_machine_lacks_the_data_all_end_with_one_message(results, tmp_path):
    status, output = run_tasks_of_srun(results, {}, {"nnUNet_preprocessed": str(tmp_path / "nowhere")})
    assert 0 not in status
    assert output.count("ERROR: ") == output.count("ERROR: Data set '701'") == 1, output
    assert "Traceback" not in output


def test_an_error_of_started_processes_is_raised_here(results):
    with pytest.raises(GenesisError, match=r"Batch size 1: can't be divided over 2 processes.*--batch_size 2"):
        pretrain("701", "3d_fullres", device=CPU, num_gpus=2, **{**OPTIONS, "batch_size": 1})


def test_a_restart_of_a_run_that_was_refused_is_refused(one_process, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(GenesisError, match=r"checkpoint_final.pth: exists already.*--c"):
        pretrain("701", "3d_fullres", device=CPU, **OPTIONS)


def test_a_step_whose_gradient_is_not_finite_on_one_rank_is_skipped_on_all(results, one_process):
    status, output = run_tasks_of_srun(results, *[{"GENESIS_TEST_NAN": "1"}] * 2)
    assert status == [0, 0], output
    assert output.count("WARNING: 1 of 3 steps skipped") == EPOCHS, output
    (file,) = results.glob("*/*/fold_0/checkpoint_final.pth")
    losses = torch.load(file, weights_only=True)["logging"]["train_losses"]
    assert losses == pytest.approx(one_process["logging"]["train_losses"], abs=0.05)


def test_num_gpus_is_refused_under_torchrun(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GenesisError, match=r"-num_gpus 2: 2 processes were started.*Leave -num_gpus out"):
        pretrain("701", "3d_fullres", device=CPU, num_gpus=2)


def test_restarts_that_would_hang_are_refused(monkeypatch):
    restarting = {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", **restarting}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GenesisError, match=r"--max-restarts=3.*export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        pretrain("701", "3d_fullres", device=CPU)
