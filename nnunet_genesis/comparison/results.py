"""The results of a data set as tables, read from nnU-Net's folders or from the small, tidy files of ``--export``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_genesis.comparison.nsd import nsd_of_run
from nnunet_genesis.comparison.runs import Run, find_runs
from nnunet_genesis.comparison.subsets import read_map
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path, read_json, regular_file, write_json

CASES, CURVES, PROTOCOL = "cases.csv", "curves.csv", "protocol.json"  # of an export
MEAN = "mean"  # of a case's classes
KEYS = ["plans", "configuration", "cases"]  # what two arms must share to be compared
RECORD = ("labels", "group_by", "nsd_tolerance_mm", "configurations", "runs")  # in protocol.json


@dataclasses.dataclass
class Results:
    """What is known of a data set's runs.

    Attributes:
        dataset: ``DatasetXXX_NAME``.
        labels: names of nnU-Net's keys of classes and regions, ``"1"`` or ``"(1, 2)"``.
        group_by: pattern of the patient in a case's name.
        nsd_tolerance_mm: what NSD was calculated with.
        configurations: by ``PLANS__CONFIG``, as planned.
        runs: by ``TRAINER__PLANS__CONFIG/fold_N``, what :class:`Subset` and ``debug.json`` say.
        cases: one row a run, case and class: run, case, label, Dice, NSD (NaN: the class is in neither, or not known).
        curves: one row a run and epoch: run, epoch, pseudo_dice.
        sources: nnU-Net's folders, where the tables come from those.
        remarks: on what was left out.
    """

    dataset: str
    labels: dict[str, str]
    group_by: str | None
    nsd_tolerance_mm: float
    configurations: dict[str, Any]
    runs: dict[str, dict[str, Any]]
    cases: pd.DataFrame
    curves: pd.DataFrame
    sources: list[Run] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)

    def of_runs(self) -> pd.DataFrame:
        """Tabulate the runs, by name: trainer, plans, configuration, cases, train, fold, seed, iterations an epoch."""
        frame = pd.DataFrame.from_dict(self.runs, orient="index")
        names = [name.split("/")[0].split("__") for name in frame.index]
        frame[["trainer", "plans", "configuration"]] = pd.DataFrame(names, frame.index).iloc[:, :3]
        steps = frame["iterations"] if "iterations" in frame else pd.Series(np.nan, frame.index)
        return frame.assign(
            cases=frame["cases"].map(str),
            seed=pd.to_numeric(frame["seed"]).fillna(-1).astype(int),
            iterations=pd.to_numeric(steps, errors="coerce"),
        )[[*KEYS, "train", "fold", "seed", "trainer", "iterations"]]

    def measured(self) -> pd.DataFrame:
        """Tabulate what was measured: the runs' columns, run, case, label (also :data:`MEAN`), metric, value."""
        means = self.cases.groupby(["run", "case"], sort=False, as_index=False)[["Dice", "NSD"]].mean()
        both = pd.concat([self.cases, means.assign(label=MEAN)], ignore_index=True).join(self.of_runs(), on="run")
        names = [name for name in both.columns if name not in ("Dice", "NSD")]
        return both.melt(names, ["Dice", "NSD"], "metric").dropna(subset="value")


def read_results(folder: Path, tolerance: float | None, preprocessed: Path, references: Sequence[Path]) -> Results:
    """Read a data set's results, of either form.

    Args:
        folder: the data set's folder, in nnUNet_results or in an export.
        tolerance: of NSD in mm; ``None``: as exported, or the median edge of the planned voxels.
        preprocessed: the data set's folder in nnUNet_preprocessed, which says what fold numbers stand for, unless
            the results do.
        references: further folders to look for reference segmentations in.

    Raises:
        GenesisError: there are no results, or a file isn't what it should be.
    """
    if (folder / PROTOCOL).exists():
        results = _read_export(folder)
        if tolerance not in (None, results.nsd_tolerance_mm):
            results.nsd_tolerance_mm, results.cases["NSD"] = tolerance, np.nan
    else:
        results = _read_nnunet(folder, tolerance, preprocessed, references)
    unknown = results.cases[results.cases["NSD"].isna() & results.cases["Dice"].notna()]
    results.remarks += [
        f"{name}: no NSD; predictions or references aren't there, and none is stored for a tolerance of "
        f"{results.nsd_tolerance_mm:g} mm."
        for name in unknown["run"].unique()
    ]
    steps = results.of_runs()["iterations"]
    results.remarks += [
        f"{name}: not among the training curves; its debug.json isn't there." for name in steps.index[steps.isna()]
    ]
    return results


def _read_nnunet(folder: Path, tolerance: float | None, preprocessed: Path, references: Sequence[Path]) -> Results:
    copy = folder / "genesis_splits.json"
    subsets = read_map(copy if copy.exists() else preprocessed / copy.name)
    runs, remarks = find_runs(folder, subsets)
    if not runs:
        raise GenesisError(
            f"{folder}: expected TRAINER__PLANS__CONFIG/fold_N/validation/summary.json, found none. Train first "
            "(nnUNetv2_train … -tr nnUNetTrainerGenesis), or correct -d, nnUNet_results or --results."
        )
    configurations = {run.folder.parent.name.partition("__")[2]: run.configuration() for run in runs}
    if tolerance is None:
        tolerance = float(np.median(next(iter(configurations.values()))["spacing"]))
    cases, curves = [], []
    for run in runs:
        surface = nsd_of_run(run, tolerance, references) or {}
        for case, _, dice in run.metrics():
            known = surface.get(case, {})
            cases += [(run.name, case, label, value, known.get(label, np.nan)) for label, value in dice.items()]
        curves += [(run.name, epoch, value) for epoch, value in run.pseudo_dice().items()]
    return Results(
        folder.name,
        _class_names(runs[0].dataset_json),
        subsets.group_by,
        tolerance,
        configurations,
        {run.name: dataclasses.asdict(run.subset) | run.recorded() for run in runs},
        pd.DataFrame(cases, columns=["run", "case", "label", "Dice", "NSD"]),
        pd.DataFrame(curves, columns=["run", "epoch", "pseudo_dice"]),
        runs,
        remarks,
    )


def _class_names(dataset_json: dict[str, Any]) -> dict[str, str]:
    labels = dataset_json.get("labels", {})
    return {str(tuple(value)) if isinstance(value, list) else str(value): name for name, value in labels.items()}


def write_export(results: Results, folder: Path) -> None:
    """Write ``cases.csv`` (run, case, class, Dice, NSD), ``curves.csv`` and ``protocol.json``: no images, no paths."""
    folder.mkdir(parents=True, exist_ok=True)
    names = results.cases["label"].map(lambda label: results.labels.get(label, label))
    tables = {CASES: results.cases.assign(label=names).rename(columns={"label": "class"}), CURVES: results.curves}
    for name, table in tables.items():
        with atomic_path(folder / name) as path:
            table.to_csv(path, index=False)
    write_json({name: getattr(results, name) for name in RECORD}, folder / PROTOCOL)


def _read_export(folder: Path) -> Results:
    try:
        record = read_json(folder / PROTOCOL)
        keys = {name: key for key, name in record["labels"].items()}
        cases = _read_csv(folder / CASES, ["run", "case", "class"], ["Dice", "NSD"])
        cases["class"] = cases["class"].map(lambda name: keys.get(name, name))
        curves = _read_csv(folder / CURVES, ["run"], ["epoch", "pseudo_dice"])
        tables = {"cases": cases.rename(columns={"class": "label"}), "curves": curves}
        results = Results(folder.name, **{name: record[name] for name in RECORD}, **tables)
        if unknown := {*cases["run"], *curves["run"]} - {*results.of_runs().index}:
            raise KeyError(sorted(unknown)[0])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GenesisError(
            f"{folder}: expected {CASES}, {CURVES} and {PROTOCOL} as nnUNetv2_genesis_report --export writes them, "
            f"found {error!r}. Restore them."
        ) from error
    return results


def _read_csv(file: Path, texts: list[str], numbers: list[str]) -> pd.DataFrame:
    """Read a table; its numbers to the last bit, which pandas' own reader doesn't promise."""
    frame = pd.read_csv(regular_file(file, "a table"), dtype=str, keep_default_na=False)[texts + numbers]
    return frame.assign(**{name: frame[name].replace("", "nan").astype(float) for name in numbers})
