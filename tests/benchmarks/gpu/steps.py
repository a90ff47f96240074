"""A step of pretraining and of fine-tuning in every format, not compiled; ``steps:compiled`` has compiled ones.

``steps:warm-K`` only fills torch.compile's cache with the K-th compiled one, while other parts that time nothing run.
"""

import gc
import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.benchmarks.gpu.part import NotAvailable, Part
from tests.benchmarks.gpu.plans import CONFIGURATION, RESENC
from tests.benchmarks.gpu.trainers import (
    DTYPES,
    FORMATS,
    SIMILAR,
    finetuner,
    finetuning_step,
    measure,
    pretrainer,
    some_batches,
)

TASKS = ("pretraining", "fine-tuning")
Choice = tuple[str, str, str, str, bool]  # task, configuration, precision, memory format, cudnn.benchmark
COMPILED: tuple[Choice, ...] = (  # of a network that nnU-Net compiles by default, and of ours where it may pay
    ("pretraining", CONFIGURATION, "bf16", "contiguous", True),
    ("pretraining", CONFIGURATION, "bf16", "channels_last", True),
    ("fine-tuning", CONFIGURATION, "fp16", "contiguous", True),
)


def main(part: Part) -> None:
    """Report a row a combination, the most telling ones first, until the time is over.

    Raises:
        RuntimeError: losses differ by more than rounding.
    """
    torch.set_num_threads(1 if part.tiny else 8)  # networks are initialised on the CPU
    if part.argument:
        _compiled(part)
        return
    batches: dict[tuple[str, str], list[dict]] = {}
    for choice in _choices(part):
        if part.left < 12:
            part.row("no time left from here on", task=choice[0], precision=choice[2], format=choice[3])
            break
        task, configuration, *_ = choice
        if (task, configuration) not in batches:
            maker: Callable[..., Any] = pretrainer if task == "pretraining" else finetuner
            batches[task, configuration] = some_batches(maker(part, configuration=configuration), 4)
        _report(part, choice, batches[task, configuration])
    _compare_losses(part)


def _choices(part: Part) -> Iterator[Choice]:
    """Today's formats and what may win first; each once."""
    everything = itertools.product(TASKS, (CONFIGURATION, RESENC), DTYPES, FORMATS, (True, False))
    if not part.on_gpu:
        return iter(
            [
                ("pretraining", CONFIGURATION, "fp32", "channels_last", True),
                ("fine-tuning", RESENC, "fp32", "contiguous", True),
            ]
        )
    first: list[Choice] = [(task, CONFIGURATION, number, "contiguous", True) for number in DTYPES for task in TASKS]
    first += [("pretraining", RESENC, number, "contiguous", True) for number in ("bf16", "fp16")]
    first += [
        ("fine-tuning", RESENC, "fp16", "contiguous", True),
        ("pretraining", CONFIGURATION, "bf16", "channels_last", True),
    ]
    return iter(dict.fromkeys([*first, *sorted(everything, key=lambda choice: choice[1])]))


def _compiled(part: Part) -> None:
    if not part.on_gpu:
        raise NotAvailable("compiled steps are for GPUs")
    warm = part.argument.startswith("warm-")
    for choice in [COMPILED[int(part.argument[5:])]] if warm else COMPILED:
        maker: Callable[..., Any] = pretrainer if choice[0] == "pretraining" else finetuner
        batches = some_batches(maker(part, configuration=choice[1]), 4)
        if warm:
            step, _ = _step(part, choice, compiled=True)
            for batch in batches[:3]:
                step(batch)
            part.wait()
            part.row(f"{choice[0]} {choice[2]} {choice[3]}: compiled and cached")
        elif part.left > 15:
            _report(part, choice, batches, compiled=True)


def _report(part: Part, choice: Choice, batches: list[dict], compiled: bool = False) -> None:
    task, configuration, precision, memory, benchmark = choice
    torch.backends.cudnn.benchmark = benchmark
    cells = {"precision": precision, "format": memory, "compile": compiled, "cudnn.benchmark": benchmark}
    try:
        step, trainer = _step(part, choice, compiled)
        patch = trainer.configuration_manager.patch_size[0]
        part.row(task, network=configuration, patch=patch, **cells, **measure(part, step, batches))
    except RuntimeError as error:  # memory, too
        part.row(task, network=configuration, **cells, failed=str(error)[:200])
    step = trainer = None  # type: ignore[assignment]
    gc.collect()  # a trainer's references are cyclic
    if part.on_gpu:
        torch.cuda.empty_cache()


def _step(part: Part, choice: Choice, compiled: bool) -> tuple[Callable[[dict], Any], Any]:
    task, configuration, precision, memory, _ = choice
    if task == "pretraining":
        trainer = pretrainer(part, configuration, precision=precision, memory_format=memory, compile=compiled)
        return lambda batch: trainer.train_step(batch)["loss"], trainer
    tuned = finetuner(part, configuration=configuration)
    step = finetuning_step(tuned, precision, memory)
    if compiled:
        tuned.network = torch.compile(tuned.network)
    return step, tuned


def _compare_losses(part: Part) -> None:
    if failed := [row["failed"] for row in part.rows("steps") if "memory" not in row.get("failed", "memory")]:
        raise RuntimeError(f"{len(failed)} combinations failed: {failed[0]}")
    rows = [row for row in part.rows("steps") if "loss" in row]
    for task, network in {(row["what"], row["network"]): None for row in rows}:
        losses = [row["loss"] for row in rows if (row["what"], row["network"]) == (task, network)]
        middle = statistics.median(losses)
        spread = max(abs(loss - middle) for loss in losses) / abs(middle)
        part.row(f"{task}, {network}: losses after 20 steps", median=middle, largest_difference=round(spread, 4))
        if not spread < SIMILAR:
            raise RuntimeError(f"{task}, {network}: losses differ by {spread:.0%} among formats: {losses}")


def best(part: Part, task: str = "pretraining") -> dict[str, Any]:
    """The row of the fastest combination for the default network, not compiled; today's where nothing was measured."""
    rows = [row for row in part.rows("steps") if row["what"] == task and row.get("network") == CONFIGURATION]
    rows = [row for row in rows if not row.get("compile")]
    today = {"precision": "auto", "format": "contiguous", "compile": False, "cudnn.benchmark": False}
    return max([row for row in rows if "patches/s" in row], key=lambda row: row["patches/s"], default=today)
