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
from nnunet_genesis.folders import SUBSETS

CASES, CURVES, PROTOCOL = "cases.csv", "curves.csv", "protocol.json"  # of an export
MEAN = "mean"  # of a case's classes
KEYS = ["plans", "configuration", "cases"]  # what two arms must share to be compared
RUN = ["fold", "seed", "repetition"]  # what names a run of an arm; both arms of a pair share it
RECORD = ("labels", "group_by", "nsd_tolerance_mm", "configurations", "runs")  # in protocol.json


@dataclasses.dataclass
class Results:
    """What is known of the runs of ``DatasetXXX_NAME``.

    Attributes:
        labels: names of nnU-Net's keys of classes and regions, ``"1"`` or ``"(1, 2)"``.
        group_by: pattern of the patient in a case's name.
        configurations: by ``PLANS__CONFIG``, as planned.
        runs: by ``TRAINER__PLANS__CONFIG/fold_N``, what :class:`Subset`, ``debug.json`` and the logs say.
        cases: one row a run, case and class: run, case, label, Dice, NSD (NaN: the class is in neither, or not known).
        curves: one row a run and epoch: run, epoch, pseudo_dice.
        sources: nnU-Net's folders, where the tables come from those.
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

    @property
    def unit(self) -> str:
        """What sizes count."""
        return "cases" if self.group_by is None else "patients"

    def of_runs(self) -> pd.DataFrame:
        """Tabulate the runs, by name: trainer, plans, configuration, cases, train, the run, iterations an epoch."""
        frame = pd.DataFrame.from_dict(self.runs, orient="index")
        names = [name.split("/")[0].split("__") for name in frame.index]
        frame[["trainer", "plans", "configuration"]] = pd.DataFrame(names, frame.index).iloc[:, :3]
        frame = frame.reindex(columns=[*KEYS, "train", *RUN, "trainer", "iterations"])
        return frame.assign(
            cases=frame["cases"].map(str),
            train=pd.to_numeric(frame["train"]).where(lambda number: number > 0),  # 0: not known
            seed=pd.to_numeric(frame["seed"]).fillna(-1).astype(int),
            repetition=pd.to_numeric(frame["repetition"]).fillna(0).astype(int),
            iterations=pd.to_numeric(frame["iterations"], errors="coerce"),
        )

    def phases(self) -> dict[str, list[tuple[int, str]]]:
        """Give each run's phases of the schedule, first epoch and name, where they are known."""
        return {name: [(int(n), str(text)) for n, text in run.get("phases", [])] for name, run in self.runs.items()}

    def measured(self) -> pd.DataFrame:
        """Tabulate what was measured: the runs' columns, run, case, label (also :data:`MEAN`), metric, value."""
        means = self.cases.groupby(["run", "case"], sort=False, as_index=False)[["Dice", "NSD"]].mean()
        both = pd.concat([self.cases, means.assign(label=MEAN)], ignore_index=True).join(self.of_runs(), on="run")
        names = [name for name in both.columns if name not in ("Dice", "NSD")]
        return both.melt(names, ["Dice", "NSD"], "metric").dropna(subset="value")


def read_results(folder: Path, tolerance: float | None, preprocessed: Path, references: Sequence[Path]) -> Results:
    """Read a data set's results, of either form.

    Args:
        folder: the data set's, in nnUNet_results or in an export.
        tolerance: of NSD in mm; ``None``: as exported, or the median edge of the planned voxels.
        preprocessed: its folder in nnUNet_preprocessed, which says what fold numbers stand for, unless the results do.
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
    steps = results.of_runs()["iterations"]
    results.remarks += [
        f"{name}: not among the training curves; its debug.json isn't there." for name in steps.index[steps.isna()]
    ]
    return results


def together(parts: Sequence[Results]) -> Results:
    """Join results of one data set from its folders: the same arms trained again, as further repetitions.

    NSD stays where all runs have it.

    Raises:
        GenesisError: they differ in classes, patients or NSD's tolerance, or a run is there twice.
    """
    first = parts[0]
    for name in ("labels", "group_by", "nsd_tolerance_mm"):
        if differing := [found for part in parts if (found := getattr(part, name)) != getattr(first, name)]:
            raise GenesisError(
                f"--results: {first.dataset} has {name} {getattr(first, name)} in one folder and {differing[0]} in "
                "another. Give folders of the same data set"
                + (", or --nsd_tolerance." if name == "nsd_tolerance_mm" else ".")
            )
    for part in parts[1:]:
        offset, names = 1 + max(run.get("repetition") or 0 for run in first.runs.values()), dict[str, str]()
        for name, run in part.runs.items():  # an export may hold several trainings itself
            repetition = offset + (run.get("repetition") or 0)
            names[name] = f"{name.partition('@')[0]}@{repetition + 1}"
            first.runs[names[name]] = run | {"repetition": repetition}
        for table in ("cases", "curves"):
            renamed = getattr(part, table).assign(run=getattr(part, table)["run"].map(names))
            setattr(first, table, pd.concat([getattr(first, table), renamed], ignore_index=True))
        first.configurations = part.configurations | first.configurations
        first.remarks += part.remarks
    _check_runs(first)
    lack = first.cases["NSD"].isna() & first.cases["Dice"].notna()
    if without := sorted(first.cases.loc[lack, "run"].unique()):  # means over other runs than Dice's would be compared
        missing = (
            f"{len(without)} of {first.cases['run'].nunique()} runs ({without[0]}{', …' if len(without) > 1 else ''})"
        )
        first.remarks.append(
            f"No NSD: of {missing} predictions or references aren't there, and none is stored for a tolerance of "
            f"{first.nsd_tolerance_mm:g} mm."
        )
        first.cases["NSD"] = np.nan
    return first


def _check_runs(results: Results) -> None:
    """Refuse runs with other classes, whose means wouldn't compare, and copies, which would count as further runs."""
    seen, first = dict[tuple[str, str], str](), results.cases.iloc[:0]
    for run, table in results.cases.groupby("run", sort=False):
        first = table if first.empty else first
        if differing := set(table["label"]) ^ set(first["label"]):
            raise GenesisError(
                f"{results.dataset}: {run} and {first['run'].iloc[0]} have Dice of other classes "
                f"({', '.join(sorted(differing))}). Write summary.json anew (nnUNetv2_train … --val)."
            )
        key = (str(run).partition("@")[0], table[["case", "label", "Dice"]].to_csv(index=False))
        if key in seen and table["Dice"].nunique() > 1:
            raise GenesisError(
                f"--results: {run} and {seen[key]} have the same Dice in every case and class: a training that is "
                "given twice would count as two. Give each once."
            )
        seen[key] = str(run)


def _read_nnunet(folder: Path, tolerance: float | None, preprocessed: Path, references: Sequence[Path]) -> Results:
    copy = folder / SUBSETS
    subsets = read_map(copy if copy.exists() else preprocessed / SUBSETS)
    found, remarks = find_runs(folder, subsets)
    if not found:
        raise GenesisError(
            f"{folder}: expected TRAINER__PLANS__CONFIG/fold_N/validation/summary.json, found none. Train first "
            "(nnUNetv2_train … -tr nnUNetTrainerGenesis), or correct -d, nnUNet_results or --results."
        )
    configurations = {run.folder.parent.name.partition("__")[2]: run.configuration() for run in found}
    if tolerance is None:
        tolerance = float(np.median(next(iter(configurations.values()))["spacing"]))
    runs, cases, curves = {}, [], []
    for run in found:
        surface, (pseudo_dice, phases) = nsd_of_run(run, tolerance, references) or {}, run.logged()
        runs[run.name] = dataclasses.asdict(run.subset) | run.recorded()
        if phases:
            runs[run.name]["phases"] = [*phases.items()]
        for case, _, dice in run.metrics():
            known = surface.get(case, {})
            cases += [(run.name, case, label, value, known.get(label, np.nan)) for label, value in dice.items()]
        curves += [(run.name, epoch, value) for epoch, value in pseudo_dice.items()]
    labels = found[0].dataset_json["labels"]
    return Results(
        folder.name,
        {str(tuple(key)) if isinstance(key, list) else str(key): name for name, key in labels.items()},
        subsets.group_by,
        tolerance,
        configurations,
        runs,
        pd.DataFrame(cases, columns=["run", "case", "label", "Dice", "NSD"]),
        pd.DataFrame(curves, columns=["run", "epoch", "pseudo_dice"]),
        found,
        remarks,
    )


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
        results.phases()
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
