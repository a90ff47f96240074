"""nnU-Net's results on disk: which runs there are, what they stand for, and their cases' Dice."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_genesis.comparison.subsets import ALL, Subset, SubsetMap
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json

MEAN = "mean"  # of a case's classes
KEYS = ["plans", "configuration", "cases"]  # what two arms must share to be compared
NO_SEED = -1
NNUNET_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained fold with its validation.

    Attributes:
        folder: ``…/TRAINER__PLANS__CONFIG/fold_N``.
        trainer, plans, configuration: of the folder's name.
        subset: what the fold number stands for.
    """

    folder: Path
    trainer: str
    plans: str
    configuration: str
    subset: Subset

    @property
    def validation(self) -> Path:
        """Folder of the predictions and of ``summary.json``."""
        return self.folder / "validation"

    @property
    def dataset_json(self) -> dict[str, Any]:
        """nnU-Net's description of the data set, as kept beside the model."""
        return read_json(self.folder.parent / "dataset.json")

    def key(self) -> dict[str, Any]:
        """Columns that identify the run in a table."""
        subset, seed = self.subset, self.subset.seed
        return {
            "plans": self.plans,
            "configuration": self.configuration,
            "cases": str(subset.cases),
            "train": subset.train,
            "fold": subset.fold,
            "seed": NO_SEED if seed is None else seed,
            "trainer": self.trainer,
        }

    def metrics(self) -> Iterator[tuple[str, str, dict[str, float]]]:
        """Case, its reference file, and Dice by class (NaN where the class is in neither), from ``summary.json``.

        Raises:
            GenesisError: the file isn't nnU-Net's.
        """
        file, ending = self.validation / "summary.json", self.dataset_json.get("file_ending", "")
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


def find_runs(folder: Path, subsets: SubsetMap) -> tuple[list[Run], list[str]]:
    """The validated runs of a data set, and remarks on what was left out.

    Args:
        folder: the data set's folder in nnUNet_results, or a copy of its layout.
        subsets: what fold numbers stand for; a number that it doesn't know is a fold with all its cases.
    """
    runs, remarks = [], []
    for file in sorted(folder.glob("*__*__*/fold_*/validation/summary.json")):
        run_folder = file.parents[1]
        number, names = run_folder.name.removeprefix("fold_"), run_folder.parent.name.split("__")
        if not number.isdecimal() or len(names) != 3:
            remarks.append(f"{run_folder.parent.name}/{run_folder.name}: left out, it was validated on training cases.")
            continue
        trainer, plans, configuration = names
        if int(number) not in subsets.folds and int(number) >= NNUNET_FOLDS:
            remarks.append(
                f"{run_folder.parent.name}/{run_folder.name}: genesis_splits.json doesn't know this fold; taken as a "
                "fold of its own with all of its training cases."
            )
        subset = subsets.folds.get(int(number), Subset(int(number), ALL, None, 0))
        runs.append(Run(run_folder, trainer, plans, configuration, subset))
    return runs, remarks


def dice_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run, case and class (and the mean of a case's classes): the columns of :meth:`Run.key`, case, label,
    metric, value."""
    return table(
        [(run, case, label, "Dice", v) for run in runs for case, _, dice in run.metrics() for label, v in dice.items()]
    )


def table(rows: Sequence[tuple[Run, str, str, str, float]]) -> pd.DataFrame:
    """A table of (run, case, label, metric, value), with each case's mean over its classes; NaN doesn't count."""
    names = ("case", "label", "metric", "value")
    frame = pd.DataFrame([run.key() | dict(zip(names, rest, strict=True)) for run, *rest in rows])
    if frame.empty:
        return frame
    columns = [name for name in frame.columns if name not in ("label", "value")]
    means = frame.groupby(columns, sort=False, as_index=False)["value"].mean().assign(label=MEAN)
    return pd.concat([frame, means], ignore_index=True)


def class_names(dataset_json: dict[str, Any]) -> dict[str, str]:
    """nnU-Net's keys of classes and regions, ``"1"`` or ``"(1, 2)"``, with their names."""
    labels = dataset_json.get("labels", {})
    named = {str(tuple(value)) if isinstance(value, list) else str(value): name for name, value in labels.items()}
    return named | {MEAN: "mean of classes"}


def spacing_of(run: Run) -> list[float]:
    """Voxel spacing (z, y, x) in mm of the configuration that the run was planned with."""
    plans = read_json(run.folder.parent / "plans.json")
    configurations, name = plans["configurations"], run.configuration
    while "spacing" not in configurations[name]:
        name = configurations[name]["inherits_from"]
    return [float(value) for value in np.asarray(configurations[name]["spacing"])]
