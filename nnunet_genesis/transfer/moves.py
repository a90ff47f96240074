"""What happens to one target tensor, as data that can apply itself: printable, testable."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from nnunet_genesis.transfer.network import Shape

AXES = "zyx"
Tensors = Mapping[str, torch.Tensor]


class Reason(enum.Enum):
    """Why a tensor keeps its initialisation."""

    HEAD = enum.auto()
    PART = enum.auto()
    KIND = enum.auto()
    RESOLUTION = enum.auto()
    MISSING = enum.auto()
    SHAPE = enum.auto()
    WIDTH = enum.auto()  # or number of blocks: partial widths would take the leading ones


class Step:
    """How a source tensor is adapted; in float32 for floating-point tensors."""

    def apply(self, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
        """Return the adapted tensor.

        Args:
            value: the source tensor after the steps before.
            target: what the target was initialised with.
            source: all of the source's tensors.
        """
        raise NotImplementedError

    def placed(self, elements: int, shape: Shape) -> int:
        """Return how many of the target's ``elements`` (of ``shape``) still come from the source after this step."""
        return elements


@dataclass(frozen=True)
class Permute(Step):
    """Reorder the three spatial axes of a kernel; ``order[i]`` is the source axis that becomes axis i."""

    order: tuple[int, ...]

    def __str__(self) -> str:
        return f"axes reordered {self.order}"

    def apply(self, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
        return value.permute(0, 1, *(2 + axis for axis in self.order))


@dataclass(frozen=True)
class Kernel(Step):
    """Change a kernel's length along one spatial axis (0 to 2).

    ``sum`` (3 → 1) and ``centre`` (1 → 3) are for convolutions, ``mean`` (2 → 1) and ``repeat`` (1 → 2) for transposed
    convolutions, whose kernel equals their stride, so that each output voxel sees one tap. ``sum`` is exact for input
    that is constant along the axis, ``mean`` gives the mean over the outputs of one input voxel; ``centre`` and
    ``repeat`` are exact for any input (``repeat``: the output is the former one, each voxel twice).
    """

    axis: int
    size: int
    how: str

    def __str__(self) -> str:
        verb = {"sum": "summed to", "centre": "centred in", "mean": "averaged to", "repeat": "repeated to"}[self.how]
        return f"kernel {verb} {self.size} along {AXES[self.axis]}"

    def apply(self, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
        dimension = 2 + self.axis
        if self.how == "repeat":
            return value.repeat_interleave(self.size, dimension)
        if self.how == "centre":
            wide = value.new_zeros([*value.shape[:dimension], self.size, *value.shape[dimension + 1 :]])
            wide.select(dimension, self.size // 2).copy_(value.select(dimension, 0))
            return wide
        return (torch.sum if self.how == "sum" else torch.mean)(value, dimension, keepdim=True)


@dataclass(frozen=True)
class Mix(Step):
    """Mix input channels: target channel d gets ``sum_c matrix[d][c] · source channel c``.

    A row of zeros keeps the target's own initialisation.
    """

    matrix: tuple[tuple[float, ...], ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def apply(self, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
        matrix = value.new_tensor(self.matrix)
        mixed = torch.einsum("oc...,dc->od...", value, matrix)
        untouched = ~matrix.any(1)
        if untouched.any():
            rows = min(len(value), len(target))
            mixed[:rows, untouched] = target[:rows, untouched]
        return mixed

    def placed(self, elements: int, shape: Shape) -> int:
        return elements // shape[1] * sum(map(any, self.matrix))


@dataclass(frozen=True)
class Offset(Step):
    """Let a convolution's bias take up a constant that its input lacks: add ``sum(weight[:, c]) · offsets[c]``."""

    weight: str
    offsets: tuple[float, ...]

    def __str__(self) -> str:
        return "intensity offset folded in"

    def apply(self, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
        weight = source[self.weight].float()
        return value + weight.sum(dim=(2, 3, 4)) @ weight.new_tensor(self.offsets)


@dataclass(frozen=True)
class Narrow(Step):
    """Take the leading output channels and, in each segment of the input channels, the leading ones.

    Every transferred output channel is rescaled, with what the target initialised beside it, to the L2 norm it had:
    for uncorrelated inputs of equal variance that keeps the variance of the activations.

    Attributes:
        outputs: number of output channels that are transferred.
        segments: ``(source, target)`` sizes of the consecutive parts of the input (a decoder's first convolution sees
            the up-sampled map, then the skip). Empty for vectors (biases, norms).
        transposed: of a transposed convolution, (in, out, …).
    """

    outputs: int
    segments: tuple[tuple[int, int], ...] = ()
    transposed: bool = False

    def __str__(self) -> str:
        return "leading channels, rescaled" if self.segments else "leading channels"

    def apply(self, value: torch.Tensor, target: torch.Tensor, source: Tensors) -> torch.Tensor:
        result = target.clone()
        if not self.segments:
            result[: self.outputs] = value[: self.outputs]
            return result
        if self.transposed:  # (in, out, …) to (out, in, …), and back at the end
            value, result = value.transpose(0, 1), result.transpose(0, 1)
        value, rows = value[: self.outputs], result[: self.outputs]
        start, begin = 0, 0
        for origin, here in self.segments:
            size = min(origin, here)
            rows[:, begin : begin + size] = value[:, start : start + size]
            start, begin = start + origin, begin + here
        norm, former = rows.flatten(1).norm(dim=1), value.flatten(1).norm(dim=1)
        rows.mul_((former / norm.clamp_min(1e-12)).reshape(-1, *[1] * (rows.ndim - 1)))
        return result.transpose(0, 1) if self.transposed else result

    def placed(self, elements: int, shape: Shape) -> int:
        out, into = (1, 0) if self.transposed else (0, 1)
        elements = elements // shape[out] * self.outputs
        return elements // shape[into] * sum(map(min, self.segments)) if self.segments else elements


@dataclass(frozen=True)
class Move:
    """What happens to one target tensor.

    Attributes:
        target: its name in the target network.
        shape: its shape.
        source: name of the source tensor; ``None`` if the target keeps its initialisation.
        steps: how the source tensor is adapted, in order; empty for a plain copy.
        placed: number of the target's elements that come from the source.
        reason: why it is skipped, in words.
        cause: the same, to act upon.
    """

    target: str
    shape: Shape
    source: str | None = None
    steps: tuple[Step, ...] = ()
    placed: int = 0
    reason: str = ""
    cause: Reason | None = None

    @property
    def operation(self) -> str:
        """Return ``copy``, ``adapt`` or ``skip``."""
        return "skip" if self.source is None else "adapt" if self.steps else "copy"

    @property
    def part(self) -> str:
        """See :func:`part_of`."""
        return part_of(self.target)

    def adapt(self, source: Tensors, target: torch.Tensor) -> torch.Tensor:
        """Return the target's new value: the source tensor after the steps, in float32 for floating-point tensors."""
        assert self.source is not None
        value = source[self.source]
        if value.is_floating_point():
            value, target = value.float(), target.detach().float().to(value.device)
        for step in self.steps:
            value = step.apply(value, target, source)
        return value


def part_of(name: str) -> str:
    """Return ``encoder``, ``decoder`` or ``head`` for nnU-Net's name of a parameter."""
    return "head" if ".seg_layers." in name else name.split(".", 1)[0]


@torch.no_grad()
def apply_moves(moves: Iterable[Move], source: Tensors, network: torch.nn.Module) -> None:
    """Write the source's tensors into ``network`` as ``moves`` say; everything else keeps its values.

    All values are computed before the first is written: an error leaves the network as it was.
    """
    targets = dict(network.named_parameters())
    values = {move.target: move.adapt(source, targets[move.target]) for move in moves if move.source is not None}
    for name, value in values.items():
        targets[name].copy_(value)
