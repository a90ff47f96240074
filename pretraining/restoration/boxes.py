"""Boxes of a patch: what out-painting keeps, so that nothing else need be corrupted before it."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Boxes: TypeAlias = tuple[np.ndarray, np.ndarray]  # starts and edges, int64 (boxes, D)


def slices(boxes: Boxes) -> list[tuple[slice, ...]]:
    """An index into (C, X, Y[, Z]) for each box."""
    pairs = (zip(start.tolist(), edge.tolist(), strict=True) for start, edge in zip(*boxes, strict=True))
    return [(slice(None), *(slice(first, first + length) for first, length in pair)) for pair in pairs]


def in_three_axes(vectors: np.ndarray, fill: int) -> np.ndarray:
    """Int64 (N, 3) from (N, 2) or (N, 3): a 2D patch is one plane."""
    missing = 3 - vectors.shape[1]
    return np.pad(vectors, [(0, 0), (missing, 0)], constant_values=fill) if missing else vectors


def for_loops(boxes: Boxes | None, shape: Sequence[int]) -> np.ndarray:
    """The boxes, or the whole patch of this ``shape``, as compiled loops take them: int64 (boxes, 2, 3)."""
    starts, edges = boxes or (np.zeros((1, len(shape)), np.int64), np.array([shape]))
    return np.stack([in_three_axes(starts, fill=0), in_three_axes(edges, fill=1)], axis=1)
