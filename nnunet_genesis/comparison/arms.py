"""The classifiers of a data set: their out-of-fold predictions, from nnU-Net's folders or from ``--export``'s table."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_genesis.classification import metrics
from nnunet_genesis.classification.labels import PREDICTIONS, SCORE
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path, regular_file

EXPORTED = "predictions.csv"
TEXTS = ("run", "case", "group", "label")  # everything else is numbers


@dataclasses.dataclass(eq=False)
class Arm:
    """A trainer's out-of-fold predictions.

    Attributes:
        tables: by run; a row an item, the same in all.
        probabilities: (items, runs, classes, in their order).
    """

    trainer: str
    plans: str
    configuration: str
    tables: dict[int, pd.DataFrame]

    def __post_init__(self) -> None:
        self.table = next(iter(self.tables.values()))
        columns = [name for name in self.table.columns if name.startswith(SCORE)]
        self.classes = [name.removeprefix(SCORE) for name in columns]
        self.probabilities = np.stack([table[columns].to_numpy(float) for table in self.tables.values()], 1)
        self.ranks, self.patients = self.table["rank"].to_numpy(int), self.table["group"].to_numpy(str)
        self.candidates = "x" in self.table and len(self.classes) == 2
        cases = self.table["case"].to_numpy(str)
        self.key = (self.trainer, self.plans, self.configuration)
        self.metrics = metrics.METRICS | ({"CPM": metrics.cpm_of(cases)} if self.candidates else {})

    @cache  # noqa: B019 - as long as the arm
    def resampled(self, metric: str) -> np.ndarray:
        """Return the metric in each resample of the bootstrap."""
        return metrics.resampled(self.metrics[metric], self.ranks, self.probabilities, self.patients)


def find_arms(folders: Sequence[Path]) -> list[Arm]:
    """Find a data set's arms, without folds that validate training cases (``all``).

    Args:
        folders: of the data set, in nnUNet_results or in an export; the further ones hold the same arms trained again.

    Raises:
        GenesisError: a file of predictions isn't ours, or an arm's items differ between folders.
    """
    found: dict[str, dict[int, pd.DataFrame]] = {}
    for folder in folders:
        first = max((run + 1 for tables in found.values() for run in tables), default=0)
        for model, run, table in _exported(folder / EXPORTED) if (folder / EXPORTED).exists() else _validated(folder):
            tables = found.setdefault(model, {})
            if any(table.equals(known) for known in tables.values()):
                raise GenesisError(
                    f"{folder / model}: has the predictions of another run of --results: a training given twice "
                    "would count as two. Give each once."
                )
            if tables and not same_items(table, known := next(iter(tables.values()))):
                raise GenesisError(
                    f"{folder / model}: has {len(table)} items in {table['fold'].nunique()} folds, and other ones than "
                    f"the {len(known)} of this arm's earlier run. Give --results of the same labels and split."
                )
            tables[first + run] = table
    keys = {model: model.split("__") for model in found}
    return [Arm(trainer, plans, name, found[model]) for model, (trainer, plans, name) in keys.items()]


def same_items(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Say whether two runs classified the same items, of the same patients, into the same classes."""
    keys = [key for key in ("case", "x", "y", "z", "rank", "group") if key in one]
    return one.columns.equals(other.columns) and one[keys].equals(other[keys])


def write_export(arms: Sequence[Arm], folder: Path) -> None:
    """Write ``predictions.csv``, a row an item and run: no images, no paths, but names of cases and patients."""
    runs = {"__".join(arm.key) + f"@{run + 1}": table for arm in arms for run, table in arm.tables.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / EXPORTED) as path:
        pd.concat(runs, names=["run"]).reset_index("run").to_csv(path, index=False, float_format="%.6g")


def _validated(folder: Path) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Read nnU-Net's folders: ``TRAINER__PLANS__CONFIG``, 0, and the table of all its folds."""
    for model in sorted(folder.glob("*__*__*")):
        files = sorted(model.glob(f"fold_[0-9]*/validation/{PREDICTIONS}"))
        if not files or model.name.count("__") != 2:
            continue
        remedy = f"Write each fold's {PREDICTIONS} anew: nnUNetv2_train … --val."
        parts = [_whole(_read(file, remedy), file, remedy) for file in files]
        if any(not part.columns.equals(parts[0].columns) for part in parts):
            raise GenesisError(f"{model}: the folds' {PREDICTIONS} have other columns. {remedy}")
        counts = Counter(case for part in parts for case in part["case"].unique())
        if twice := [case for case, count in counts.items() if count > 1]:
            folds = ", ".join(file.parents[1].name for file in files)
            raise GenesisError(
                f"{model}: {min(twice)} was validated in several of {folds}, expected each case in one. Move away "
                "the folds of another split."
            )
        yield model.name, 0, pd.concat(parts, ignore_index=True)


def _exported(file: Path) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Read what :func:`write_export` wrote: ``TRAINER__PLANS__CONFIG``, number of the run from 0, its table."""
    remedy = "Restore it, or write it anew: nnUNetv2_genesis_report … --export."
    for name, table in _read(file, remedy, "run").groupby("run", sort=False):
        model, _, number = str(name).rpartition("@")
        if model.count("__") != 2 or not number.isdecimal() or number == "0":
            raise GenesisError(f"{file}: run {name!r}: expected TRAINER__PLANS__CONFIG@NUMBER. {remedy}")
        own = table.loc[:, table.notna().any() | (table.columns == "volume")]  # arms may differ in columns
        yield model, int(number) - 1, _whole(own.drop(columns="run").reset_index(drop=True), file, remedy)


def _read(file: Path, remedy: str, *columns: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(regular_file(file, "a table"), dtype=str, keep_default_na=False)
        numbers = [name for name in table if name not in TEXTS]
        table[numbers] = table[numbers].replace("", "nan").astype(float)
    except ValueError as error:
        raise GenesisError(f"{file}: can't be read ({error}). {remedy}") from error
    if missing := {"case", "group", "label", "rank", "volume", "fold", *columns} - set(table.columns):
        raise GenesisError(f"{file}: lacks the columns {', '.join(sorted(missing))}. {remedy}")
    return table


def _whole(table: pd.DataFrame, file: Path, remedy: str) -> pd.DataFrame:
    if table.drop(columns="volume").isna().any(axis=None) or (table[["case", "group"]] == "").any(axis=None):
        raise GenesisError(f"{file}: has empty fields. {remedy}")
    return table
