"""Who a process is among several, from what srun and torchrun set."""

import os

import pytest
import torch

from nnunet_genesis.training.distributed import local_gpu, rank, use_srun, world_size

OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def task(monkeypatch):
    """Sets what srun tells a task; nothing else is set, and what is set in between goes with the test."""

    def task(nodes: str = "n1", gpus: int = 0, local: int = 1, **more: str) -> None:
        for name in OURS:
            monkeypatch.setenv(name, "0")
            monkeypatch.delenv(name)
        slurm = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": str(local), "SLURM_JOB_ID": "4711"}
        for name, value in {**slurm, "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": nodes, **more}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    return task


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu[03-05,09],cpu1", "gpu03"),
        ("a1,a2", "a1"),
        ("rack[1-2]-gpu[010-020].hpc", "rack1-gpu010.hpc"),
    ],
)
def test_tasks_of_srun_meet_on_the_first_machine(task, nodes, first):
    task(nodes)
    use_srun()
    assert (rank(), world_size(), os.environ["MASTER_ADDR"]) == (3, 4, first)
    assert 15000 <= int(os.environ["MASTER_PORT"]) < 30000


def test_a_meeting_place_that_is_given_is_kept_and_steps_differ(task):
    ports = set()
    for step in "0123":
        task(SLURM_STEP_ID=step)
        use_srun()
        ports.add(os.environ["MASTER_PORT"])
    assert len(ports) == 4
    task(MASTER_ADDR="here", MASTER_PORT="29500")
    use_srun()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("here", "29500")


@pytest.mark.parametrize(("gpus", "chosen"), [(0, 1), (1, 0), (2, 1)])
def test_a_task_that_sees_one_gpu_takes_it(task, gpus, chosen):
    task(gpus=gpus)
    use_srun()
    assert local_gpu() == chosen


def test_torchrun_in_an_interactive_shell_of_slurm_gives_each_process_its_gpu(task):
    task(gpus=1, SLURM_STEP_NUM_TASKS="1", SLURM_PROCID="0", RANK="1", LOCAL_RANK="1", WORLD_SIZE="2")
    use_srun()
    assert local_gpu() == 1  # of one: refused, instead of two processes on GPU 0
