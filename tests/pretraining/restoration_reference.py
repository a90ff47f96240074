"""The corruptions as plain loops over windows and voxels: slow, and short enough to be checked by reading.

Each takes the image, float32 (C, X, Y[, Z]), and the parameters that the fast version's `get_parameters` returns.
"""

from itertools import product
from typing import Any

import numpy as np
import torch

from pretraining.restoration.intensity import bezier
from pretraining.restoration.shuffling import draw_keys, window_batches, window_shapes


def shuffle(image: torch.Tensor, starts: np.ndarray, edges: np.ndarray, seed: int) -> torch.Tensor:
    clean, out = image.numpy(), image.clone().numpy()
    keys = window_keys(image.shape[1:], edges, seed)
    for window, (start, edge) in enumerate(zip(starts, edges, strict=True)):
        box = (slice(None), *(slice(a, a + n) for a, n in zip(start, edge, strict=True)))
        voxels = clean[box].reshape(len(clean), -1)
        permutation = np.argsort(keys[window], kind="stable")
        out[box] = voxels[:, permutation].reshape(out[box].shape)
    return torch.from_numpy(out)


def window_keys(shape: tuple[int, ...], edges: np.ndarray, seed: int) -> dict[int, np.ndarray]:
    """Each window's random keys, one a voxel: drawn batch by batch, with some left over at the end of each row."""
    shapes = window_shapes(tuple(shape))
    rng = np.random.default_rng(seed)
    keys = {}
    for batch in window_batches(shapes, edges):
        drawn = draw_keys(rng, (len(batch.windows), shapes.offsets[batch.group].shape[1]), shapes.local_bits)
        for window, row in zip(batch.windows, drawn, strict=True):
            keys[int(window)] = row[: edges[window].prod()]
    return keys


def remap(image: torch.Tensor, points: np.ndarray, decreasing: np.ndarray) -> torch.Tensor:
    out = image.clone().numpy()
    for channel in range(len(out)):
        x, y = bezier(points[channel], bool(decreasing[channel]))
        for voxel in np.ndindex(*out.shape[1:]):
            out[channel][voxel] = np.interp(out[channel][voxel], x, y)
    return torch.from_numpy(out)


def paint_in(image: torch.Tensor, starts: np.ndarray, edges: np.ndarray, seed: int) -> torch.Tensor:
    out = image.clone().numpy()
    noise = np.random.default_rng(seed)
    for start, edge in zip(starts, edges, strict=True):
        for channel, voxel in product(range(len(out)), voxels_of(start, edge)):
            out[channel][voxel] = noise.random(dtype=np.float32)
    return torch.from_numpy(out)


def paint_out(image: torch.Tensor, starts: np.ndarray, edges: np.ndarray, seed: int) -> torch.Tensor:
    clean, out = image.numpy(), image.clone().numpy()
    noise = np.random.default_rng(seed)
    for index in np.ndindex(*out.shape):
        out[index] = noise.random(dtype=np.float32)
    for start, edge in zip(starts, edges, strict=True):
        for channel, voxel in product(range(len(out)), voxels_of(start, edge)):
            out[channel][voxel] = clean[channel][voxel]
    return torch.from_numpy(out)


def voxels_of(start: np.ndarray, edge: np.ndarray) -> list[tuple[int, ...]]:
    """The voxels of one window in C order."""
    return list(product(*(range(a, a + n) for a, n in zip(start, edge, strict=True))))


REFERENCE: dict[str, Any] = {"shuffling": shuffle, "intensity": remap, "inpainting": paint_in, "outpainting": paint_out}
