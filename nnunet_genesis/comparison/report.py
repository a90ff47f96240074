"""One report of all runs of some data sets: ``report.html`` (self-contained), ``report.csv`` and the figures."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib import style

from nnunet_genesis.classification.labels import PREDICTIONS
from nnunet_genesis.comparison import arms, figures, statistics
from nnunet_genesis.comparison.classification import BASELINE as CLASSIFIERS_BASELINE
from nnunet_genesis.comparison.classification import Section, section
from nnunet_genesis.comparison.overlays import Overlay, overlays
from nnunet_genesis.comparison.results import KEYS, MEAN, PROTOCOL, Results, read_results, together, write_export
from nnunet_genesis.comparison.verdict import verdict
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path
from nnunet_genesis.folders import dataset_name, nnunet_folder
from nnunet_genesis.html import template

BASELINE = "nnUNetTrainerGenesisScratch"
SUMMARIES = "*/fold_*/validation/summary.json"
SEGMENTED = (PROTOCOL, SUMMARIES)
RESULTS = (*SEGMENTED, arms.EXPORTED, f"*/fold_*/validation/{PREDICTIONS}")
OUTLINES = ("#ffd700", "#ff7f0e", "#2ee6a6", "#b39dff", "#ff5fa8", "#9be22d")  # the reference's, the arms'; on black


@dataclasses.dataclass
class DatasetReport:
    """What the page shows of a data set: :mod:`statistics`' tables; ``questions``: what was decided beforehand."""

    results: Results
    baseline: str
    rows: pd.DataFrame
    questions: pd.DataFrame
    reached: pd.DataFrame
    verdict: str
    figures: list[figures.Picture]
    overlays: list[Overlay]

    def table(self) -> pd.DataFrame:
        """Tabulate the statistics; rows of mean Dice say when the baseline's last pseudo-Dice was reached."""
        reached = self.reached.assign(label=MEAN, metric="Dice").rename(columns={"iteration": "reached_iteration"})
        rows = self.rows.assign(baseline=self.baseline)
        merged = rows.merge(reached, how="left", on=[*KEYS, "trainer", "label", "metric"])
        merged.insert(0, "dataset", self.results.dataset)
        return merged.assign(nsd_tolerance_mm=self.results.nsd_tolerance_mm)


@style.context("default")  # nnU-Net's own plot of a training leaves its fonts behind, 2.5 times as large
def write_report(
    datasets: Sequence[str],
    out: Path,
    results: Path | Sequence[Path] | None = None,
    baseline: str = BASELINE,
    tolerance: float | None = None,
    export: Path | None = None,
) -> Path:
    """Write ``out/report.html``, its tables (``report.csv``, ``classification.csv``) and ``DatasetXXX_NAME_*.svg``.

    Args:
        datasets: names or ids; with ``results``, none means all that are there.
        out: folder, made where missing; or, where its name ends in ``.html``, the page that is to be written alone,
            without images of scans.
        results: folders of ``DatasetXXX_NAME`` folders, nnU-Net's or of an export, in place of nnUNet_results; of
            several, the further ones hold the same arms trained again.
        baseline: trainer to compare with.
        tolerance: of NSD in mm; ``None``: as exported, or the median edge of the planned voxels.
        export: folder for what the report is made from, a few small files a data set.

    Returns:
        The HTML file.

    Raises:
        GenesisError: no results are found, a file can't be used, or the tolerance is negative or not finite.
    """
    alone = out.suffix == ".html"
    if out.exists() and out.is_dir() == alone:
        raise GenesisError(f"-o {out}: expected a folder, or NAME.html for a file; found the other. Choose another.")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise GenesisError(f"--nsd_tolerance {tolerance:g}: expected 0 or more, in mm. Correct the command.")
    bases = [results] if isinstance(results, Path) else list(results or [nnunet_folder("nnUNet_results")])
    places = _places(datasets, bases)
    if export and any(export.resolve() == base.resolve() for base in bases):
        raise GenesisError(f"--export {export}: expected another folder than the results'. Choose one.")
    tested = baseline if "Classifier" in baseline else CLASSIFIERS_BASELINE
    classified = {name: found for name, folders in places.items() if (found := section(folders, tested))}
    reports = [
        _report(folders, baseline, tolerance, with_images=not alone)
        for name, folders in places.items()
        if name not in classified or any(any(folder.glob(kind)) for folder in folders for kind in SEGMENTED)
    ]
    remarks = {report.results.dataset: report.results.remarks for report in reports}
    for name in places:
        mine = remarks[name] if name in remarks else classified[name].remarks
        mine += [f"{base} has no {name}: nothing from there." for base in bases if not (base / name).exists()]
    page = out if alone else out / "report.html"
    files = {page: _html(reports, classified).encode()}
    drawn = [(report.results.dataset, picture) for report in reports for picture in report.figures]
    drawn += [(name, picture) for name, found in classified.items() for picture in found.pictures]
    if not alone:
        files |= {out / f"{name}_{picture.name}.svg": picture.svg for name, picture in drawn}
    if export:
        for report in reports:
            write_export(report.results, export / report.results.dataset)
        for name, found in classified.items():
            arms.write_export(found.arms, export / name)
    tables = {
        "report.csv": [report.table() for report in reports],
        "classification.csv": [pd.DataFrame(s.rows).assign(dataset=name) for name, s in classified.items()],
    }
    for name, parts in tables.items():
        if parts and not alone:
            text = pd.concat(parts, ignore_index=True).to_csv(index=False, float_format="%.6g")
            files[out / name] = text.encode()
    page.parent.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        with atomic_path(file) as temporary:
            Path(temporary).write_bytes(content)
    return page


def _places(datasets: Sequence[str], bases: Sequence[Path]) -> dict[str, list[Path]]:
    """Find the data sets' folders, by name: those there are, or the first one that there should be."""
    for base in bases:
        if not any(base.glob("Dataset[0-9]*")):
            raise GenesisError(f"{base}: expected folders DatasetXXX_NAME, found none. Correct --results.")
    if len({base.resolve() for base in bases}) < len(bases):
        raise GenesisError("--results: a folder is given twice. Its runs would count as further ones: give it once.")
    names = []
    for dataset in datasets:
        found = list(bases[0].glob(f"Dataset{int(dataset):03d}_*")) if dataset.isdecimal() else []
        names.append(found[0].name if len(found) == 1 else dataset_name(dataset))
    there = [folder for base in bases for folder in base.glob("Dataset[0-9]*")]
    # Without any result: a data set for pretraining. If there are only those, what is missing is named.
    with_results = [folder for folder in there if any(any(folder.glob(name)) for name in RESULTS)]
    names = names or sorted({folder.name for folder in with_results or there})
    return {name: [base / name for base in bases if (base / name).exists()] or [bases[0] / name] for name in names}


def _report(folders: Sequence[Path], baseline: str, tolerance: float | None, with_images: bool) -> DatasetReport:
    variables = ("nnUNet_raw", "nnUNet_preprocessed")  # either may be unset: then nothing is found there
    raw, preprocessed = (
        Path(os.environ.get(name) or "/nonexistent").absolute() / folders[0].name for name in variables
    )
    references = [raw / "labelsTr", preprocessed / "gt_segmentations"]
    results = together([read_results(folder, tolerance, preprocessed, references) for folder in folders])
    measured, curves = results.measured(), statistics.training_curves(results)
    if measured.empty:
        raise GenesisError(f"{folders[0]}: no class is in any validation case's reference or prediction: no Dice.")
    rows, reached = statistics.compare(measured, baseline, results.group_by), statistics.reached(curves, baseline)
    names, rises = results.labels | {MEAN: "mean of classes"}, statistics.rises(curves, baseline)
    rows["class_name"] = rows["label"].map(lambda label: names.get(label, label))
    rows = rows.join(rises.add_prefix("baseline_"), on=KEYS)
    rows["converged"] = [statistics.converged(*row) for row in rows[["baseline_rise", "baseline_error"]].to_numpy()]
    unpaired = rows[(rows["unpaired"] > 0) & (rows["metric"] == "Dice") & (rows["label"] != MEAN)]
    results.remarks += [
        f"{figures.short(row['trainer'])}, {row['cases']} {results.unit}, {row['class_name']}: {row['unpaired']} Dice "
        "have no partner and are in no difference. One arm found a class that isn't there, or a run lacks the case."
        for row in unpaired.to_dict("records")
    ]
    order = sorted(rows["trainer"].unique(), key=lambda trainer: (trainer != baseline, trainer))
    if baseline not in order:
        results.remarks.append(f"No run of the baseline {baseline} was found: nothing is tested.")
    questions = rows[statistics.is_question(rows)]
    drawn = [
        *figures.forest(questions, order, results.unit),
        *figures.label_efficiency(rows, order),
        *figures.training_curves(curves, order, results.phases(), results.unit),
    ]
    shown = overlays(results.sources, measured, baseline, raw / "imagesTr", references) if with_images else []
    sentence = verdict(questions, baseline, results.unit)
    return DatasetReport(results, baseline, rows, questions, reached, sentence, drawn, shown)


def _html(reports: Sequence[DatasetReport], classified: Mapping[str, Section]) -> str:
    page = template("nnunet_genesis", "comparison", "report.html.jinja", short=figures.short, number=_number, p=_p)
    known = {"keys": KEYS, "statistics": statistics, "isnan": pd.isna, "outlines": OUTLINES}
    return page.render(reports=reports, classified=classified, **known)


def _number(value: float, signed: bool = False) -> str:
    return "–" if pd.isna(value) else f"{value:+.4f}" if signed else f"{value:.4f}"


def _p(value: float) -> str:
    return "–" if pd.isna(value) else "< 0.0001" if value < 1e-4 else f"{value:.4f}"
