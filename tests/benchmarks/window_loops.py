"""The corruptions as most would write them, a Python loop over windows: what ``make bench`` compares with.

Same probabilities, sizes and counts as :mod:`pretraining.restoration`; only the way they are computed differs.
"""

import numpy as np

from pretraining.restoration.intensity import bezier
from pretraining.restoration.shuffling import largest_edge, window_count

Array = np.ndarray
P_SHUFFLING, P_INTENSITY, P_PAINTING, P_INPAINTING, P_FLIP = 0.5, 0.9, 0.9, 0.2, 0.4


def corrupt(rng: np.random.Generator, image: Array) -> tuple[Array, Array]:
    """A corrupted copy of ``image`` (C, X, Y, Z) in [0, 1], and its clean, flipped copy."""
    clean = flip(rng, image)
    out = shuffle(rng, clean) if rng.random() < P_SHUFFLING else clean.copy()
    if rng.random() < P_INTENSITY:
        out = remap(rng, out)
    if rng.random() < P_PAINTING:
        out = paint_in(rng, out) if rng.random() < P_INPAINTING else paint_out(rng, out)
    return out, clean


def flip(rng: np.random.Generator, image: Array) -> Array:
    for _ in range(3):
        if rng.random() >= P_FLIP:
            break
        image = np.flip(image, 1 + rng.integers(3))
    return np.ascontiguousarray(image)


def shuffle(rng: np.random.Generator, image: Array) -> Array:
    out = image.copy()
    for _ in range(window_count(image.shape[1:])):
        box = window(rng, image, [(1, largest_edge(size)) for size in image.shape[1:]])
        voxels = image[box].reshape(len(image), -1)
        out[box] = rng.permutation(voxels, axis=1).reshape(out[box].shape)
    return out


def remap(rng: np.random.Generator, image: Array) -> Array:
    decreasing = rng.random() < 0.5
    x, y = bezier(rng.random((2, 2)), bool(decreasing))
    return np.interp(image, x, y).astype(np.float32)


def paint_in(rng: np.random.Generator, image: Array) -> Array:
    count = 0
    while count < 5 and rng.random() < 0.95:
        box = window(rng, image, [(size // 6, size // 3) for size in image.shape[1:]], margin=3)
        image[box] = rng.random(image[box].shape)
        count += 1
    return image


def paint_out(rng: np.random.Generator, image: Array) -> Array:
    out = rng.random(image.shape).astype(np.float32)
    count = 0
    while count == 0 or (count < 5 and rng.random() < 0.95):
        box = window(rng, image, [(size - 4 * size // 7, size - 3 * size // 7) for size in image.shape[1:]], margin=3)
        out[box] = image[box]
        count += 1
    return out


def window(rng: np.random.Generator, image: Array, edges: list[tuple[int, int]], margin: int = 0) -> tuple[slice, ...]:
    box = [slice(None)]
    for size, (low, high) in zip(image.shape[1:], edges, strict=True):
        edge = rng.integers(low, high + 1)
        start = rng.integers(margin, size - edge - margin + 1)
        box.append(slice(start, start + edge))
    return tuple(box)
