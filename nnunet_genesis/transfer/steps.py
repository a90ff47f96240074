"""The operations that adapt one source tensor to one target tensor, as data: printable, testable, no tensors."""

from dataclasses import dataclass

AXES = "zyx"


@dataclass(frozen=True)
class Permute:
    """Reorder the three spatial axes of a kernel; ``order[i]`` is the source axis that becomes axis i."""

    order: tuple[int, ...]

    def __str__(self) -> str:
        return f"axes reordered {self.order}"


@dataclass(frozen=True)
class Kernel:
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


@dataclass(frozen=True)
class Mix:
    """Input channels: target channel d gets ``sum_c matrix[d][c] · source channel c``.

    A row of zeros keeps the target's own initialisation.
    """

    matrix: tuple[tuple[float, ...], ...]
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Offset:
    """A convolution's bias takes up a constant that its input lacks: adds ``sum(weight[:, c]) · offsets[c]``."""

    weight: str
    offsets: tuple[float, ...]

    def __str__(self) -> str:
        return "intensity offset folded in"


@dataclass(frozen=True)
class Narrow:
    """The leading output channels and, in each segment of the input channels, the leading ones.

    Every transferred output channel is rescaled, with what the target initialised beside it, to the L2 norm it had:
    for uncorrelated inputs of equal variance that keeps the variance of the activations.

    Attributes:
        outputs: number of output channels that are transferred.
        segments: ``(source, target)`` sizes of the consecutive parts of the input (a decoder's first convolution sees
            the up-sampled map, then the skip). Empty for vectors (biases, norms).
    """

    outputs: int
    segments: tuple[tuple[int, int], ...] = ()
    transposed: bool = False

    def __str__(self) -> str:
        return "leading channels, rescaled" if self.segments else "leading channels"


Step = Permute | Kernel | Mix | Offset | Narrow
