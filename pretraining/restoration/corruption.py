"""What the corruptions share: where their randomness comes from, which images they accept, boxes, compiled loops."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from numba import njit

from nnunet_genesis.errors import GenesisError

MIN_AXIS = 4
# Cubic resampling and float16 storage leave values a rounding error outside [0, 1].
TOLERANCE = 1e-6

Seed = int | np.random.Generator | None
Boxes: TypeAlias = tuple[np.ndarray, np.ndarray]  # starts and edges, int64 (boxes, D)
U = np.uint64  # of the innermost indices in compiled loops: numba checks signed ones for negative values


class Sampled(BasicTransform):
    """Base of the transforms: `sample` holds all randomness and returns plain data, which `apply` takes.

    Args:
        seed: an integer or a (shared) `numpy.random.Generator` gives one stream that all calls continue. None: every
            call seeds a new generator from numpy's *global* random state, because that is what batchgenerators
            re-seeds in each worker process and our loader in each batch.
    """

    def __init__(self, seed: Seed = None) -> None:
        super().__init__()
        self._generator = None if seed is None else np.random.default_rng(seed)

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Check ``image`` (C, X, Y[, Z]) and sample parameters for it."""
        image = check_image(data_dict.get("image"))
        rng = self._generator or np.random.default_rng(np.random.randint(2**31 - 1))
        return self.sample(rng, image.shape[0], tuple(image.shape[1:]))

    def sample(self, rng: np.random.Generator, channels: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """Sample parameters for an image of ``channels`` and the spatial ``shape``."""
        raise NotImplementedError


class Corruption(Sampled, ImageOnlyTransform):
    """Base of the corruptions, which are always applied when called on their own; noise is a seed in the parameters.

    `_apply_to_image` is a pure function of the image and the parameters. It returns a new float32 tensor that shares no
    memory with its input, which it leaves untouched.
    """


def check_image(image: Any) -> torch.Tensor:
    """Return ``image`` if it is a floating CPU tensor (C, X, Y[, Z]) in [0, 1] with at least 4 voxels an axis.

    Raises:
        GenesisError: if it is not; the message says what was found.
    """
    if not isinstance(image, torch.Tensor) or not image.is_floating_point() or image.device.type != "cpu":
        found = f"{image.dtype} on {image.device}" if isinstance(image, torch.Tensor) else type(image).__name__
        raise GenesisError(f"restoration: 'image' must be a floating tensor on the CPU, found {found}")
    if image.ndim not in (3, 4) or image.shape[0] < 1 or min(image.shape[1:]) < MIN_AXIS:
        raise GenesisError(
            f"restoration: 'image' must have shape (C, X, Y) or (C, X, Y, Z) with at least {MIN_AXIS} voxels an axis, "
            f"found {tuple(image.shape)}: choose a larger patch size"
        )
    low, high = (float(value) for value in torch.aminmax(image.detach()))
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # NaN fails it too
        raise GenesisError(
            f"restoration: 'image' must lie in [0, 1], found {low:.4g} to {high:.4g}: scale it before corrupting it"
        )
    return image


def as_float32(image: torch.Tensor) -> torch.Tensor:
    """``image`` as contiguous float32 without gradient; the same memory if it is so already."""
    return image.detach().to(torch.float32).contiguous()


def draw_seed(rng: np.random.Generator) -> int:
    """Draw a seed that stands for an image's noise or permutations in the parameters."""
    return int(rng.integers(2**63))


def uniform_starts(rng: np.random.Generator, edges: np.ndarray, shape: np.ndarray, margin: int) -> np.ndarray:
    """Draw first voxels of boxes of ``edges`` (N, D) inside ``shape`` (D,), uniform over all that fit: int64 (N, D).

    ``margin`` voxels at each border stay free; it shrinks where an axis is too short for that.
    """
    room = shape - edges
    free = np.minimum(margin, room // 2)
    return free + rng.integers(room - 2 * free + 1)


def slices(boxes: Boxes) -> list[tuple[slice, ...]]:
    """Index (C, X, Y[, Z]) by each box."""
    pairs = (zip(start.tolist(), edge.tolist(), strict=True) for start, edge in zip(*boxes, strict=True))
    return [(slice(None), *(slice(first, first + length) for first, length in pair)) for pair in pairs]


def in_three_axes(vectors: np.ndarray, fill: int) -> np.ndarray:
    """Bring (N, 2) or (N, 3) to int64 (N, 3): a 2D patch is one plane."""
    return np.pad(vectors, [(0, 0), (3 - vectors.shape[1], 0)], constant_values=fill)


def for_loops(image: torch.Tensor, boxes: Boxes | None) -> tuple[np.ndarray, np.ndarray]:
    """Give what compiled loops take: the image, float32 (C, X, Y, Z), and boxes (the whole patch), int64 (N, 2, 3)."""
    shape = np.array([image.shape[1:]])
    starts, edges = boxes or (np.zeros_like(shape), shape)
    channels = as_float32(image).reshape(len(image), *in_three_axes(shape, fill=1)[0].tolist()).numpy()
    return channels, np.stack([in_three_axes(starts, fill=0), in_three_axes(edges, fill=1)], axis=1)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first call; keep the result on disk where there is a writable place for it."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba finds no such place
        return njit(nogil=True)(function)
