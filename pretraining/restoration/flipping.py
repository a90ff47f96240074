"""Flips along random spatial axes: augmentation, not something to restore."""

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

from pretraining.restoration.corruption import Randomness, Seed, check_image

MAX_FLIPS = 3


class RandomFlip(BasicTransform):
    """Flip ``image``, ``target`` and ``segmentation`` (those present, each (C, X, Y[, Z])) alike.

    While U(0,1) < ``p``, at most 3 times, an axis is picked among the spatial ones; an axis picked twice is back where
    it was. Returned tensors are copies.

    Args:
        p: probability of each further flip.
        seed: see `Randomness`.
    """

    def __init__(self, p: float = 0.4, seed: Seed = None) -> None:
        super().__init__()
        self.p = p
        self.randomness = Randomness(seed)

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Sample ``axes``: the spatial axes (0 is X) to flip."""
        image = check_image(data_dict.get("image"))
        return self.sample(self.randomness.generator(), image.ndim - 1)

    def sample(self, rng: np.random.Generator, dimensions: int) -> dict[str, Any]:
        """Parameters for an image with this number of spatial ``dimensions``."""
        picked: list[int] = []
        while len(picked) < MAX_FLIPS and rng.random() < self.p:
            picked.append(int(rng.integers(dimensions)))
        return {"axes": tuple(axis for axis in range(dimensions) if picked.count(axis) % 2)}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """A new dict with the three entries flipped and all others as they were."""
        flipped = {
            key: flip(data_dict[key], params["axes"])
            for key in ("image", "target", "segmentation")
            if data_dict.get(key) is not None
        }
        return {**data_dict, **flipped}


def flip(tensor: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """A contiguous copy of ``tensor`` (C, X, Y[, Z]) flipped along the spatial ``axes`` (0 is X)."""
    return torch.flip(tensor, [axis + 1 for axis in axes])
