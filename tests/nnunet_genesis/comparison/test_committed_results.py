"""Label subsets and the report, on the committed results of real runs."""

import csv
import json
import statistics
from pathlib import Path

import pytest

from nnunet_genesis.comparison.report import write_report
from nnunet_genesis.comparison.subsets import add_subsets
from nnunet_genesis.errors import GenesisError

RESULTS = Path(__file__).resolve().parents[3] / "examples" / "results" / "hippocampus"


def splits(folder: Path) -> list[dict]:
    return json.loads((folder / "splits_final.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cases = [f"case{number:02d}" for number in range(20)]
    folds = [{"train": cases[:part] + cases[part + 4 :], "val": cases[part : part + 4]} for part in range(0, 20, 4)]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    return tmp_path


def test_subsets_are_nested_and_existing_folds_stay(folder):
    before = splits(folder)
    add_subsets(folder, [4, 8], 2, 0, None)
    after = splits(folder)
    assert after[:5] == before
    assert len(after) == 9
    known = json.loads((folder / "genesis_splits.json").read_text())["folds"]
    for number, subset in known.items():
        fold = after[int(number)]
        assert fold["val"] == before[subset["fold"]]["val"]
        assert set(fold["train"]) <= set(before[subset["fold"]]["train"])
    small, large = (next(after[int(n)] for n, s in known.items() if (s["fold"], s["cases"]) == (0, c)) for c in (4, 8))
    assert set(small["train"]) < set(large["train"])


def test_running_it_again_changes_nothing(folder):
    add_subsets(folder, [4, 8], 2, 0, None)
    before = splits(folder)
    add_subsets(folder, [4, 8], 2, 0, None)
    assert splits(folder) == before


def test_too_many_cases_are_refused_and_nothing_is_written(folder):
    before = splits(folder)
    with pytest.raises(GenesisError):
        add_subsets(folder, [17], 2, 0, None)
    assert splits(folder) == before


def test_the_report_is_rebuilt_from_the_committed_summaries(tmp_path):
    write_report([], tmp_path, RESULTS, "nnUNetTrainerGenesisScratch", None, None)
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    assert rows
    for row in rows:
        if row["metric"] == "Dice" and row["class_name"] == "mean of classes":
            file = next(RESULTS.glob(f"*/{row['trainer']}__*/fold_*/validation/summary.json"))
            cases = json.loads(file.read_text())["metric_per_case"]
            dice = [[metrics["Dice"] for metrics in case["metrics"].values()] for case in cases]
            assert float(row["mean"]) == pytest.approx(statistics.fmean(map(statistics.fmean, dice)), rel=1e-4)
            assert float(row["low"]) < float(row["mean"]) < float(row["high"])
    (figure,) = tmp_path.glob("*.png")
    assert figure.name == "Dataset004_Hippocampus_training_curves.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "http" not in (tmp_path / "report.html").read_text().replace("http://www.w3.org", "")
