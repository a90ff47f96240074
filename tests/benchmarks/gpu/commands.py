"""The commands themselves, in processes of their own."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import nnunet_genesis
from tests.benchmarks.gpu.part import Part
from tests.benchmarks.gpu.plans import CONFIGURATION, SMALL

PRETRAIN = "from pretraining.__main__ import pretrain; pretrain()"
TRAIN = "from nnunetv2.run.run_training import run_training_entry; run_training_entry()"
PREDICT = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point; predict_entry_point()"
RANK = "from tests.benchmarks.gpu.rank import main; main()"
RESUME_STATUS = 75
CLOSE = 0.05  # relative difference of losses of the same run: a GPU's sums depend on the order of threads


class Command:
    """A command that runs; its results go to ``nnUNet_results/NAME``, its output to ``logs/NAME.txt``."""

    def __init__(self, part: Part, name: str, entry: str, arguments: Sequence[str], results: str = "", **env: str):
        self.part, self.name = part, name
        self.results = part.folder / "results" / (results or name)
        self.results.mkdir(parents=True, exist_ok=True)
        self.log = part.folder / "logs" / f"{name}.txt"
        self.log.parent.mkdir(exist_ok=True)
        here = {"nnUNet_results": str(self.results), "nnUNet_compile": "0", "nnUNet_n_proc_DA": "1"}
        here["nnUNet_def_n_proc"] = "2"
        here["nnUNet_extTrainer"] = str(Path(nnunet_genesis.__file__).parent / "trainers")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", entry, *arguments], env=os.environ | here | env, stdout=log, stderr=log
            )

    def finish(self, expected: int = 0) -> None:
        """Wait for it.

        Raises:
            RuntimeError: it takes too long, or its exit status isn't the expected one.
        """
        try:
            status = self.process.wait(max(1.0, self.part.left))
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = None
        if status != expected:
            said = self.log.read_text()[-1500:]
            raise RuntimeError(f"{self.name}: exit status {status}, expected {expected}. It said: {said}")

    def stop_in_epoch(self, epoch: int) -> None:
        """Send SIGTERM as soon as this epoch has begun, and wait for it to end as it should."""
        while f"\nEpoch {epoch}" not in f"\n{self._said()}".replace(": Epoch", "\nEpoch"):
            if self.process.poll() is not None or self.part.left < 1:
                break
            time.sleep(0.02)
        self.process.send_signal(signal.SIGTERM)
        self.finish(RESUME_STATUS)

    def _said(self) -> str:
        return "".join(file.read_text() for file in sorted(self.results.rglob("training_log_*.txt")))

    def folder(self, trainer: str = "nnUNetTrainerRestoration") -> Path:
        """Its results of fold 0."""
        return self.results / SMALL / f"{trainer}__nnUNetPlans__{CONFIGURATION}" / "fold_0"

    def logged(self, trainer: str = "nnUNetTrainerRestoration", file: str = "checkpoint_final.pth") -> dict[str, Any]:
        """The lists of nnU-Net's logger, from a checkpoint of ours."""
        return torch.load(self.folder(trainer) / file, map_location="cpu", weights_only=True)["logging"]


def pretraining_arguments(part: Part, *more: str, precision: str = "fp32") -> list[str]:
    """Of a short pretraining on the small data set."""
    epochs, iterations = ("3", "4") if part.tiny else ("3", "25")
    formats = ["--precision", precision, "--memory_format", "contiguous", "--seed", "3"]
    length = ["--epochs", epochs, "--iterations", iterations]
    return ["702", CONFIGURATION, "-device", part.device.type, *length, *formats, *more]


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest relative difference of two runs' losses; infinite where one is longer or not finite."""
    pairs = [(one[key], other[key]) for key in ("train_losses", "val_losses")]
    if any(len(ours) != len(theirs) for ours, theirs in pairs):
        return math.inf
    differences = [abs(a - b) / abs(b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)]
    return max(difference if math.isfinite(difference) else math.inf for difference in differences)


def require_close(part: Part, what: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Report how far two runs' losses are apart.

    Raises:
        RuntimeError: too far.
    """
    difference = largest_difference(one, other)
    part.row(what, largest_difference=difference, losses=[round(loss, 5) for loss in one["train_losses"]])
    if not difference < CLOSE:
        raise RuntimeError(f"{what}: losses differ by {difference:.2g}: {one['train_losses']}, {other['train_losses']}")
