"""Pretraining in other ways, to compare with: takes a variant's name, then nnUNetv2_genesis_pretrain's arguments.

    python examples/variants.py masking 4 3d_fullres -device cpu

shuffling, intensity, inpainting, outpainting: this corruption alone, in every patch. zscored: targets are nnU-Net's
normalised intensities, without a sigmoid, instead of [0, 1]. masking: no restoration but a masked autoencoder's task,
75 % of cubes of a sixth of the patch (He et al., CVPR 2022), with the loss on what is masked.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pretraining.run
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


class nnUNetTrainerMasking(nnUNetTrainerRestoration):
    """Masked autoencoder; the clean voxels count in validation only."""

    def corruption(self) -> RestorationTransform:
        return Masking()

    def _restore(self, batch: dict, network: torch.nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        restored, target = super()._restore(batch, network)
        if not self.network.training:
            return restored, target
        masked = batch["data"] != normalised(self, batch)
        return torch.where(masked.to(self.device), restored, target), target


class nnUNetTrainerZScored(nnUNetTrainerRestoration):
    """Restores normalised intensities, which have no bounds."""

    def _restore(self, batch: dict, network: torch.nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(self.device, self.precision):
            output = (network or self.network)(batch["data"].to(self.device))
        return output.float(), normalised(self, batch).to(self.device)


def normalised(trainer: nnUNetTrainerRestoration, batch: dict) -> torch.Tensor:
    """The clean patches (B, C, Z, Y, X) in nnU-Net's intensities."""
    pairs = zip(batch["target"], batch["keys"], strict=True)
    return torch.stack([from_unit(target, trainer.ranges[case]) for target, case in pairs])


def _alone(name: str) -> type[nnUNetTrainerRestoration]:
    chances = {
        "p_shuffling": name == "shuffling",
        "p_intensity": name == "intensity",
        "p_painting": name.endswith("painting"),
        "p_inpainting": name == "inpainting",
    }
    members = {"corruption": lambda self: RestorationTransform(**chances)}
    return type(f"nnUNetTrainerRestoration_{name}", (nnUNetTrainerRestoration,), members)


VARIANTS: dict[str, type[nnUNetTrainerRestoration]] = {
    "restoration": nnUNetTrainerRestoration,
    **{name: _alone(name) for name in CORRUPTIONS},
    "zscored": nnUNetTrainerZScored,
    "masking": nnUNetTrainerMasking,
}


def pretraining_command(variant: str) -> tuple[str, list[str]]:
    """A variant's trainer, and the beginning of the command that runs it."""
    command = [sys.executable, str(Path(__file__).resolve()), variant]
    return VARIANTS[variant].__name__, ["nnUNetv2_genesis_pretrain"] if variant == "restoration" else command


def main() -> None:
    """Run the command with the variant's trainer."""
    from pretraining.__main__ import pretrain

    pretraining.run.nnUNetTrainerRestoration = VARIANTS[sys.argv.pop(1)]  # type: ignore[misc]
    pretrain()


if __name__ == "__main__":
    main()
