"""nnU-Net's results on disk: which runs there are, what they stand for, and what their files say."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_genesis.comparison.subsets import ALL, Subset, SubsetMap
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json
from nnunet_genesis.folders import NNUNETS_FOLDS

# What is kept of nnU-Net's debug.json, and its names there.
RECORDED = {"epochs": "num_epochs", "iterations": "num_iterations_per_epoch", "initial_lr": "initial_lr",
            "batch_size": "batch_size"}  # fmt: skip
EPOCH = re.compile(r": Epoch (\d+)\s*$")
PSEUDO_DICE = re.compile(r": Pseudo dice \[(.*)\]")
PHASE = re.compile(r": Phase \d+ of \d+, epochs (\d+) to \d+: (.+?)\s*$")  # ours, of training/schedule.py
NUMBER = re.compile(r"(?<![\w.])(?:nan|\d+\.?\d*(?:e[-+]?\d+)?)")  # not the 32 of np.float32(0.5)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained fold with its validation: ``…/TRAINER__PLANS__CONFIG/fold_N``, and what its number stands for."""

    folder: Path
    subset: Subset

    @property
    def name(self) -> str:
        """``TRAINER__PLANS__CONFIG/fold_N``."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def validation(self) -> Path:
        """Folder of the predictions and of ``summary.json``."""
        return self.folder / "validation"

    @property
    def dataset_json(self) -> dict[str, Any]:
        """nnU-Net's description of the data set, as kept beside the model.

        Raises:
            GenesisError: it lacks the labels or the files' ending.
        """
        content = read_json(file := self.folder.parent / "dataset.json")
        if not (isinstance(content, dict) and {"labels", "file_ending"} <= content.keys()):
            raise GenesisError(f"{file}: expected nnU-Net's, with labels and file_ending. Restore it.")
        return content

    def recorded(self) -> dict[str, float]:
        """Read :data:`RECORDED` from nnU-Net's ``debug.json``, if it is there and they are numbers."""
        file, numbers = self.folder / "debug.json", {}
        found = read_json(file) if file.exists() else {}
        for name, key in RECORDED.items():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                numbers[name] = float(found[key])
        return numbers

    def configuration(self) -> dict[str, Any]:
        """Read the plan's configuration that the run was trained with, and those that it inherits from.

        Raises:
            GenesisError: the file isn't nnU-Net's plans, or lacks the configuration.
        """
        file, name = self.folder.parent / "plans.json", self.folder.parent.name.split("__")[2]
        try:
            known = read_json(file)["configurations"]
            found = known[name]
            while parent := found.pop("inherits_from", None):
                found = known[parent] | found
            list(found["spacing"])
        except (KeyError, TypeError, AttributeError) as error:
            raise GenesisError(
                f"{file}: expected nnU-Net's plans with {name} and its spacing, found {error!r}. Restore the file."
            ) from error
        return found

    def metrics(self) -> Iterator[tuple[str, str, dict[str, float]]]:
        """Read ``summary.json``: case, its reference file, and Dice by class (NaN where the class is in neither).

        Raises:
            GenesisError: the file isn't nnU-Net's.
        """
        file, ending = self.validation / "summary.json", self.dataset_json["file_ending"]
        try:
            for case in read_json(file)["metric_per_case"]:
                name = re.split(r"[/\\]", case["reference_file"])[-1].removesuffix(ending)
                dice = {label: float(metrics["Dice"]) for label, metrics in case["metrics"].items()}
                yield name, case["reference_file"], dice
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise GenesisError(
                f"{file}: expected nnU-Net's 'metric_per_case' with Dice of every class, found {error!r}. Write it "
                "anew: nnUNetv2_train … --val."
            ) from error

    def logged(self) -> tuple[dict[int, float], dict[int, str]]:
        """Read all logs: each epoch's mean pseudo-Dice, and the schedule's phases, their first epoch and name.

        An epoch that was repeated counts as it was last, and what comes after it in logs of before doesn't.
        """
        logs = sorted(
            self.folder.glob("training_log_*.txt"), key=lambda f: [int(n) for n in re.findall(r"\d+", f.name)]
        )
        dice, phases, epoch = dict[int, float](), dict[int, str](), 0
        for line in "\n".join(log.read_text(encoding="utf-8", errors="replace") for log in logs).splitlines():
            if start := EPOCH.search(line):
                epoch = int(start[1])
                dice = {earlier: value for earlier, value in dice.items() if earlier < epoch}
            elif values := PSEUDO_DICE.search(line):
                numbers = np.array(NUMBER.findall(values[1]), float)
                dice[epoch] = float(np.nanmean(numbers)) if np.isfinite(numbers).any() else float("nan")
            elif phase := PHASE.search(line):
                phases[int(phase[1])] = phase[2]
        return dice, {first: name for first, name in sorted(phases.items()) if first in dice}


def find_runs(folder: Path, subsets: SubsetMap) -> tuple[list[Run], list[str]]:
    """Find the validated runs of a data set, and remark on what is left out.

    Args:
        folder: the data set's folder in nnUNet_results, or a copy of its layout.
        subsets: what fold numbers stand for; a number that it doesn't know is a fold with all its cases.
    """
    runs, remarks = [], []
    for file in sorted(folder.glob("*__*__*/fold_*/validation/summary.json")):
        fold = file.parents[1]
        name, number = f"{fold.parent.name}/{fold.name}", fold.name.removeprefix("fold_")
        if not number.isdecimal() or name.count("__") != 2:
            why = "it was validated on training cases" if number == "all" else "expected TRAINER__PLANS__CONFIG/fold_N"
            remarks.append(f"{name}: left out, {why}.")
            continue
        if int(number) not in subsets.folds and int(number) >= NNUNETS_FOLDS:
            remarks.append(
                f"{name}: genesis_splits.json doesn't know this fold; taken as a fold of its own with all of its "
                "training cases."
            )
        runs.append(Run(fold, subsets.folds.get(int(number), Subset(int(number), ALL, None, 0))))
    return runs, remarks
