"""Several processes, which ``torchrun``, ``srun`` or ``-num_gpus`` started: who this one is, and how all agree."""

import contextlib
import gc
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from nnunet_genesis.errors import GenesisError

Value = TypeVar("Value")


def use_srun() -> None:
    """Translate the variables of srun's tasks to torchrun's, unless torchrun runs within srun.

    They meet on the step's first machine, at a port that follows from the step's number, unless MASTER_ADDR and
    MASTER_PORT say otherwise.
    """
    # Not SLURM_NTASKS: a batch script has that too, and there it runs once.
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in os.environ or tasks == "1":
        return
    # srun can give each task a GPU that the others don't see.
    local = "0" if torch.cuda.device_count() == 1 else os.environ["SLURM_LOCALID"]
    os.environ.update(RANK=os.environ["SLURM_PROCID"], LOCAL_RANK=local, WORLD_SIZE=tasks)
    first = re.sub(r"\[(\d+)[^]]*]", r"\1", os.environ["SLURM_STEP_NODELIST"]).split(",")[0]  # of gpu[03-05,7],cpu1
    step = 7 * int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
    os.environ.setdefault("MASTER_ADDR", first)
    os.environ.setdefault("MASTER_PORT", str(15000 + step % 15000))  # below what systems give to anybody


def world_size() -> int:
    """Count the processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Number this process among all; 0 writes."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_gpu() -> int:
    """Number this process' GPU on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world_size() > 1 else 0


def check_gpus(device: torch.device, needed: int = 1) -> None:
    """Raise GenesisError if the device is a GPU, and this machine hasn't as many as are needed."""
    if device.type == "cuda" and (found := torch.cuda.device_count()) < needed:
        fewer = ", or fewer processes (-num_gpus, torchrun's --nproc-per-node)" if needed > 1 else ""
        raise GenesisError(
            f"-device cuda: {platform.node()} would need {needed} GPU(s), found {found} GPU(s). Use -device cpu{fewer}."
        )


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes, if there are any: over gloo, and on GPUs NCCL for what lies there.

    Raises:
        GenesisError: torchrun is to restart processes, and they would not find each other then.
    """
    if world_size() == 1:
        yield
        return
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # Restarted ranks would read the addresses of dead ones there: pytorch issue 135712, still so in 2.14.
        raise GenesisError(
            f"torchrun --max-restarts={restarts}: restarted processes often hang with the store that torchrun shares "
            "with them. On each machine: export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, and give torchrun --standalone "
            "(one machine) or --rdzv-backend=c10d."
        )
    gpu = device.type == "cuda" and local_gpu() < torch.cuda.device_count()
    if gpu:
        torch.cuda.set_device(local_gpu())
    # An hour: rank 0 may measure thousands of scans while the others wait.
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(hours=1))
    try:
        yield
    finally:
        dist.destroy_process_group()
        # The trainer's reference cycles keep gloo's threads alive; now and then one aborts Python as it ends.
        gc.collect()


def gather(value: Value) -> list[Value]:
    """Gather the values of all ranks, in their order."""
    if not dist.is_initialized():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def together(work: Callable[[], Value]) -> Value:
    """Do ``work``, which must not communicate, on all ranks.

    Raises:
        GenesisError: it failed on any rank; the same on all, so that none waits for one that has ended.
    """
    try:
        result, error = work(), None
    except GenesisError as raised:
        error = str(raised)
    if first := next(filter(None, gather(error)), None):
        raise GenesisError(first)
    return result


def run_on_rank_0(work: Callable[[], Value]) -> Value:
    """Do ``work``, which may write files, on rank 0 only; give its result, or its GenesisError, to all ranks."""
    return gather(together(work if rank() == 0 else lambda: None))[0]  # type: ignore[return-value]


@contextlib.contextmanager
def rank_0_speaks() -> Iterator[None]:
    """Let a GenesisError, which all ranks raise, through on rank 0; the others end with status 1, without a word."""
    try:
        yield
    except GenesisError:
        if rank() == 0:
            raise
        time.sleep(1)  # torchrun ends all where one has ended: rank 0 must have said why
        sys.exit(1)
