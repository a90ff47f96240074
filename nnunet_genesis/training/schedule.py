"""Learning rates by epoch: schedules of warm-ups and decays, what they train, and defaults by a run's length."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunet_genesis.errors import GenesisError

SCHEDULES = ("warmup", "sawtooth", "poly")
POLY_EXPONENT = 0.9  # nnU-Net's
STOCK_LR = 1e-2  # nnUNetTrainer's
EARLY_LR = 1e-3  # of runs that began before peaks were derived, and of AdamW
WARMUP_PATCHES = 25_000  # published: 12,500 steps of batch 2, which are 50 of nnU-Net's epochs
SAWTOOTH = (25, 25, 50)  # published epochs: the decoder's warm-up, the decoder's decay, everything's warm-up
# Peaks of SGD. 1e-2 did well in runs of 1,000 to 4,000 patches, where 1e-3 was tried once, at 1,000, and did badly;
# 1e-3 is what benchmarks of 75,000 (150 epochs) to 500,000 patches found best. In between nothing was measured.
SHORT_RUN, LONG_RUN = 4_000, 75_000


def default_peak(patches: int) -> float:
    """Give SGD's peak for a run of ``patches``: 1e-2 up to 4,000, 1e-3 from 75,000 on, in between log-linear."""
    share = math.log(max(patches, SHORT_RUN) / SHORT_RUN) / math.log(LONG_RUN / SHORT_RUN)
    return float(f"{1e-2 * 10 ** -min(1.0, share):.2g}")


def default_warmup(epochs: int, patches_an_epoch: int = 500) -> int:
    """Give the epochs of warm-up: 25,000 patches (50 of nnU-Net's epochs), or a tenth of a shorter run."""
    return min(round(WARMUP_PATCHES / patches_an_epoch), round(0.1 * epochs))


@dataclasses.dataclass(frozen=True)
class Phase:
    """Epochs ``start`` to ``end`` - 1 of a run, in which the learning rate rises, or decays.

    Attributes:
        start: first epoch.
        end: epoch after the last one.
        peak_lr: where a warm-up ends, and a decay begins.
        kind: ``warm-up`` (linear from ``peak_lr / epochs``), ``poly`` (nnU-Net's) or ``cosine``.
        frozen: the encoder is left as it is.
    """

    start: int
    end: int
    peak_lr: float
    kind: str
    frozen: bool

    @property
    def name(self) -> str:
        """Say what is trained and how, for log and plot."""
        return f"{'decoder only' if self.frozen else 'everything'}, {self.kind}"

    def rate(self, epoch: int) -> float:
        """Return the learning rate of ``epoch``."""
        done, epochs = epoch - self.start, self.end - self.start
        if self.kind == "warm-up":
            return self.peak_lr * (done + 1) / epochs
        if self.kind == "cosine":
            return self.peak_lr * (1 + math.cos(math.pi * done / epochs)) / 2
        return self.peak_lr * (1 - done / epochs) ** POLY_EXPONENT

    def __str__(self) -> str:
        return f"epochs {self.start} to {self.end - 1}: {self.name}"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What decides a run's learning rates, beside its number of epochs; a checkpoint keeps it.

    Attributes:
        kind: one of :data:`SCHEDULES`, or ``cosine`` (warm-up, then half a cosine).
        peak_lr: where each warm-up ends.
        lengths: epochs of warm-up; of the sawtooth as :data:`SAWTOOTH`.
        frozen: the encoder is left as it is for the whole run.
    """

    kind: str
    peak_lr: float
    lengths: Sequence[int] = (0,)
    frozen: bool = False

    @classmethod
    def chosen(
        cls,
        kind: str = "warmup",
        *,
        epochs: int,
        patches_an_epoch: int,
        optimizer: str = "sgd",
        peak_lr: float | None = None,
        warmup: int | None = None,
        frozen: bool = False,
    ) -> "Schedule":
        """Choose what is not given (``None``) by the run's length and the optimiser.

        Raises:
            GenesisError: what was asked for doesn't go together.
        """
        problems = {
            f"nnUNet_genesis_warmup_epochs={warmup}: schedule {kind} has lengths of its own": kind != "warmup"
            and warmup is not None,
            f"nnUNet_genesis_optimizer={optimizer}: schedule poly is stock nnU-Net's, with SGD": kind == "poly"
            and optimizer != "sgd",
            "nnUNet_genesis_freeze: the sawtooth freezes by itself": kind == "sawtooth" and frozen,
            f"nnUNet_genesis_schedule=sawtooth: expected at least 4 epochs, found {epochs}": kind == "sawtooth"
            and epochs < 4,
        }
        for problem in (text for text, found in problems.items() if found):
            raise GenesisError(f"{problem}. Unset one of the two, or train longer.")
        if peak_lr is None:
            by_length = default_peak(epochs * patches_an_epoch) if optimizer == "sgd" else EARLY_LR
            peak_lr = STOCK_LR if kind == "poly" else by_length
        tenth = max(1, epochs // 10)
        lengths = {"poly": (0,), "sawtooth": SAWTOOTH if epochs >= 500 else (tenth,) * 3}
        given = default_warmup(epochs, patches_an_epoch) if warmup is None else warmup
        return cls(kind, peak_lr, lengths.get(kind, (given,)), frozen)

    def phases(self, epochs: int) -> list[Phase]:
        """Divide a run of ``epochs``."""
        decay = "cosine" if self.kind == "cosine" else "poly"
        *decoder, warmup = self.lengths
        parts = [("warm-up", decoder[0], True), ("poly", decoder[1], True)] if decoder else []
        begun = sum(decoder) + warmup
        parts += [("warm-up", warmup, self.frozen), (decay, max(1, epochs - begun), self.frozen)]
        found: list[Phase] = []
        start = 0
        for kind, length, frozen in parts:
            if length and (start < epochs or not found):
                found.append(Phase(start, start + length, self.peak_lr, kind, frozen))
            start += length
        return found

    def to_plain(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return dataclasses.asdict(self) | {"lengths": list(self.lengths)}

    @classmethod
    def from_plain(cls, stored: Mapping[str, Any]) -> "Schedule":
        """Read what :meth:`to_plain` gave.

        Raises:
            GenesisError: it is something else.
        """
        try:
            lengths = tuple(int(length) for length in stored["lengths"])
            found = cls(str(stored["kind"]), float(stored["peak_lr"]), lengths, bool(stored["frozen"]))
            if found.kind in (*SCHEDULES, "cosine") and len(lengths) in (1, 3) and min(lengths) >= 0:
                return found
        except (TypeError, KeyError, ValueError):
            pass
        raise GenesisError(f"The checkpoint's schedule is {stored!r}, which this version can't read. Upgrade it.")


def number_of(phases: Sequence[Phase], epoch: int) -> int:
    """Say which of the phases ``epoch`` belongs to, from 0."""
    return sum(phase.start <= epoch for phase in phases) - 1


class PhasedLRScheduler(PolyLRScheduler):
    """Sets the learning rate of each epoch as its phase says; called with the epoch, as nnU-Net's schedulers."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, epochs: int):
        self.phases = schedule.phases(epochs)
        super().__init__(optimizer, schedule.peak_lr, epochs)

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of epoch ``current_step`` (default: the next one)."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.phases[number_of(self.phases, current_step)].rate(current_step)
