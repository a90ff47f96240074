"""The loops that neither numpy nor torch has, compiled by numba.

Shuffling visits four million voxels of fifteen thousand windows in a 128³ patch. Vectorised (a sort of random keys
within each window) that took four to five times as long; docs/pretraining.md has the figures.
"""

import numpy as np

from pretraining.compiled import compiled

# numba checks signed indices for negative ones, so the innermost are unsigned.
U = np.uint64
# Knuth's linear congruential generator modulo 2⁶⁴ (MMIX), of which the upper 32 bits are used.
MULTIPLIER, INCREMENT = U(6364136223846793005), U(1442695040888963407)


@compiled
def permute_windows(
    steps: np.ndarray,
    plane: int,
    line: int,
    starts: np.ndarray,
    edges: np.ndarray,
    seeds: np.ndarray,
    boxes: np.ndarray,
) -> None:
    """Where each voxel's value comes from when the voxels inside windows are permuted, later windows on top.

    From the last window to the first, so that each voxel is written once, by the last window over it. A window's own
    voxels, in C order, draw their sources from all of its voxels without replacement (Fisher and Yates, stopped when
    they all have one).

    Args:
        steps: the result, int32 (voxels,) of zeros: flat index of the source minus that of the voxel.
        plane: voxels in a plane of the patch (the step along its first axis).
        line: voxels in a line (the step along its second axis).
        starts: int64 (windows, 3), their first voxels.
        edges: int64 (windows, 3).
        seeds: uint64 (windows,), where each window's generator begins.
        boxes: int64 (boxes, 2, 3), first voxels and edges: only voxels inside them need be right.
    """
    margin, largest = 0, 1
    for window in range(len(starts)):
        margin = max(margin, edges[window, 0], edges[window, 1], edges[window, 2])
        largest = max(largest, edges[window, 0] * edges[window, 1] * edges[window, 2])
    voxels, own, done = np.empty(largest, np.int32), np.empty(largest, np.int32), np.zeros(len(steps), np.uint8)
    for window in range(len(starts) - 1, -1, -1):
        # Windows that overlap one inside decide which voxels are its own.
        if not meets(window, starts, edges, boxes, margin):
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
        if not meets(window, starts, edges, boxes, 0):
            continue
        state = seeds[window]
        for k in range(owned):
            state = state * MULTIPLIER + INCREMENT
            # A number below count - k (Lemire 2019); its bias, (count - k) / 2³², is below 1e-6.
            other = k + ((state >> U(32)) * (count - k) >> U(32))
            voxels[k], voxels[other] = voxels[other], voxels[k]
        for k in range(owned):
            steps[U(own[k])] = voxels[k] - own[k]


@compiled
def meets(window: int, starts: np.ndarray, edges: np.ndarray, boxes: np.ndarray, margin: int) -> bool:
    """Whether a window has a voxel within ``margin`` voxels of one of the boxes."""
    for box in range(len(boxes)):
        near = True
        for axis in range(3):
            start, first = starts[window, axis], boxes[box, 0, axis]
            near &= start < first + boxes[box, 1, axis] + margin
            near &= start + edges[window, axis] > first - margin
        if near:
            return True
    return False


@compiled
def gather(image: np.ndarray, out: np.ndarray, steps: np.ndarray, boxes: np.ndarray) -> None:
    """Inside the boxes, ``out`` (X, Y, Z) gets the values of ``image`` that lie ``steps`` further in C order."""
    values, plane, line = image.ravel(), image.shape[1] * image.shape[2], image.shape[2]
    for box in boxes:
        for x in range(box[0, 0], box[0, 0] + box[1, 0]):
            for y in range(box[0, 1], box[0, 1] + box[1, 1]):
                row = x * plane + y * line
                for z in range(box[0, 2], box[0, 2] + box[1, 2]):
                    out[x, y, z] = values[U(row + z + steps[U(row + z)])]


@compiled
def look_up(image: np.ndarray, out: np.ndarray, table: np.ndarray, boxes: np.ndarray) -> None:
    """Inside the boxes, ``out`` (X, Y, Z) gets, for ``image`` in [0, 1], the nearest of ``table``'s values."""
    cells = np.float32(len(table) - 1)
    for box in boxes:
        for x in range(box[0, 0], box[0, 0] + box[1, 0]):
            for y in range(box[0, 1], box[0, 1] + box[1, 1]):
                for z in range(box[0, 2], box[0, 2] + box[1, 2]):
                    out[x, y, z] = table[U(image[x, y, z] * cells + np.float32(0.5))]
