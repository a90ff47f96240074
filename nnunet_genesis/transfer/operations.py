"""Carry out moves on tensors."""

from collections.abc import Iterable, Mapping
from functools import singledispatch

import torch

from nnunet_genesis.transfer.matching import Move
from nnunet_genesis.transfer.steps import Kernel, Mix, Narrow, Offset, Permute, Step

Tensors = Mapping[str, torch.Tensor]


@torch.no_grad()
def apply_moves(moves: Iterable[Move], source: Tensors, network: torch.nn.Module) -> None:
    """Write the source's tensors into ``network`` as ``moves`` say; everything else keeps its values.

    All values are computed before the first is written: an error leaves the network as it was.
    """
    targets = dict(network.named_parameters())
    values = {move.target: adapt(move, source, targets[move.target]) for move in moves if move.source is not None}
    for name, value in values.items():
        targets[name].copy_(value)


def adapt(move: Move, source: Tensors, target: torch.Tensor) -> torch.Tensor:
    """The target's new value: the source tensor after the move's steps, in float32 for floating-point tensors."""
    assert move.source is not None
    value = source[move.source]
    if value.is_floating_point():
        value, target = value.float(), target.detach().float().to(value.device)
    for step in move.steps:
        value = _apply(step, value, target, source)
    return value


@singledispatch
def _apply(step: Step, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
    raise TypeError(f"no such step: {step!r}")


@_apply.register
def _(step: Permute, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
    return value.permute(0, 1, *(2 + axis for axis in step.order))


@_apply.register
def _(step: Kernel, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
    dimension = 2 + step.axis
    if step.how == "repeat":
        return value.repeat_interleave(step.size, dimension)
    if step.how == "centre":
        wide = value.new_zeros([*value.shape[:dimension], step.size, *value.shape[dimension + 1 :]])
        wide.select(dimension, step.size // 2).copy_(value.select(dimension, 0))
        return wide
    return (torch.sum if step.how == "sum" else torch.mean)(value, dimension, keepdim=True)


@_apply.register
def _(step: Mix, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
    matrix = value.new_tensor(step.matrix)
    mixed = torch.einsum("oc...,dc->od...", value, matrix)
    untouched = ~matrix.any(1)
    if untouched.any():
        rows = min(len(value), len(target))
        mixed[:rows, untouched] = target[:rows, untouched]
    return mixed


@_apply.register
def _(step: Offset, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
    weight = source[step.weight].float()
    return value + weight.sum(dim=(2, 3, 4)) @ weight.new_tensor(step.offsets)


@_apply.register
def _(step: Narrow, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
    result = target.clone()
    if not step.segments:
        result[: step.outputs] = value[: step.outputs]
        return result
    if step.transposed:  # (in, out, …) to (out, in, …), and back at the end
        value, result = value.transpose(0, 1), result.transpose(0, 1)
    value, rows = value[: step.outputs], result[: step.outputs]
    start, begin = 0, 0
    for origin, here in step.segments:
        size = min(origin, here)
        rows[:, begin : begin + size] = value[:, start : start + size]
        start, begin = start + origin, begin + here
    norm, former = rows.flatten(1).norm(dim=1), value.flatten(1).norm(dim=1)
    rows.mul_((former / norm.clamp_min(1e-12)).reshape(-1, *[1] * (rows.ndim - 1)))
    return result.transpose(0, 1) if step.transposed else result
