"""Seconds to R² 0.5 in the fastest setting, and what the plain one (fp32, contiguous) reaches in the same seconds."""

import time
from typing import Any

import torch

from pretraining.monitoring import r_squared
from tests.benchmarks.gpu.part import NotAvailable, Part
from tests.benchmarks.gpu.steps import best
from tests.benchmarks.gpu.trainers import loaders, pretrainer

GOAL, WORKERS, EVERY, WARMUP = 0.5, 8, 20, 40
LEAST = 45  # seconds
PLAIN = {"precision": "fp32", "format": "contiguous", "compile": False, "cudnn.benchmark": False}


def main(part: Part) -> None:
    """Report the curve of each setting: (seconds of training, steps, R²).

    Raises:
        NotAvailable: too little time is left for two curves.
    """
    if part.left < LEAST and not part.tiny:
        raise NotAvailable(f"{part.left:.0f} s are left, and two curves need {LEAST}")
    fastest = best(part)
    for name, setting in (("fastest", fastest), ("plain", PLAIN)):
        seconds = min(1.0 if part.tiny else 45.0, part.left / 2 - 8 if name == "fastest" else part.left - 6)
        torch.backends.cudnn.benchmark = setting["cudnn.benchmark"]
        trainer = pretrainer(
            part, precision=setting["precision"], memory_format=setting["format"], compile=setting["compile"]
        )
        with loaders(trainer, 1 if part.tiny else WORKERS) as (training, validation):
            curve = _curve(part, trainer, training, _shown(validation), seconds)
        reached = next((taken for taken, _, r2 in curve if r2 >= GOAL), None)
        setting = {key: setting[key] for key in PLAIN}
        part.row(f"R² {GOAL}, {name}", seconds=reached, last=curve[-1], curve=curve, **setting)
        if part.on_gpu:
            torch.cuda.empty_cache()


def _shown(validation: Any) -> list[dict]:
    """Batches with all corruptions."""
    batches = [next(validation) for _ in range(15)]
    return [batch for batch in batches if batch["kind"] == "all"]


def _curve(
    part: Part, trainer: Any, training: Any, shown: list[dict], seconds: float
) -> list[tuple[float, int, float]]:
    curve, steps, taken = [], 0, 0.0
    while taken < seconds:
        part.wait()
        start = time.perf_counter()
        for _ in range(2 if part.tiny else EVERY):
            for group in trainer.optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, (steps + 1) / WARMUP)
            trainer.train_step(next(training))
            steps += 1
        part.wait()
        taken += time.perf_counter() - start
        with torch.no_grad():
            sums = torch.stack([trainer.validation_step(batch)["sums"] for batch in shown])
        r2 = r_squared(sums[:, :4].float().cpu().numpy())  # of all voxels
        curve.append((round(taken, 2), steps, round(r2, 4)))
        if r2 >= GOAL:
            break
    return curve
