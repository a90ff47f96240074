"""How busy the GPU is with the real loader, how long it waits for batches, and what the loaders make alone."""

import time
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.gpu.part import Part
from tests.benchmarks.gpu.steps import best
from tests.benchmarks.gpu.trainers import finetuner, loaders, pretrainer

WORKERS = (4, 2, 8, 1)
WANTED = 0.95  # share of the time, with at most 4 workers


def main(part: Part) -> None:
    """Report a row a number of workers."""
    fastest = best(part)
    torch.backends.cudnn.benchmark = fastest["cudnn.benchmark"]
    options = {"precision": fastest["precision"], "memory_format": fastest["format"]}
    trainer = pretrainer(part, **options)
    for workers in WORKERS[1:2] if part.tiny else WORKERS:
        with loaders(trainer, workers) as (training, _):
            _steady(part, trainer, training, workers)
    tuned = finetuner(part)
    for what, maker, numbers in (("pretraining", trainer, (1, 4, 12)), ("fine-tuning", tuned, (4, 12))):
        for workers in (1,) if part.tiny else numbers:
            if part.left > 12:
                _alone(part, what, maker, workers)


def _steady(part: Part, trainer: Any, training: Any, workers: int) -> None:
    seconds = 0.3 if part.tiny else 3.0
    _train(part, trainer, training, 0.1 if part.tiny else 1.5, least=4 * workers)  # the queues' batches are made ahead
    steps, wall, waiting = _train(part, trainer, training, seconds)
    rate = steps * len(next(training)["data"]) / wall
    busy = None
    if part.on_gpu:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            _, profiled_wall, _ = _train(part, trainer, training, 1.0)
        busy = round(_covered(profiled) / profiled_wall, 3)
    part.row(
        f"pretraining with {workers} workers",
        busy=busy,
        waiting=round(waiting / wall, 3),
        **{"patches/s": round(rate, 1)},
        enough=None if busy is None else busy >= WANTED,
    )


def _train(part: Part, trainer: Any, training: Any, seconds: float, least: int = 2) -> tuple[int, float, float]:
    """Steps, seconds, and seconds of this process' waiting for batches, in which the GPU may still have work."""
    part.wait()
    steps, waiting, start = 0, 0.0, time.perf_counter()
    while steps < least or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        batch = next(training)
        waiting += time.perf_counter() - before
        trainer.train_step(batch)
        steps += 1
    part.wait()
    return steps, time.perf_counter() - start, waiting


def _covered(profiled: Any) -> float:
    """Seconds in which the GPU computed or copied: the union of all its events."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == DeviceType.CUDA
    )
    covered, end = 0.0, float("-inf")
    for first, last in spans:
        covered += max(0.0, last - max(first, end))
        end = max(end, last)
    return covered / 1e6


def _alone(part: Part, what: str, trainer: Any, workers: int) -> None:
    """Patches a second where nobody trains."""
    with loaders(trainer, workers) as (training, _):
        for _ in range(3 * workers if what == "pretraining" else workers + 1):
            next(training)
        count, start = 0, time.perf_counter()
        while count < 2 or time.perf_counter() - start < (0.2 if part.tiny else 3.0):
            count += len(next(training)["data"])
        rate = count / (time.perf_counter() - start)
    part.row(f"loader of {what} alone, {workers} workers", **{"patches/s": round(rate, 1)})
