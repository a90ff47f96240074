"""Other ways to pretrain, to compare restoration with, and the same trainers of fine-tuning under names of their own.

    export nnUNet_extTrainer="$(nnUNetv2_genesis_trainers):examples/benchmark/trainers"
    nnUNetv2_genesis_pretrain 4 3d_fullres -tr nnUNetTrainerRestoration_masking -device cpu

shuffling, intensity, inpainting, outpainting: this corruption alone, in every patch. zscored: targets are nnU-Net's
normalised intensities, without a sigmoid, instead of [0, 1]. masking: no restoration but a masked autoencoder's task,
75 % of cubes of a sixth of the patch (He et al., CVPR 2022), with the loss on what is masked.
"""

from typing import Any

import numpy as np
import torch

from nnunet_genesis.trainer import nnUNetTrainerGenesis, nnUNetTrainerGenesisFull
from nnunet_genesis.training.precision import autocast
from pretraining.intensity_range import from_unit
from pretraining.restoration import CORRUPTIONS, RestorationTransform
from pretraining.trainer import nnUNetTrainerRestoration

CUBES, MASKED = 6, 0.75


class Masking(RestorationTransform):
    """Flips as restoration does; then random cubes take the patch's mean."""

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Sample ``axes`` to flip and ``masked`` (CUBES, CUBES, CUBES), bool."""
        rng = self.randomness.generator()
        masked = rng.permutation(CUBES**3) < round(MASKED * CUBES**3)
        axes = self.flip.sample(rng, data_dict["image"].ndim - 1)["axes"]
        return {"axes": axes, "masked": masked.reshape(CUBES, CUBES, CUBES)}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """A new dict with ``image`` and ``target``."""
        target = self.flip.apply(data_dict, axes=params["axes"])["image"].float()
        cubes = [np.arange(length) * CUBES // length for length in target.shape[1:]]
        mask = torch.from_numpy(params["masked"][np.ix_(*cubes)])
        return {"image": torch.where(mask, target.mean((1, 2, 3), keepdim=True), target), "target": target}


class nnUNetTrainerRestoration_masking(nnUNetTrainerRestoration):
    """Masked autoencoder; the clean voxels count in validation only."""

    def corruption(self) -> RestorationTransform:
        return Masking()

    def _restore(self, batch: dict, network: torch.nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        restored, target = super()._restore(batch, network)
        if not self.network.training:
            return restored, target
        masked = batch["data"] != normalised(self, batch)
        return torch.where(masked.to(self.device), restored, target), target


class nnUNetTrainerRestoration_zscored(nnUNetTrainerRestoration):
    """Restores normalised intensities, which have no bounds."""

    def _restore(self, batch: dict, network: torch.nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(self.device, self.precision):
            output = (network or self.network)(batch["data"].to(self.device))
        return output.float(), normalised(self, batch).to(self.device)


def normalised(trainer: nnUNetTrainerRestoration, batch: dict) -> torch.Tensor:
    """The clean patches (B, C, Z, Y, X) in nnU-Net's intensities."""
    pairs = zip(batch["target"], batch["keys"], strict=True)
    return torch.stack([from_unit(target, trainer.ranges[case]) for target, case in pairs])


def _alone(name: str) -> dict[str, Any]:
    chances = {
        "p_shuffling": name == "shuffling",
        "p_intensity": name == "intensity",
        "p_painting": name.endswith("painting"),
        "p_inpainting": name == "inpainting",
    }
    return {"corruption": lambda self: RestorationTransform(**chances)}


def _named(base: type, variant: str, members: dict[str, Any]) -> dict[str, type]:
    name = f"{base.__name__}_{variant}"
    return {name: type(name, (base,), {"__module__": __name__, **members})}


for variant in CORRUPTIONS:
    globals().update(_named(nnUNetTrainerRestoration, variant, _alone(variant)))
for variant in (*CORRUPTIONS, "zscored", "masking"):
    for base in (nnUNetTrainerGenesis, nnUNetTrainerGenesisFull):
        globals().update(_named(base, variant, {}))
