"""A NaN in fp16 changes no weight and is counted; the 2019 network takes steps of both kinds."""

import math
from typing import Any

import torch

from nnunet_genesis.trainer import nnUNetTrainerGenesisScratch
from tests.benchmarks.gpu.part import Part
from tests.benchmarks.gpu.plans import SMALL, UNET3D
from tests.benchmarks.gpu.trainers import finetuner, pretrainer, some_batches


def main(part: Part) -> None:
    """Report a row a trainer.

    Raises:
        RuntimeError: a weight has changed or is not finite, or the step was not counted as skipped.
    """
    precision = "fp16" if part.on_gpu else "fp32"
    meet_nan(part, "pretraining", pretrainer(part, dataset=SMALL, precision=precision))
    meet_nan(part, "fine-tuning", finetuner(part, nnUNetTrainerGenesisScratch, dataset=SMALL))
    for what, trainer in (
        ("pretraining", pretrainer(part, UNET3D, SMALL, precision=precision)),
        ("fine-tuning", finetuner(part, nnUNetTrainerGenesisScratch, UNET3D, SMALL)),
    ):
        losses = [float(trainer.train_step(batch)["loss"]) for batch in some_batches(trainer, 2) * 5]
        part.row(f"GenesisUNet3D, {what}, 10 steps", losses=[round(losses[0], 4), round(losses[-1], 4)])
        _require(all(map(math.isfinite, losses)), f"GenesisUNet3D, {what}: losses {losses}")


def meet_nan(part: Part, what: str, trainer: Any) -> None:
    """Steps before, with and after a NaN in the input."""
    good = some_batches(trainer, 2)
    bad = {**good[0], "data": torch.full_like(good[0]["data"], math.nan)}
    for batch in good * 3:
        trainer.train_step(batch)
    before = _weights(trainer)
    skipped = bool(trainer.train_step(bad)["skipped"])
    unchanged = all(torch.equal(one, other) for one, other in zip(before, _weights(trainer), strict=True))
    outputs = [trainer.train_step(batch) for batch in good * 3]
    after = _weights(trainer)
    finite = all(bool(weight.isfinite().all()) for weight in after)
    learns = any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    later = sum(bool(output["skipped"]) for output in outputs)
    part.row(
        f"NaN, {what}", skipped=skipped, unchanged=unchanged, finite=finite, learns_after=learns, skipped_after=later
    )
    _require(skipped and unchanged and finite and learns, f"{what}: a NaN was not left out as it should")


def _weights(trainer: Any) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in trainer.network.parameters()]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise RuntimeError(message)
