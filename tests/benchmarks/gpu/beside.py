"""nnU-Net's own fine-tuning step beside ours: the same plan and batches, in turns."""

import statistics
import time

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_genesis.trainer import nnUNetTrainerGenesisScratch
from tests.benchmarks.gpu.part import Part
from tests.benchmarks.gpu.trainers import finetuner, some_batches

WANTED = 1.02  # times nnU-Net's


def main(part: Part) -> None:
    """Report both medians and their ratio.

    Raises:
        RuntimeError: ours is slower than it may be.
    """
    torch.backends.cudnn.benchmark = True  # as nnUNetv2_train
    trainers = {kind.__name__: finetuner(part, kind) for kind in (nnUNetTrainer, nnUNetTrainerGenesisScratch)}
    batches = some_batches(trainers["nnUNetTrainer"], 3)
    rounds, steps = (2, 1) if part.tiny else (16, 3)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(rounds + 1):
        for name in list(trainers)[:: 1 if turn % 2 else -1]:
            part.wait()
            start = time.perf_counter()
            for batch in batches[:steps]:
                trainers[name].train_step(batch)
            part.wait()
            if turn:  # the first one warms up
                seconds[name].append((time.perf_counter() - start) / steps)
    medians = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    theirs, ours = medians.values()
    part.row(
        "fine-tuning step, ms", **{name: round(ms, 2) for name, ms in medians.items()}, ratio=round(ours / theirs, 4)
    )
    if part.on_gpu and ours > WANTED * theirs:
        raise RuntimeError(f"ours takes {ours / theirs:.3f} times as long as nnU-Net's, expected at most {WANTED}")
