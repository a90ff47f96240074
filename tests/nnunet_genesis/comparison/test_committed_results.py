"""The committed results of real runs: what is kept, and that the report comes out of it."""

import csv
import statistics
from pathlib import Path

import pytest

from nnunet_genesis.comparison.report import write_report

RESULTS = Path(__file__).resolve().parents[3] / "examples" / "results" / "hippocampus"


def test_the_report_is_rebuilt_from_the_committed_tables(tmp_path):
    write_report([], tmp_path, RESULTS, "nnUNetTrainerGenesisScratch", None, None)
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    cases = list(csv.DictReader(next(RESULTS.glob("*/cases.csv")).open()))
    assert rows
    for row in rows:
        if row["class_name"] != "mean of classes":
            mine = [case for case in cases if case["run"].startswith(f"{row['trainer']}__")]
            values = [float(case[row["metric"]]) for case in mine if case["class"] == row["class_name"]]
            assert len(values) == int(row["n"]) == 52
            assert float(row["mean"]) == pytest.approx(statistics.fmean(values), rel=1e-4)
            assert float(row["low"]) < float(row["mean"]) < float(row["high"])
    figures = sorted(figure.name for figure in tmp_path.glob("*.svg"))
    assert figures == ["Dataset004_Hippocampus_forest.svg", "Dataset004_Hippocampus_training_curves.svg"]
    assert "http://" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("folder", [f for f in sorted(RESULTS.parent.iterdir()) if f.is_dir()], ids=lambda f: f.name)
def test_committed_results_are_small_and_without_images_of_scans(folder):
    (dataset,) = folder.glob("Dataset*")
    assert {file.name for file in folder.iterdir()} == {dataset.name, "report.html"}
    assert {file.name for file in dataset.iterdir()} == {"cases.csv", "curves.csv", "protocol.json"}
    page = (folder / "report.html").read_text()
    assert "<image" not in page
    assert len(page) < 500_000
