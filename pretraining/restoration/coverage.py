"""How many shuffling windows a patch needs to be covered as the published 64×64×32 crop is by 10,000."""

from functools import lru_cache

import numpy as np

REFERENCE_SHAPE = (64, 64, 32)
REFERENCE_WINDOWS = 10_000


def largest_edge(size: int) -> int:
    """The longest edge of a window on an axis of ``size`` voxels; the shortest is 1."""
    return max(1, size // 10)


def expected_coverage(shape: tuple[int, ...], windows: int) -> float:
    """Expected share of voxels in at least one of the windows: 1 - mean over voxels v of (1 - p_v)^windows.

    A window covers voxel v with p_v, the product of its axes' `_hit_probability`.
    """
    missed, weight = _miss_probabilities(shape)
    return float(1 - weight @ missed**windows)


@lru_cache(maxsize=64)
def window_count(shape: tuple[int, ...]) -> int:
    """The smallest number of windows with at least the reference crop's expected coverage, 81.9 %."""
    wanted = expected_coverage(REFERENCE_SHAPE, REFERENCE_WINDOWS)
    low, high = 0, 1
    while expected_coverage(shape, high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if expected_coverage(shape, middle) < wanted else (low, middle)
    return high


@lru_cache(maxsize=64)
def _miss_probabilities(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct 1 - p_v and the share of voxels that have each: few, as most voxels are far from a border."""
    hit, weight = np.ones(1), np.ones(1)
    for size in shape:
        values, counts = np.unique(_hit_probability(size), return_counts=True)
        hit = np.outer(hit, values).ravel()
        weight = np.outer(weight, counts / size).ravel()
    return 1 - hit, weight


def _hit_probability(size: int) -> np.ndarray:
    """Per voxel of an axis: mean over edges e of P(a window [s, s+e), s uniform on 0 … size-e, covers it)."""
    voxel = np.arange(size)
    edges = range(1, largest_edge(size) + 1)
    starts = [np.minimum(voxel, size - e) - np.maximum(0, voxel - e + 1) + 1 for e in edges]
    return np.mean([count / (size - e + 1) for count, e in zip(starts, edges, strict=True)], axis=0)
