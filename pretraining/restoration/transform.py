"""The Models Genesis objective: a clean patch and the corrupted copy from which to restore it."""

from typing import Any

import numpy as np
import torch

from nnunet_genesis.errors import GenesisError
from pretraining.restoration.corruption import Corruption, Sampled, Seed, as_float32
from pretraining.restoration.intensity import NonLinearIntensity
from pretraining.restoration.painting import InPainting, OutPainting, painted
from pretraining.restoration.shuffling import LocalShuffling

MAX_FLIPS = 3
CORRUPTIONS = ("shuffling", "intensity", "inpainting", "outpainting")


class RandomFlip(Sampled):
    """Flip ``image``, ``target`` and ``segmentation`` (those present, each (C, X, Y[, Z])) alike.

    While U(0,1) < ``p``, at most 3 times, an axis is picked among the spatial ones; an axis picked twice is back where
    it was. Returned tensors are copies.

    Args:
        p: probability of each further flip.
        seed: see `Sampled`.
    """

    def __init__(self, p: float = 0.4, seed: Seed = None) -> None:
        super().__init__(seed)
        self.p = p

    def sample(self, rng: np.random.Generator, channels: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """``axes``: the spatial axes (0 is X) to flip."""
        picked: list[int] = []
        while len(picked) < MAX_FLIPS and rng.random() < self.p:
            picked.append(int(rng.integers(len(shape))))
        return {"axes": tuple(axis for axis in range(len(shape)) if picked.count(axis) % 2)}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Make a new dict with the three entries flipped and all others as they were."""
        flipped = {
            key: torch.flip(data_dict[key], [axis + 1 for axis in params["axes"]])
            for key in ("image", "target", "segmentation")
            if data_dict.get(key) is not None
        }
        return {**data_dict, **flipped}


class RestorationTransform(Sampled):
    """Corrupt ``image``, a float tensor (C, X, Y[, Z]) in [0, 1], and keep the clean patch as ``target``.

    In this order: flips of both (augmentation), then on ``image`` only local shuffling, the intensity map, and in- or
    out-painting, never both (Zhou et al. 2021, doi 10.1016/j.media.2020.101840). A ``segmentation`` is flipped alike;
    other entries pass through. ``hidden``, bool (1, X, Y[, Z]), says where noise took the image's place. ``image`` and
    ``target`` are float32 and share memory neither with the input, which stays untouched, nor with each other.

    Args:
        seed: an integer or Generator makes the sequence of calls reproducible, bit by bit. With None every call takes
            its seed from numpy's global random state (see `Sampled`).
        p_shuffling: probability of local shuffling.
        p_intensity: probability of the non-linear intensity map.
        p_painting: probability of either painting.
        p_inpainting: share of in-painting among the paintings.
        p_flip: probability of each further flip.

    Example:
        >>> sample = RestorationTransform(seed=0)(image=torch.rand(1, 64, 64, 32))
        >>> sample["image"].shape == sample["target"].shape
        True
    """

    def __init__(
        self,
        seed: Seed = None,
        p_shuffling: float = 0.5,
        p_intensity: float = 0.9,
        p_painting: float = 0.9,
        p_inpainting: float = 0.2,
        p_flip: float = 0.4,
    ) -> None:
        super().__init__(seed)
        self.p_shuffling = _probability("p_shuffling", p_shuffling)
        self.p_intensity = _probability("p_intensity", p_intensity)
        self.p_painting = _probability("p_painting", p_painting)
        self.p_inpainting = _probability("p_inpainting", p_inpainting)
        self.flip = RandomFlip(_probability("p_flip", p_flip))
        self.corruptions: dict[str, Corruption] = {
            "shuffling": LocalShuffling(),
            "intensity": NonLinearIntensity(),
            "inpainting": InPainting(),
            "outpainting": OutPainting(),
        }

    @classmethod
    def only(cls, corruption: str, seed: Seed = None, p_flip: float = 0) -> "RestorationTransform":
        """Make the transform that always applies just this one of `CORRUPTIONS`; without flips: for validation."""
        if corruption not in CORRUPTIONS:
            raise GenesisError(f"restoration: no corruption {corruption!r}; there are {', '.join(CORRUPTIONS)}")
        return cls(
            seed,
            p_shuffling=corruption == "shuffling",
            p_intensity=corruption == "intensity",
            p_painting=corruption in ("inpainting", "outpainting"),
            p_inpainting=corruption == "inpainting",
            p_flip=p_flip,
        )

    def sample(self, rng: np.random.Generator, channels: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """``axes`` to flip, ``corruptions`` as (name, parameters) pairs in order."""
        axes = self.flip.sample(rng, channels, shape)["axes"]
        chosen = ["shuffling"] if rng.random() < self.p_shuffling else []
        if rng.random() < self.p_intensity:
            chosen.append("intensity")
        if rng.random() < self.p_painting:
            chosen.append("inpainting" if rng.random() < self.p_inpainting else "outpainting")
        return {"axes": axes, "corruptions": [(n, self.corruptions[n].sample(rng, channels, shape)) for n in chosen]}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Make a new dict with ``image``, ``target``, ``hidden`` and what else was in ``data_dict``."""
        flipped = self.flip.apply(data_dict, axes=params["axes"])
        target = as_float32(flipped["image"])
        image = target
        last, painting = params["corruptions"][-1] if params["corruptions"] else ("", {})
        # What out-painting will cover with noise need not be corrupted before.
        kept = {"inside": (painting["starts"], painting["edges"])} if last == "outpainting" else {}
        for name, parameters in params["corruptions"]:
            inside = kept if name in ("shuffling", "intensity") else {}
            image = self.corruptions[name].apply({"image": image}, **parameters, **inside)["image"]
        hidden = painted(last, target.shape[1:], (painting.get("starts"), painting.get("edges")))
        return {**flipped, "image": target.clone() if image is target else image, "target": target, "hidden": hidden}


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise GenesisError(f"restoration: {name} must be a probability between 0 and 1, found {value}")
    return float(value)
