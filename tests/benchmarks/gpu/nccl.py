"""NCCL with one process: DDP around both trainers' networks."""

import math
import os

import torch
import torch.distributed as dist
from nnunetv2.run.run_training import find_free_network_port

from nnunet_genesis.trainer import nnUNetTrainerGenesisScratch
from tests.benchmarks.gpu.part import NotAvailable, Part
from tests.benchmarks.gpu.plans import SMALL
from tests.benchmarks.gpu.trainers import finetuner, pretrainer, some_batches


def main(part: Part) -> None:
    """Report a row a trainer.

    Raises:
        RuntimeError: a loss isn't finite.
    """
    if not part.on_gpu:
        raise NotAvailable("NCCL needs a GPU")
    torch.cuda.set_device(0)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(find_free_network_port()))
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1)
    for what, trainer in (
        ("pretraining", pretrainer(part, dataset=SMALL)),
        ("fine-tuning", finetuner(part, nnUNetTrainerGenesisScratch, dataset=SMALL)),
    ):
        losses = [float(trainer.train_step(batch)["loss"]) for batch in some_batches(trainer, 2) * 5]
        part.row(f"{what} over NCCL, one process", losses=[round(losses[0], 4), round(losses[-1], 4)])
        if not all(map(math.isfinite, losses)):
            raise RuntimeError(f"{what} over NCCL: losses {losses}")
    dist.destroy_process_group()
