"""Splines along one axis, and votes of labels: the loops of :mod:`pretraining.preparation.resampling`.

Voxel j of m covers the same share of the field of view as voxel j of n: it lies at (j + ½)·n/m − ½ in old voxels.
Outside the volume its outermost values go on for ever.
"""

import numpy as np

from pretraining.compiled import compiled

_POLE = np.float32(np.sqrt(3) - 2)  # of the cubic B-spline's inverse filter (Unser 1999, box 2)
_GAIN = np.float32(6)  # (1 - pole)·(1 - 1/pole)
_WIDTH = 128  # lines at a time: 500 voxels of them fit a core's second-level cache
_TILE = 16  # float32 values in a cache line


def resize_axis(volume: np.ndarray, axis: int, length: int) -> np.ndarray:
    """``volume`` (float32, C-contiguous) with ``length`` voxels along ``axis``, by cubic splines."""
    shape = (*volume.shape[:axis], length, *volume.shape[axis + 1 :])
    out = np.empty(shape, np.float32)
    knots, weights = cubic_taps(volume.shape[axis], length)
    if axis == volume.ndim - 1:
        resize_rows(volume.reshape(-1, volume.shape[axis]), out.reshape(-1, length), knots, weights)
    else:
        inner = int(np.prod(shape[axis + 1 :]))
        source, target = volume.reshape(-1, volume.shape[axis], inner), out.reshape(-1, length, inner)
        resize_planes(source, target, knots, weights)
    return out


def positions(old: int, new: int) -> np.ndarray:
    """Where ``new`` voxels lie among ``old`` ones; float64, in old voxels."""
    return (np.arange(new) + 0.5) * (old / new) - 0.5


def cubic_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """For each new voxel the first of its four knots, int64, in -2 … old - 2, and their weights, float32 (new, 4)."""
    where = positions(old, new)
    knot = np.floor(where)
    y = where - knot
    z = 1 - y
    weights = np.stack([z**3, 3 * y * y * (y - 2) + 4, 3 * z * z * (z - 2) + 4, y**3], axis=1) / 6
    return knot.astype(np.int64) - 1, weights.astype(np.float32)


def linear_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new voxel two neighbours, int64 (new, 2), their weights, float64 (new, 2), and the nearest, int64."""
    where = positions(old, new)
    first = np.floor(where)
    weight = 1 - (where - first)
    neighbours = np.stack([first, first + 1], axis=1).clip(0, old - 1).astype(np.int64)
    return neighbours, np.stack([weight, 1 - weight], axis=1), nearest_taps(old, new)


def nearest_taps(old: int, new: int) -> np.ndarray:
    """For each new voxel the nearest old one, int64."""
    return np.floor(positions(old, new) + 0.5).clip(0, old - 1).astype(np.int64)


@compiled
def resize_planes(source: np.ndarray, target: np.ndarray, knots: np.ndarray, weights: np.ndarray) -> None:
    """Resize the middle axis of ``source`` (A, n, B) to that of ``target`` (A, m, B)."""
    n, size = source.shape[1], source.shape[2]
    lines = np.empty((n + 4, _WIDTH), np.float32)
    for a in range(len(source)):
        for start in range(0, size, _WIDTH):
            width = min(_WIDTH, size - start)
            for k in range(n):
                lines[k + 2, :width] = source[a, k, start : start + width]
            to_coefficients(lines)
            for j in range(len(knots)):
                add_knots(lines, knots[j], weights[j], target[a, j, start : start + width])


@compiled
def resize_rows(source: np.ndarray, target: np.ndarray, knots: np.ndarray, weights: np.ndarray) -> None:
    """Resize the last axis of ``source`` (A, n) to that of ``target`` (A, m)."""
    n, m = source.shape[1], target.shape[1]
    lines, results = np.empty((n + 4, _WIDTH), np.float32), np.empty((m, _WIDTH), np.float32)
    for start in range(0, len(source), _WIDTH):
        width = min(_WIDTH, len(source) - start)
        # Tile by tile, as a cache line is one row's.
        for tile in range(0, n, _TILE):
            for w in range(width):
                for k in range(tile, min(tile + _TILE, n)):
                    lines[k + 2, w] = source[start + w, k]
        to_coefficients(lines)
        for j in range(m):
            add_knots(lines, knots[j], weights[j], results[j])
        for tile in range(0, m, _TILE):
            for w in range(width):
                for j in range(tile, min(tile + _TILE, m)):
                    target[start + w, j] = results[j, w]


@compiled
def to_coefficients(lines: np.ndarray) -> None:
    """B-spline coefficients in the place of values, along the first axis, whose outer two entries a side they fill.

    Where the values go on unchanged, both recursions are geometric series: their sums take the place of the 12 voxels
    that scipy pads with. It differs from them by |pole|²⁴ = 2e-14.
    """
    last = len(lines) - 3
    for w in range(lines.shape[1]):
        first_value, last_value = lines[2, w], lines[last, w]
        lines[0, w], lines[last + 2, w] = first_value, last_value
        lines[2, w] = first_value * (_GAIN / (1 - _POLE))
    for k in range(3, last + 1):
        before, line = lines[k - 1], lines[k]
        for w in range(len(line)):
            line[w] = _GAIN * line[w] + _POLE * before[w]
    for w in range(lines.shape[1]):
        steady = lines[last + 2, w] * (_GAIN / (1 - _POLE))
        lines[last, w] = -_POLE / (1 - _POLE) * steady - _POLE / (1 - _POLE * _POLE) * (lines[last, w] - steady)
    for k in range(last - 1, 1, -1):
        after, line = lines[k + 1], lines[k]
        for w in range(len(line)):
            line[w] = _POLE * (after[w] - line[w])
    for end, step in ((2, -1), (last, 1)):
        value, inner, outer = lines[end + 2 * step], lines[end], lines[end + step]
        for w in range(len(inner)):
            outer[w] = value[w] + _POLE * (inner[w] - value[w])
            value[w] = value[w] + _POLE * (outer[w] - value[w])


@compiled
def add_knots(lines: np.ndarray, knot: int, weights: np.ndarray, out: np.ndarray) -> None:
    """Sum of four knots, from ``knot`` on, times ``weights``."""
    one, two, three, four = lines[knot + 2], lines[knot + 3], lines[knot + 4], lines[knot + 5]
    a, b, c, d = weights
    for w in range(len(out)):
        out[w] = a * one[w] + b * two[w] + c * three[w] + d * four[w]


@compiled
def vote(source: np.ndarray, target: np.ndarray, neighbours: tuple, weights: tuple, nearest: tuple) -> None:
    """Each voxel of ``target`` (X, Y, Z) gets the label with most weight among its 8 neighbours in ``source``.

    Where several have the same: that of the nearest voxel if it is one of them, else the smallest.

    Args:
        source: labels (X, Y, Z).
        target: the result.
        neighbours: per axis (voxels of target, 2), int64.
        weights: theirs, float64.
        nearest: per axis (voxels of target,), int64.
    """
    labels, shares = np.empty(8, source.dtype), np.empty(8, np.float64)
    for x in range(target.shape[0]):
        x0, x1 = neighbours[0][x]
        for y in range(target.shape[1]):
            y0, y1 = neighbours[1][y]
            rows = (source[x0, y0], source[x0, y1], source[x1, y0], source[x1, y1])
            for z in range(target.shape[2]):
                z0, z1 = neighbours[2][z]
                label, differ = rows[0][z0], False
                for row in rows:
                    differ |= (row[z0] != label) | (row[z1] != label)
                if differ:
                    # In scipy's order, so that even rounding, and with it ties, are scipy's.
                    for k in range(8):
                        labels[k] = rows[k // 2][neighbours[2][z, k % 2]]
                        shares[k] = weights[0][x, k // 4] * weights[1][y, k // 2 % 2] * weights[2][z, k % 2]
                    label = winner(labels, shares, source[nearest[0][x], nearest[1][y], nearest[2][z]])
                target[x, y, z] = label


@compiled
def winner(labels: np.ndarray, shares: np.ndarray, nearest: int) -> int:
    """The label with the largest sum of shares; see :func:`vote` for ties."""
    best, most, of_nearest = labels[0], -1.0, 0.0
    for label in labels:
        total = 0.0
        for k in range(8):
            if labels[k] == label:
                total += shares[k]
        if total > most or (total == most and label < best):
            best, most = label, total
        if label == nearest:
            of_nearest = total
    return nearest if of_nearest == most else best
