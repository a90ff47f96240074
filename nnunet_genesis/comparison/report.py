"""One report of all runs of some data sets: ``report.html`` (self-contained) and ``report.csv``."""

import base64
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from nnunet_genesis.comparison import curves, figures, statistics
from nnunet_genesis.comparison.cases import overlay_figure
from nnunet_genesis.comparison.export import export_results
from nnunet_genesis.comparison.results import KEYS, MEAN, Run, class_names, dice_table, find_runs, spacing_of, table
from nnunet_genesis.comparison.subsets import read_map
from nnunet_genesis.comparison.surface import nsd_of_run
from nnunet_genesis.errors import GenesisError, printable
from nnunet_genesis.files import atomic_path
from nnunet_genesis.folders import SUBSETS, dataset_name, nnunet_folder

BASELINE = "nnUNetTrainerGenesisScratch"


@dataclasses.dataclass
class DatasetReport:
    """What the page shows of one data set; ``rows``: of :mod:`statistics`, ``reached``: of :mod:`curves`."""

    name: str
    rows: pd.DataFrame
    reached: pd.DataFrame
    baseline: str
    group_by: str | None
    tolerance: float
    labels: dict[str, str]
    remarks: list[str]
    figures: list[tuple[str, str, bytes]] = dataclasses.field(default_factory=list)  # name, caption, PNG

    def sections(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Rows by plans, configuration and size."""
        grouped = self.rows.groupby(KEYS, sort=False)
        return [(", ".join((*key[:2], f"{key[2]} cases")), part.to_dict("records")) for key, part in grouped]


def write_report(
    datasets: Sequence[str],
    out: Path,
    results: Path | None = None,
    baseline: str = BASELINE,
    tolerance: float | None = None,
    export: Path | None = None,
) -> Path:
    """Write ``out/report.html`` and ``out/report.csv``, and the figures as ``out/DatasetXXX_NAME_*.png`` too.

    Args:
        datasets: names or ids; with ``results``, none means all that are there.
        out: folder, made where missing.
        results: folder of ``DatasetXXX_NAME`` folders in place of nnUNet_results.
        baseline: trainer to compare with.
        tolerance: of NSD in mm; ``None``: the median edge of the planned voxels.
        export: folder for a copy of the figures behind the report.

    Returns:
        The HTML file.

    Raises:
        GenesisError: no results are found, a file can't be used, or the tolerance is negative or not finite.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise GenesisError(f"--nsd_tolerance {tolerance:g}: expected 0 or more, in mm. Correct the command.")
    base = results or nnunet_folder("nnUNet_results")
    names = [_name(dataset, base) for dataset in datasets] or sorted(f.name for f in base.glob("Dataset[0-9]*"))
    if not names:
        raise GenesisError(f"{base}: expected folders DatasetXXX_NAME, found none. Correct --results, or give -d.")
    if export and export.resolve() == base.resolve():
        raise GenesisError(f"--export {export}: expected another folder than the results'. Choose one.")
    reports = [_dataset(base / name, baseline, tolerance, export) for name in names]
    out.mkdir(parents=True, exist_ok=True)
    csv = pd.concat([_csv(report) for report in reports], ignore_index=True)
    files = {
        "report.csv": csv.to_csv(index=False, float_format="%.6g").encode(),
        "report.html": _html(reports).encode(),
    }
    files |= {f"{report.name}_{name}.png": png for report in reports for name, _, png in report.figures}
    for file, content in files.items():
        with atomic_path(out / file) as temporary:
            Path(temporary).write_bytes(content)
    return out / "report.html"


def _name(dataset: str, base: Path) -> str:
    if dataset.isdecimal() and len(found := list(base.glob(f"Dataset{int(dataset):03d}_*"))) == 1:
        return found[0].name
    return dataset_name(dataset)


def _dataset(folder: Path, baseline: str, tolerance: float | None, export: Path | None) -> DatasetReport:
    subsets_file = _subsets_file(folder)
    subsets = read_map(subsets_file)
    runs, remarks = find_runs(folder, subsets)
    if not runs:
        raise GenesisError(
            f"{folder}: expected TRAINER__PLANS__CONFIG/fold_N/validation/summary.json, found none. Train first "
            f"(nnUNetv2_train … -tr {baseline}), or correct -d, nnUNet_results or --results."
        )
    if tolerance is None:
        tolerance = float(np.median(spacing_of(runs[0])))
    dice, raw = dice_table(runs), _folder("nnUNet_raw", folder.name)
    references = [raw / "labelsTr", _folder("nnUNet_preprocessed", folder.name) / "gt_segmentations"]
    nsd = _nsd_table(runs, tolerance, references, remarks)
    cases = dice if nsd.empty else pd.concat([dice, nsd], ignore_index=True)
    rows, curve = statistics.compare(cases, baseline, subsets.group_by), curves.curves_table(runs)
    labels = class_names(runs[0].dataset_json)
    reached = curves.reached(curve, baseline)
    remarks += [
        f"{run.folder.parent.name}/{run.folder.name}: not among the training curves; its debug.json isn't there."
        for run in runs
        if curves.iterations(run) is None
    ]
    report = DatasetReport(folder.name, rows, reached, baseline, subsets.group_by, tolerance, labels, remarks)
    if baseline not in set(rows["trainer"]):
        remarks.append(f"No run of the baseline {baseline} was found: nothing is tested.")
    _add_figures(report, curve, overlay_figure(runs, dice, baseline, raw / "imagesTr", references))
    if export:
        export_results(folder.name, runs, subsets_file, export)
    return report


def _subsets_file(folder: Path) -> Path:
    """Beside the results (a copy), else beside the splits."""
    copy = folder / SUBSETS
    return copy if copy.exists() else _folder("nnUNet_preprocessed", folder.name) / SUBSETS


def _folder(variable: str, name: str) -> Path:
    """A data set's folder in one of nnU-Net's; one that doesn't exist where the variable isn't set."""
    try:
        return nnunet_folder(variable).absolute() / name
    except GenesisError:
        return Path("/nonexistent") / name


def _nsd_table(runs: Sequence[Run], tolerance: float, references: Sequence[Path], remarks: list[str]) -> pd.DataFrame:
    rows = []
    for run in runs:
        found = nsd_of_run(run, tolerance, references)
        if found is None:
            remarks.append(
                f"{run.folder.parent.name}/{run.folder.name}: no NSD; predictions or references aren't there, and none "
                f"is stored for a tolerance of {tolerance:g} mm."
            )
        rows += [(run, case, label, "NSD", v) for case, values in (found or {}).items() for label, v in values.items()]
    return table(rows)


def _add_figures(report: DatasetReport, curve: pd.DataFrame, overlay: tuple[bytes, str] | None) -> None:
    order = list(report.rows["trainer"].unique())
    if efficiency := figures.label_efficiency(report.rows):
        caption = "Dice over labelled training images, with 95 % intervals"
        report.figures.append(("label_efficiency", caption, efficiency))
    if curved := figures.training_curves(curve, order):
        caption = "Training: smoothed pseudo-Dice over iterations (thin: folds; thick: their mean)"
        report.figures.append(("training_curves", caption, curved))
    if overlay:
        report.figures.append(("overlay", f"Best, median and worst case, {overlay[1]}", overlay[0]))
    else:
        report.remarks.append("No overlay figure: images or predictions aren't there.")


def _csv(report: DatasetReport) -> pd.DataFrame:
    """The statistics; rows of mean Dice have the iteration at which the baseline's last pseudo-Dice was reached."""
    rows = report.rows.assign(class_name=report.rows["label"].map(report.labels), baseline=report.baseline)
    reached = report.reached.assign(label=MEAN, metric="Dice").rename(columns={"iteration": "reached_iteration"})
    merged = rows.merge(reached, how="left", on=[*KEYS, "trainer", "label", "metric"])
    merged.insert(0, "dataset", report.name)
    return merged.assign(nsd_tolerance_mm=report.tolerance)


def _html(reports: Sequence[DatasetReport]) -> str:
    loader = jinja2.PackageLoader("nnunet_genesis", "comparison")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_without_control_characters
    )
    environment.filters.update(short=figures.short, number=_number, method=_method, p=_p, uri=_uri)
    return environment.get_template("report.html.jinja").render(reports=reports, statistics=statistics, isnan=np.isnan)


def _uri(png: bytes) -> str:
    """The page needs no other file and no network."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _without_control_characters(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _number(value: float, signed: bool = False) -> str:
    return "–" if pd.isna(value) else f"{value:+.4f}" if signed else f"{value:.4f}"


def _method(name: str) -> str:
    """What the page says of an interval that isn't BCa."""
    return "" if name in ("BCa", "none") else f" ({name})"


def _p(value: float) -> str:
    return "–" if pd.isna(value) else "< 0.0001" if value < 1e-4 else f"{value:.4f}"
