"""Local shuffling: permute the voxels inside thousands of small windows.

The loops are compiled by numba: a 128³ patch has four million voxels in fifteen thousand windows. Vectorised (a sort of
random keys within each window) that took four to five times as long; docs/pretraining.md has the figures.
"""

from bisect import bisect_left
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from pretraining.restoration.corruption import Boxes, Corruption, U, compiled, draw_seed, for_loops, in_three_axes

REFERENCE_SHAPE = (64, 64, 32)
REFERENCE_WINDOWS = 10_000
# Knuth's linear congruential generator modulo 2⁶⁴ (MMIX), of which the upper 32 bits are used.
MULTIPLIER, INCREMENT = U(6364136223846793005), U(1442695040888963407)


class LocalShuffling(Corruption):
    """Permute the voxels inside random windows, which the channels share (Zhou et al. 2021, section 3.2).

    Each window permutes the *uncorrupted* image and overwrites earlier windows, so shuffles never compound. Edges are
    uniform on 1 … dim//10 (at least 1), positions uniform over all that fit. The number of windows keeps the expected
    coverage of 10,000 on 64×64×32 (81.9 %) for every shape. Axes below 20 voxels have edges of 1: a patch that has
    only such axes is left as it is.
    """

    def sample(self, rng: np.random.Generator, channels: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """``starts`` and ``edges``, int64 (windows, D), later windows on top, and the permutations' ``seed``."""
        longest = np.array([largest_edge(n) for n in shape])
        # Scaled doubles: integers() with an array of bounds takes ten times as long, and the bias is below 1e-13.
        uniform = rng.random((2, window_count(shape), len(shape)))
        edges = (uniform[0] * longest).astype(np.int64) + 1
        starts = (uniform[1] * (np.array(shape) + 1 - edges)).astype(np.int64)
        return {"starts": starts, "edges": edges, "seed": draw_seed(rng)}

    def _apply_to_image(
        self, img: torch.Tensor, *, starts: np.ndarray, edges: np.ndarray, seed: int, inside: Boxes | None = None
    ) -> torch.Tensor:
        image, loops = for_loops(img, inside)
        windows = np.stack([in_three_axes(starts, fill=0), in_three_axes(edges, fill=1)], axis=1)
        steps = permute_windows(image.shape[1:], windows, window_seeds(seed, len(starts)), loops)
        out = np.empty_like(image)
        for channel, shuffled in zip(image, out, strict=True):
            gather(channel, shuffled, steps, loops)
        return torch.from_numpy(out).reshape(img.shape)


def window_seeds(seed: int, windows: int) -> np.ndarray:
    """Draw where the windows' own generators begin, uint64 (windows,)."""
    return np.random.default_rng(seed).integers(2**64, size=windows, dtype=np.uint64)


def largest_edge(size: int) -> int:
    """Give the longest edge of a window on an axis of ``size`` voxels; the shortest is 1."""
    return max(1, size // 10)


def expected_coverage(shape: tuple[int, ...], windows: int) -> float:
    """Compute the expected share of voxels in at least one of the windows: 1 - mean over voxels v of (1 - p_v)^windows.

    A window covers voxel v with p_v, the product of its axes' `_hit_probability`.
    """
    missed, weight = _miss_probabilities(shape)
    return float(1 - weight @ missed**windows)


@lru_cache(maxsize=64)
def window_count(shape: tuple[int, ...]) -> int:
    """Find the smallest number of windows with at least the reference crop's expected coverage, 81.9 %."""
    wanted = expected_coverage(REFERENCE_SHAPE, REFERENCE_WINDOWS)
    return bisect_left(range(2**40), wanted, lo=1, key=lambda windows: expected_coverage(shape, windows))


@lru_cache(maxsize=64)
def _miss_probabilities(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Give the distinct 1 - p_v and the share of voxels that have each: few, most being far from a border."""
    hit, weight = np.ones(1), np.ones(1)
    for size in shape:
        values, counts = np.unique(_hit_probability(size), return_counts=True)
        hit = np.outer(hit, values).ravel()
        weight = np.outer(weight, counts / size).ravel()
    return 1 - hit, weight


def _hit_probability(size: int) -> np.ndarray:
    """Give per voxel of an axis the mean over edges e of P(a window [s, s+e), s uniform on 0 … size-e, covers it)."""
    voxel = np.arange(size)
    edges = range(1, largest_edge(size) + 1)
    starts = [np.minimum(voxel, size - e) - np.maximum(0, voxel - e + 1) + 1 for e in edges]
    return np.mean([count / (size - e + 1) for count, e in zip(starts, edges, strict=True)], axis=0)


@compiled
def permute_windows(
    shape: tuple[int, int, int], windows: np.ndarray, seeds: np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """Find where each voxel's value comes from when the voxels inside windows are permuted, later windows on top.

    From the last window to the first, so that each voxel is written once, by the last window over it. A window's own
    voxels, in C order, draw their sources from all of its voxels without replacement (Fisher and Yates, stopped when
    they all have one).

    Args:
        shape: of the patch.
        windows: int64 (windows, 2, 3), first voxels and edges.
        seeds: uint64 (windows,), where each window's generator begins.
        boxes: int64 (boxes, 2, 3), likewise: only voxels inside them need be right.

    Returns:
        Flat index of the source minus that of the voxel, int32 (voxels,).
    """
    plane, line = shape[1] * shape[2], shape[2]
    starts, edges = windows[:, 0], windows[:, 1]
    margin, largest = 0, 1
    for window in range(len(windows)):
        margin = max(margin, edges[window, 0], edges[window, 1], edges[window, 2])
        largest = max(largest, edges[window, 0] * edges[window, 1] * edges[window, 2])
    steps, done = np.zeros(shape[0] * plane, np.int32), np.zeros(shape[0] * plane, np.uint8)
    voxels, own = np.empty(largest, np.int32), np.empty(largest, np.int32)
    for window in range(len(windows) - 1, -1, -1):
        # Windows that overlap one inside decide which voxels are its own.
        if not meets(windows[window], boxes, margin):
            continue
        corner = starts[window, 0] * plane + starts[window, 1] * line + starts[window, 2]
        count, owned = U(0), U(0)
        for x in range(edges[window, 0]):
            for y in range(edges[window, 1]):
                row = U(corner + x * plane + y * line)
                for z in range(U(edges[window, 2])):
                    voxels[count] = row + z
                    count += U(1)
                    own[owned] = row + z
                    owned += U(1) - U(done[row + z])
                    done[row + z] = 1
        if not meets(windows[window], boxes, 0):
            continue
        state = seeds[window]
        for k in range(owned):
            state = state * MULTIPLIER + INCREMENT
            # A number below count - k (Lemire 2019); its bias, (count - k) / 2³², is below 1e-6.
            other = k + ((state >> U(32)) * (count - k) >> U(32))
            voxels[k], voxels[other] = voxels[other], voxels[k]
        for k in range(owned):
            steps[U(own[k])] = voxels[k] - own[k]
    return steps


@compiled
def meets(window: np.ndarray, boxes: np.ndarray, margin: int) -> bool:
    """Say whether a window has a voxel within ``margin`` voxels of one of the boxes."""
    for box in boxes:
        near = True
        for axis in range(3):
            near &= window[0, axis] < box[0, axis] + box[1, axis] + margin
            near &= window[0, axis] + window[1, axis] > box[0, axis] - margin
        if near:
            return True
    return False


@compiled
def gather(image: np.ndarray, out: np.ndarray, steps: np.ndarray, boxes: np.ndarray) -> None:
    """Give ``out`` (X, Y, Z), inside the boxes, the values of ``image`` that lie ``steps`` further in C order."""
    values, plane, line = image.ravel(), image.shape[1] * image.shape[2], image.shape[2]
    for box in boxes:
        for x in range(box[0, 0], box[0, 0] + box[1, 0]):
            for y in range(box[0, 1], box[0, 1] + box[1, 1]):
                row = x * plane + y * line
                for z in range(box[0, 2], box[0, 2] + box[1, 2]):
                    out[x, y, z] = values[U(row + z + steps[U(row + z)])]
