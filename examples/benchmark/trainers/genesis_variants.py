"""Other ways to pretrain, to compare restoration with, and the same trainers of fine-tuning under names of their own.

    export nnUNet_extTrainer="$(nnUNetv2_genesis_trainers):examples/benchmark/trainers"
    nnUNetv2_genesis_pretrain 4 3d_fullres -tr nnUNetTrainerRestoration_masking -device cpu

shuffling, intensity, inpainting, outpainting: this corruption alone, in every patch. zscored: targets are nnU-Net's
normalised intensities, without a sigmoid, instead of [0, 1]. masking: nnUNetTrainerMasking under the variant's name.
(The figures of LOG.md of 2026-11-27 are of an earlier masking: cubes of a sixth of the patch.)
"""

from typing import Any

import torch

from nnunet_genesis.trainer import nnUNetTrainerGenesis, nnUNetTrainerGenesisFull
from nnunet_genesis.training.precision import autocast
from pretraining.intensity_range import from_unit
from pretraining.masking import nnUNetTrainerMasking
from pretraining.restoration import CORRUPTIONS, RestorationTransform
from pretraining.trainer import nnUNetTrainerRestoration


class nnUNetTrainerRestoration_masking(nnUNetTrainerMasking):
    """Masked autoencoding."""


class nnUNetTrainerRestoration_zscored(nnUNetTrainerRestoration):
    """Restores normalised intensities, which have no bounds."""

    def _restore(self, batch: dict, network: torch.nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(self.device, self.precision):
            output = (network or self.network)(batch["data"].to(self.device))
        pairs = zip(batch["target"], batch["keys"], strict=True)
        target = torch.stack([from_unit(target, self.ranges[case]) for target, case in pairs])
        return output.float(), target.to(self.device)


def _alone(name: str) -> dict[str, Any]:
    return {"corruption": lambda self: RestorationTransform.only(name, p_flip=0.4)}


def _named(base: type, variant: str, members: dict[str, Any]) -> dict[str, type]:
    name = f"{base.__name__}_{variant}"
    return {name: type(name, (base,), {"__module__": __name__, **members})}


for variant in CORRUPTIONS:
    globals().update(_named(nnUNetTrainerRestoration, variant, _alone(variant)))
for variant in (*CORRUPTIONS, "zscored", "masking"):
    for base in (nnUNetTrainerGenesis, nnUNetTrainerGenesisFull):
        globals().update(_named(base, variant, {}))
