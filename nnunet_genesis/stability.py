"""Losses and gradients that are no numbers: such steps are left out, and a run of nothing else is stopped."""

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from nnunet_genesis.errors import GenesisError

MOST_IN_A_ROW = 10


def longest_run(flags: Sequence[bool]) -> int:
    """Length of the longest run of ``True``."""
    return max((len(list(run)) for flag, run in itertools.groupby(flags) if flag), default=0)


def skip_unless_finite(optimizer: torch.optim.Optimizer) -> bool:
    """Drop gradients that hold NaN or infinity, so that a step changes nothing; whether there were any."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients or torch.isfinite(nn.utils.get_total_norm(gradients)):
        return False
    optimizer.zero_grad(set_to_none=True)
    return True


def require_finite(network: nn.Module, checkpoint: str, advice: str) -> None:
    """Refuse to save a network with NaN or infinity in it.

    Raises:
        GenesisError: it has.
    """
    tensors = [*network.parameters(), *network.buffers()]
    if not torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all():
        raise GenesisError(
            f"{checkpoint}: not written: weights have become NaN or infinite. The training has diverged. {advice}"
        )
