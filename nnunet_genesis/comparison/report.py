"""One report of all runs of some data sets: ``report.html`` (self-contained) and ``report.csv``."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from nnunet_genesis.classification.report import Section, section
from nnunet_genesis.comparison import figures, statistics
from nnunet_genesis.comparison.results import KEYS, MEAN, Results, read_results, write_export
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path
from nnunet_genesis.folders import dataset_name, nnunet_folder
from nnunet_genesis.html import template

BASELINE = "nnUNetTrainerGenesisScratch"


@dataclasses.dataclass
class DatasetReport:
    """What the page shows of a data set.

    Attributes:
        results: the data set's.
        baseline: the trainer that the others are compared with.
        rows: of :func:`statistics.compare`, with ``class_name``.
        reached: of :func:`statistics.reached`.
        figures: name, caption, PNG.
    """

    results: Results
    baseline: str
    rows: pd.DataFrame
    reached: pd.DataFrame
    figures: list[tuple[str, str, bytes]]

    def table(self) -> pd.DataFrame:
        """Tabulate the statistics; rows of mean Dice say when the baseline's last pseudo-Dice was reached."""
        reached = self.reached.assign(label=MEAN, metric="Dice").rename(columns={"iteration": "reached_iteration"})
        rows = self.rows.assign(baseline=self.baseline)
        merged = rows.merge(reached, how="left", on=[*KEYS, "trainer", "label", "metric"])
        merged.insert(0, "dataset", self.results.dataset)
        return merged.assign(nsd_tolerance_mm=self.results.nsd_tolerance_mm)


def write_report(
    datasets: Sequence[str],
    out: Path,
    results: Path | None = None,
    baseline: str = BASELINE,
    tolerance: float | None = None,
    export: Path | None = None,
) -> Path:
    """Write ``out/report.html``, its tables (``report.csv``, ``classification.csv``) and ``DatasetXXX_NAME_*.png``.

    Args:
        datasets: names or ids; with ``results``, none means all that are there.
        out: folder, made where missing; or, where its name ends in ``.html``, the page that is to be written alone.
        results: folder of ``DatasetXXX_NAME`` folders, nnU-Net's or of an export, in place of nnUNet_results.
        baseline: trainer to compare with.
        tolerance: of NSD in mm; ``None``: as exported, or the median edge of the planned voxels.
        export: folder for what the report is made from, a few small files a data set.

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
    classified = {name: found for name in names if (found := section(base / name))}
    reports = [
        _report(base / name, baseline, tolerance)
        for name in names
        if name not in classified or any((base / name).glob("*/fold_*/validation/summary.json"))
    ]
    if export:
        for report in reports:
            write_export(report.results, export / report.results.dataset)
    page = out if out.suffix == ".html" else out / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    files = {page: _html(reports, classified).encode()}
    tables = {"report.csv": [report.table() for report in reports]}
    tables["classification.csv"] = [pd.DataFrame(found.rows).assign(dataset=name) for name, found in classified.items()]
    if page != out:
        for table_name, parts in tables.items():
            if parts:
                table = pd.concat(parts, ignore_index=True)
                files[out / table_name] = table.to_csv(index=False, float_format="%.6g").encode()
        files |= {out / f"{r.results.dataset}_{name}.png": png for r in reports for name, _, png in r.figures}
    for file, content in files.items():
        with atomic_path(file) as temporary:
            Path(temporary).write_bytes(content)
    return page


def _name(dataset: str, base: Path) -> str:
    if dataset.isdecimal() and len(found := list(base.glob(f"Dataset{int(dataset):03d}_*"))) == 1:
        return found[0].name
    return dataset_name(dataset)


def _report(folder: Path, baseline: str, tolerance: float | None) -> DatasetReport:
    variables = ("nnUNet_raw", "nnUNet_preprocessed")  # either may be unset: then nothing is found there
    raw, preprocessed = (Path(os.environ.get(name) or "/nonexistent").absolute() / folder.name for name in variables)
    references = [raw / "labelsTr", preprocessed / "gt_segmentations"]
    results = read_results(folder, tolerance, preprocessed, references)
    measured, curves = results.measured(), statistics.training_curves(results)
    rows, reached = statistics.compare(measured, baseline, results.group_by), statistics.reached(curves, baseline)
    names = results.labels | {MEAN: "mean of classes"}
    rows["class_name"] = rows["label"].map(lambda label: names.get(label, label))
    if baseline not in set(rows["trainer"]):
        results.remarks.append(f"No run of the baseline {baseline} was found: nothing is tested.")
    drawn = []
    if efficiency := figures.label_efficiency(rows):
        drawn.append(("label_efficiency", "Dice over labelled training images, with 95 % intervals", efficiency))
    if curved := figures.training_curves(curves, list(rows["trainer"].unique())):
        caption = "Training: smoothed pseudo-Dice over iterations (thin: folds; thick: their mean)"
        drawn.append(("training_curves", caption, curved))
    if overlay := figures.overlays(results.sources, measured, baseline, raw / "imagesTr", references):
        drawn.append(("overlay", f"Best, median and worst case, {overlay[1]}", overlay[0]))
    else:
        results.remarks.append("No overlay figure: images or predictions aren't there.")
    return DatasetReport(results, baseline, rows, reached, drawn)


def _html(reports: Sequence[DatasetReport], classified: Mapping[str, Section]) -> str:
    page = template(
        "nnunet_genesis", "comparison", "report.html.jinja", short=figures.short, number=_number, method=_method, p=_p
    )
    return page.render(reports=reports, classified=classified, keys=KEYS, statistics=statistics, isnan=pd.isna)


def _number(value: float, signed: bool = False) -> str:
    return "–" if pd.isna(value) else f"{value:+.4f}" if signed else f"{value:.4f}"


def _method(name: str) -> str:
    """Say how an interval was taken that isn't BCa."""
    return "" if name in ("BCa", "none") else f" ({name})"


def _p(value: float) -> str:
    return "–" if pd.isna(value) else "< 0.0001" if value < 1e-4 else f"{value:.4f}"
