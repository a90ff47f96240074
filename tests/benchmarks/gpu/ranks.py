"""Two processes on one GPU over gloo (NCCL refuses that) beside one process; ``ranks:nccl`` on two GPUs.

Both ranks stop where one gets SIGTERM, and a NaN on one rank in fp16 is left out by both.
"""

import math

import torch
from nnunetv2.run.run_training import find_free_network_port

from tests.benchmarks.gpu.commands import (
    PRETRAIN,
    RANK,
    RESUME_STATUS,
    TRAIN,
    Command,
    pretraining_arguments,
    require_close,
)
from tests.benchmarks.gpu.part import NotAvailable, Part
from tests.benchmarks.gpu.plans import CONFIGURATION


def main(part: Part) -> None:
    """Report a row a question."""
    nccl = part.argument == "nccl"
    if nccl and torch.cuda.device_count() < 2:
        raise NotAvailable(f"{torch.cuda.device_count()} GPU(s)")
    single = Command(part, f"single-{part.argument}", PRETRAIN, pretraining_arguments(part))
    two = _ranks(part, "two", pretraining_arguments(part), nccl)
    stop = _ranks(part, "stop", pretraining_arguments(part), nccl, GENESIS_GPU_EVENT="stop")
    half = "fp16" if part.on_gpu else "fp32"
    nan = _ranks(part, "nan", pretraining_arguments(part, precision=half), nccl, GENESIS_GPU_EVENT="nan")
    single.finish()
    _finish(two)
    require_close(part, "two processes beside one", two[0].logged(), single.logged())
    _finish(stop, RESUME_STATUS)
    part.row("SIGTERM to one of two processes: both end with status 75")
    _finish(nan)
    losses = nan[0].logged()["train_losses"]
    part.row(f"NaN on one of two processes, {half}", losses=[round(loss, 5) for loss in losses])
    if not all(map(math.isfinite, losses)):
        raise RuntimeError(f"NaN on one of two processes, {half}: logged losses {losses}")
    if nccl:
        _nnunets_own(part)


def _ranks(part: Part, name: str, arguments: list[str], nccl: bool, **env: str) -> list[Command]:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "WORLD_SIZE": "2"}
    if not nccl:
        meeting |= {"GENESIS_GPU_BACKEND": "gloo", "GLOO_SOCKET_IFNAME": "lo"}
    names = [f"{name}-{part.argument}-{rank}" for rank in range(2)]
    return [
        Command(
            part, one, RANK, arguments, results=names[0], RANK=str(rank), LOCAL_RANK=str(rank * nccl), **meeting, **env
        )
        for rank, one in enumerate(names)
    ]


def _finish(commands: list[Command], status: int = 0) -> None:
    for command in commands:
        command.finish(status)


def _nnunets_own(part: Part) -> None:
    """``nnUNetv2_train -num_gpus 2`` with our trainer, and ``pretrain -num_gpus 2``."""
    settings = {"nnUNet_genesis_epochs": "2", "nnUNet_genesis_iterations": "10"}
    tuned = ["702", CONFIGURATION, "0", "-tr", "nnUNetTrainerGenesisScratch", "-num_gpus", "2"]
    for name, entry, arguments in (
        ("spawned-pretraining", PRETRAIN, pretraining_arguments(part, "-num_gpus", "2")),
        ("spawned-fine-tuning", TRAIN, tuned),
    ):
        Command(part, name, entry, arguments, **settings).finish()
        part.row(f"-num_gpus 2: {name}")
