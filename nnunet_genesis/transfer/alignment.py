"""Which stage of the pretrained network plays the part of which stage of the target."""

import functools
from collections.abc import Sequence

import numpy as np

Vector = Sequence[float]

TOLERANCE = 0.5  # octaves: what is called the same resolution


def resolutions(strides: Sequence[Sequence[int]], spacing: Vector | None = None) -> list[list[float]]:
    """Return each stage's voxel size, one number an axis: the cumulative stride, times the spacing (mm) where given."""
    return (np.cumprod(strides, axis=0, dtype=float) * (spacing or [1.0] * 3)).tolist()


def align(source: Sequence[Vector], target: Sequence[Vector]) -> list[int | None]:
    """Find for every target stage the source stage of the same resolution, from full resolution down.

    The first stages see the image and always belong together. So what is compared is the resolution relative to the
    finest axis of the image: in mm it tells thick slices from thin ones, but two networks whose voxels are 0.7 and
    1.5 mm wide are aligned as they are (stage by stage, as their widths are) and not by one stage apart.

    Two stages can be paired if they have the same resolution along one axis at least: along the others, thick slices
    are halved later. As many stages as possible are paired, in order; among the ways to do so, the one with the
    smallest sum of distances.

    Args:
        source: :func:`resolutions` of the pretrained network; both in mm, or both in voxels.
        target: those of the target.

    Returns:
        A source index per target stage, or ``None`` where the target keeps its initialisation.
    """
    one, other = (np.asarray(stages) / np.min(stages[0]) for stages in (target, source))
    octaves = np.abs(np.log2(one[:, None] / other))

    @functools.cache
    def best(i: int, j: int) -> tuple[int, float, tuple[int | None, ...]]:
        """Find the fewest unpaired target stages, then least distance, for the target from i and the source from j."""
        if i == len(target):
            return 0, 0.0, ()
        unpaired, cost, rest = best(i + 1, j)
        options = [(unpaired + 1, cost, (None, *rest))]
        for partner in range(j, len(source)):
            if min(octaves[i][partner]) < TOLERANCE:
                unpaired, cost, rest = best(i + 1, partner + 1)
                options.append((unpaired, cost + sum(octaves[i][partner]), (partner, *rest)))
        return min(options, key=lambda option: option[:2])

    return [0, *best(1, 1)[2]]
