"""The corruptions as plain loops over windows and voxels: slow, and short enough to be checked by reading.

Each takes the image, float32 (C, X, Y[, Z]), and the parameters that the fast version's `get_parameters` returns.
"""

from itertools import product
from typing import Any

import numpy as np
import torch

from pretraining.restoration.intensity import bezier
from pretraining.restoration.shuffling import INCREMENT, MULTIPLIER, window_seeds


def shuffle(image: torch.Tensor, starts: np.ndarray, edges: np.ndarray, seed: int) -> torch.Tensor:
    clean, out = image.numpy(), image.clone().numpy()
    last = np.full(image.shape[1:], -1)
    states = [int(state) for state in window_seeds(seed, len(starts))]
    for window, (start, edge) in enumerate(zip(starts, edges, strict=True)):
        for voxel in voxels_of(start, edge):
            last[voxel] = window
    for window, (start, edge) in enumerate(zip(starts, edges, strict=True)):
        sources = voxels_of(start, edge)
        for k, voxel in enumerate(voxel for voxel in voxels_of(start, edge) if last[voxel] == window):
            states[window] = (states[window] * int(MULTIPLIER) + int(INCREMENT)) % 2**64
            other = k + ((states[window] >> 32) * (len(sources) - k) >> 32)
            sources[k], sources[other] = sources[other], sources[k]
            for channel in range(len(out)):
                out[channel][voxel] = clean[channel][sources[k]]
    return torch.from_numpy(out)


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
