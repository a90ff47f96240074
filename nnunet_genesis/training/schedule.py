"""Learning rate: linear warm-up, then nnU-Net's polynomial decay or a cosine."""

import math

import torch
from nnunetv2.training.lr_scheduler.warmup import PolyLRScheduler_offset


def default_warmup(epochs: int) -> int:
    """Give the epochs of warm-up for a run of ``epochs``: 50, or a tenth of runs shorter than 500."""
    return min(50, round(0.1 * epochs))


class WarmupPolyLRScheduler(PolyLRScheduler_offset):
    """Rise linearly from ``peak_lr / warmup`` to ``peak_lr`` in ``warmup`` steps, then ``peak_lr · (1 − t)^0.9``."""

    def __init__(self, optimizer: torch.optim.Optimizer, peak_lr: float, max_steps: int, warmup: int):
        # A warm-up as long as the run would divide by zero in the decay that never comes.
        super().__init__(optimizer, peak_lr, max(max_steps, warmup + 1), warmup)

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of epoch ``current_step`` (default: the next one)."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        if current_step >= self.start_step:
            super().step(current_step)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial_lr * (current_step + 1) / self.start_step


class WarmupCosineLRScheduler(WarmupPolyLRScheduler):
    """The same warm-up, then half a cosine from ``peak_lr`` towards 0."""

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of epoch ``current_step`` (default: the next one)."""
        super().step(current_step)
        epoch = self.ctr - 1 if current_step is None or current_step == -1 else current_step
        if epoch >= self.start_step:
            done = (epoch - self.start_step) / self.max_steps
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 + math.cos(math.pi * done)) / 2
