"""``nnUNetv2_genesis_pretrain`` as one rank, over a backend of choice, which stops itself or meets a NaN if told to.

Environment: GENESIS_GPU_BACKEND (unset: what the command takes), GENESIS_GPU_EVENT (``stop`` or ``nan``: in the fifth
step of rank 1).
"""

import math
import os
import signal
from typing import Any

import torch.distributed as dist

from pretraining.__main__ import pretrain
from pretraining.trainer import nnUNetTrainerRestoration as Trainer


def main() -> None:
    """Run the command."""
    if backend := os.environ.get("GENESIS_GPU_BACKEND"):
        begin = dist.init_process_group
        dist.init_process_group = lambda *_, **options: begin(**{**options, "backend": backend})
    if os.environ["RANK"] == "1" and (event := os.environ.get("GENESIS_GPU_EVENT")):
        _happens(event)
    pretrain()


def _happens(event: str) -> None:
    step, calls = Trainer.train_step, []

    def train_step(trainer: Trainer, batch: dict) -> Any:
        calls.append(event)
        if len(calls) == 5:
            if event == "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                batch["data"].fill_(math.nan)
        return step(trainer, batch)

    Trainer.train_step = train_step  # type: ignore[method-assign]
