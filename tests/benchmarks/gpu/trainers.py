"""Trainers that are about to take their first step, and steps in every number format and memory format."""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from pretraining.options import RestorationOptions
from pretraining.trainer import nnUNetTrainerRestoration
from tests.benchmarks.gpu.part import Part
from tests.benchmarks.gpu.plans import CONFIGURATION, LARGE
from tests.benchmarks.timing import quiet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
SIMILAR = 0.1  # losses after 20 steps in two number formats differ by less, relatively


def pretrainer(
    part: Part, configuration: str = CONFIGURATION, dataset: str = LARGE, **options: Any
) -> nnUNetTrainerRestoration:
    """A pretraining that is initialised."""
    trainer = _make(part, nnUNetTrainerRestoration, configuration, dataset)
    trainer.use(RestorationOptions(**options))
    return _initialised(trainer, 1e-3)


def finetuner(
    part: Part, kind: type[nnUNetTrainer] = nnUNetTrainer, configuration: str = CONFIGURATION, dataset: str = LARGE
) -> nnUNetTrainer:
    """A fine-tuning that is initialised, not compiled."""
    torch.manual_seed(0)
    os.environ["nnUNet_compile"] = "0"
    return _initialised(_make(part, kind, configuration, dataset), 1e-2)


def _make(part: Part, kind: type[nnUNetTrainer], configuration: str, dataset: str) -> Any:
    base = part.folder / "nnUNet_preprocessed" / dataset
    content = json.loads((base / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    with quiet():
        return kind(content, configuration, 0, json.loads((base / "dataset.json").read_text()), part.device)


def _initialised(trainer: Any, rate: float) -> Any:
    with quiet():
        trainer.initialize()
    trainer.network.train()
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate
    return trainer


@contextlib.contextmanager
def loaders(trainer: Any, workers: int) -> Iterator[tuple[Any, Any]]:
    """Its training and validation batches from ``workers`` processes, ended after the block."""
    os.environ["nnUNet_n_proc_DA"] = str(workers)
    with quiet():
        found = trainer.get_dataloaders()
    try:
        yield found
    finally:
        with quiet():  # batchgenerators ends its workers while its thread may still be reading from one
            for loader in found:
                if hasattr(loader, "_finish"):
                    loader._finish()
            time.sleep(0.5)


def some_batches(trainer: Any, number: int) -> list[dict]:
    """Real training batches, made in this process."""
    with loaders(trainer, 0) as (training, _):
        batches = [next(training) for _ in range(number)]
    return [{key: _pinned(value) for key, value in batch.items()} for batch in batches]


def _pinned(value: Any) -> Any:
    """As the loaders' processes give it where there is a GPU."""
    if not torch.cuda.is_available():
        return value
    if isinstance(value, list):
        return [_pinned(one) for one in value]
    return value.pin_memory() if isinstance(value, torch.Tensor) else value


def finetuning_step(trainer: nnUNetTrainer, precision: str, memory_format: str) -> Callable[[dict], torch.Tensor]:
    """nnU-Net's step in other formats, without its wait for every loss; the loss stays on the device."""
    device, scaler = trainer.device, torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    for parameter in trainer.network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=FORMATS[memory_format])

    def step(batch: dict) -> torch.Tensor:
        data = batch["data"].to(device, non_blocking=True, memory_format=FORMATS[memory_format])
        target = [one.to(device, non_blocking=True) for one in batch["target"]]
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32"):
            loss = trainer.loss(trainer.network(data), target)
        scaler.scale(loss).backward()
        scaler.unscale_(trainer.optimizer)
        torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 12)
        scaler.step(trainer.optimizer)
        scaler.update()
        return loss.detach()

    return step


def measure(part: Part, step: Callable[[dict], Any], batches: list[dict]) -> dict[str, Any]:
    """Milliseconds a step, patches a second, peak memory in GiB, and the mean loss of steps 17 to 20."""
    if part.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    losses, blocks = [], []
    warm, length, number = (1, 1, 2) if part.tiny else (8, 4, 3)
    for k in range(warm):
        losses.append(step(batches[k % len(batches)]))
    for block in range(number):
        part.wait()
        start = time.perf_counter()
        for k in range(warm + block * length, warm + (block + 1) * length):
            losses.append(step(batches[k % len(batches)]))
        part.wait()
        blocks.append((time.perf_counter() - start) / length)
    seconds = statistics.median(blocks)
    return {
        "ms": round(1e3 * seconds, 2),
        "patches/s": round(len(batches[0]["data"]) / seconds, 1),
        "GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1) if part.on_gpu else None,
        "loss": round(statistics.fmean(float(loss) for loss in losses[16:20] or losses[-1:]), 5),
    }
