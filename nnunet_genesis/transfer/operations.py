"""Carry out moves on tensors."""

from collections.abc import Iterable, Mapping

import torch

from nnunet_genesis.transfer.matching import Move


@torch.no_grad()
def apply_moves(moves: Iterable[Move], source: Mapping[str, torch.Tensor], network: torch.nn.Module) -> None:
    """Write the source's tensors into ``network`` as ``moves`` say; everything else keeps its values."""
    parameters = dict(network.named_parameters())
    for move in moves:
        if move.source is None or move.operation == "skip":
            continue
        value, target = source[move.source], parameters[move.target]
        (target[:, : value.shape[1]] if move.operation == "image_channels" else target).copy_(value)
