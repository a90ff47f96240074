"""The classification part of the report, from predictions on disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
import seaborn

from nnunet_genesis.classification import metrics
from nnunet_genesis.comparison.classification import BASELINE, section, verdict
from nnunet_genesis.comparison.report import write_report
from nnunet_genesis.errors import GenesisError

GENESIS = "nnUNetTrainerGenesisClassifier"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For speed, enough for a p below 0.05; and with the fonts of a report, whatever nnU-Net's plots left behind."""
    monkeypatch.setattr(metrics, "RESAMPLES", 40)
    with matplotlib.style.context("default"):
        yield


def write_arm(folder: Path, trainer: str, signal: float, places: bool = False, classes: int = 2, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for fold in range(2):
        ranks = np.arange(60) % classes
        logits = random.normal(size=(60, classes)) + signal * np.eye(classes)[ranks]
        table = pd.DataFrame(
            {
                "case": [f"c{fold}_{n // 6 if places else n}" for n in range(60)],
                "group": np.arange(60) // 2 + 100 * fold,
            }
        )
        if places:
            table[["x", "y", "z"]] = random.normal(size=(60, 3)) if fold > 9 else np.arange(180).reshape(60, 3)
        table = table.assign(label=ranks, rank=ranks, volume=np.nan if places else 10.0 + ranks, fold=fold)
        table[[f"p:{k}" for k in range(classes)]] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        file = folder / f"{trainer}__nnUNetPlans__3d_fullres" / f"fold_{fold}" / "validation" / "classification.csv"
        file.parent.mkdir(parents=True)
        table.to_csv(file, index=False, float_format="%.6g")


def value(found, trainer: str, metric: str) -> dict:
    return next(row for row in found.rows if row["trainer"] == trainer and row["metric"] == metric)


def items(found) -> dict[str, int]:
    return {name: sum(map(sum, matrix)) for name, _, matrix in found.confusions}


def test_two_arms_are_compared_and_volume_stands_beside_them(tmp_path):
    write_arm(tmp_path, GENESIS, 1.2)
    write_arm(tmp_path, BASELINE, 0)
    found = section([tmp_path])
    best = value(found, GENESIS, "AUC")
    assert best["low"] < best["value"] < best["high"]
    assert best["difference"] > 0.2
    assert np.isnan(best["p"])  # one training tells nothing of the next
    assert found.verdict.startswith("Classifier and ClassifierScratch can't be told from the chance of training")
    assert value(found, "volume alone", "AUC")["value"] == 1
    assert np.isnan(value(found, BASELINE, "AUC")["p"])
    assert items(found) == {"Classifier": 120, "ClassifierScratch": 120}
    assert best["difference_low"] < best["difference"] < best["difference_high"]
    assert np.isnan(value(found, GENESIS, "balanced accuracy")["p"])  # one test an arm
    assert [picture.name for picture in found.pictures] == ["ROC", "Calibration"]


def test_the_page_has_the_section(tmp_path):
    folders = [tmp_path / name for name in ("results", "again", "and again")]
    for seed, folder in enumerate(folders):
        write_arm(folder / "Dataset001_Scans", GENESIS, 1.2, seed=seed)
        write_arm(folder / "Dataset001_Scans", BASELINE, 0, seed=seed)
    seaborn.set_theme(font_scale=2.5)  # as nnU-Net's plot of a training
    page = write_report([], tmp_path / "report", folders).read_text()
    assert "Dataset001_Scans: classification" in page
    assert "120 (60),<br>3 runs" in page
    assert "volume alone" in page
    assert "ClassifierScratch" in page
    assert "Classifier is shown to differ from ClassifierScratch: its AUC is" in page
    assert (tmp_path / "report" / "Dataset001_Scans_ROC.svg").exists()
    table = pd.read_csv(tmp_path / "report" / "classification.csv")
    assert set(table["trainer"]) == {GENESIS, BASELINE, "volume alone"}


@pytest.mark.parametrize("places", [False, True])
def test_an_export_of_two_trainings_gives_the_same_report_alone_and_beside_a_third(tmp_path, places):
    for seed, folder in enumerate(("one", "two", "three")):
        write_arm(tmp_path / folder / "Dataset001_Scans", GENESIS, 1, places, seed=seed)
        write_arm(tmp_path / folder / "Dataset001_Scans", BASELINE, 0, places, seed=seed)
    folders = [tmp_path / name for name in ("one", "two", "three")]
    write_report([], tmp_path / "first", folders[:2], export=tmp_path / "export")
    assert [*(tmp_path / "export").rglob("*.csv")] == [tmp_path / "export" / "Dataset001_Scans" / "predictions.csv"]
    write_report([], tmp_path / "again", [tmp_path / "export"])
    write_report([], tmp_path / "page.html", [tmp_path / "export"])
    assert (tmp_path / "again" / "report.html").read_text() == (tmp_path / "first" / "report.html").read_text()
    write_report([], tmp_path / "all", folders)
    write_report([], tmp_path / "beside", [tmp_path / "export", folders[2]])
    tables = [(tmp_path / name / "classification.csv").read_text() for name in ("all", "beside")]
    assert tables[0] == tables[1]
    assert ",3," in tables[0]


def test_an_export_keeps_arms_of_other_classes_apart(tmp_path):
    write_arm(tmp_path / "results" / "Dataset001_Scans", GENESIS, 1, classes=3)
    write_arm(tmp_path / "results" / "Dataset001_Scans", BASELINE, 0)
    write_report([], tmp_path / "report", [tmp_path / "results"], export=tmp_path / "export")
    found = section([tmp_path / "export" / "Dataset001_Scans"])
    assert [len(classes) for _, classes, _ in found.confusions] == [2, 3]


def test_a_damaged_export_is_named(tmp_path):
    write_arm(tmp_path / "results" / "Dataset001_Scans", GENESIS, 1)
    write_report([], tmp_path / "report", [tmp_path / "results"], export=tmp_path / "export")
    file = tmp_path / "export" / "Dataset001_Scans" / "predictions.csv"
    whole = pd.read_csv(file, dtype=str, keep_default_na=False)
    for damaged, message in [
        (whole.assign(run="elsewhere"), "run 'elsewhere': expected TRAINER__PLANS__CONFIG@NUMBER"),
        (whole.drop(columns="group"), "lacks the columns group"),
        (whole.assign(rank=["", *whole["rank"][1:]]), "has empty fields"),
        (whole.assign(rank="first"), "can't be read"),
    ]:
        damaged.to_csv(file, index=False)
        with pytest.raises(GenesisError, match=f"predictions.csv: .*{message}.*Restore it"):
            section([file.parent])


def test_of_several_runs_the_mean_and_an_interval_over_runs_too(tmp_path):
    for seed, signal in enumerate((2.5, 1, -0.3)):  # trainings that differ more than the patients do
        write_arm(tmp_path / f"seed_{seed}" / "Dataset001_Scans", GENESIS, signal, seed=seed)
        write_arm(tmp_path / f"seed_{seed}" / "Dataset001_Scans", BASELINE, 0, seed=seed + 5)
    folders = [tmp_path / f"seed_{seed}" / "Dataset001_Scans" for seed in range(3)]
    both, alone = section(folders), [value(section([folder]), GENESIS, "AUC") for folder in folders]
    found = value(both, GENESIS, "AUC")
    assert found["runs"] == 3
    for key in ("value", "difference"):
        assert found[key] == pytest.approx(np.mean([one[key] for one in alone]))
    assert found["high"] - found["low"] > 1.5 * max(one["high"] - one["low"] for one in alone)
    assert items(both) == {"Classifier": 360, "ClassifierScratch": 360}
    assert found["difference_low"] < 0 < found["difference"]  # trainings as far apart as these show nothing
    assert found["p"] < 0.05
    assert "is not shown to differ" in both.verdict
    assert "over patients and runs" in both.verdict


def test_the_arm_whose_interval_is_without_zero_leads_whatever_the_lowest_p():
    common = {
        "plans": "P",
        "configuration": "3d",
        "value": 0.8,
        "difference": 0.05,
        "difference_high": 0.1,
        "runs": 3,
        "metric": "AUC",
    }
    over_zero = common | {"trainer": "nnUNetTrainerGenesisClassifierProbe", "p_holm": 0.01, "difference_low": -0.01}
    apart = common | {"trainer": GENESIS, "p_holm": 0.04, "difference_low": 0.01}
    assert verdict([over_zero, apart]).startswith("Classifier is shown to differ")
    assert verdict([over_zero]).startswith("ClassifierProbe is not shown to differ")


def test_a_training_that_is_given_twice_is_refused(tmp_path):
    for folder in ("one", "two"):
        write_arm(tmp_path / folder, GENESIS, 2)
    with pytest.raises(GenesisError, match="has the predictions of another run"):
        section([tmp_path / "one", tmp_path / "two"])


def test_runs_of_other_items_are_refused_and_arms_with_other_runs_not_compared(tmp_path):
    for seed, folder in enumerate(("one", "two")):
        write_arm(tmp_path / folder, GENESIS, 2, seed=seed)
    write_arm(tmp_path / "two", BASELINE, 0)
    found = section([tmp_path / "one", tmp_path / "two"])
    assert (value(found, GENESIS, "AUC")["runs"], value(found, BASELINE, "AUC")["runs"]) == (2, 1)
    assert found.remarks == [f"{GENESIS}: not tested against {BASELINE}, which has other items or other runs."]
    file = next(tmp_path.glob(f"two/{GENESIS}__*/fold_1/validation/classification.csv"))
    pd.read_csv(file).iloc[:-2].to_csv(file, index=False)
    with pytest.raises(GenesisError, match="has 118 items in 2 folds, and other ones than the 120"):
        section([tmp_path / "one", tmp_path / "two"])


def test_candidates_have_a_cpm_and_no_volume(tmp_path):
    write_arm(tmp_path, GENESIS, 1, places=True)
    found = section([tmp_path])
    assert 0.2 < value(found, GENESIS, "CPM")["value"] < 1
    assert not [row for row in found.rows if row["trainer"] == "volume alone"]


def test_three_classes(tmp_path):
    write_arm(tmp_path, GENESIS, 1.5, classes=3)
    found = section([tmp_path])
    assert 0.8 < value(found, GENESIS, "AUC")["value"] < 1
    assert len(found.confusions[0][2]) == 3


def test_a_class_that_no_item_has_or_gets_has_its_row_and_column(tmp_path):
    write_arm(tmp_path, GENESIS, 1.5, classes=3)
    for file in tmp_path.glob("*__*/fold_*/validation/classification.csv"):
        table = pd.read_csv(file)
        table[table["rank"] != 2].assign(**{"p:2": 0.0}).to_csv(file, index=False)
    assert [len(row) for row in section([tmp_path]).confusions[0][2]] == [3, 3, 3]


def test_other_items_are_not_compared(tmp_path):
    write_arm(tmp_path, GENESIS, 2)
    write_arm(tmp_path, BASELINE, 2)
    file = next(tmp_path.glob(f"{BASELINE}__*/fold_1/validation/classification.csv"))
    pd.read_csv(file).iloc[:-2].to_csv(file, index=False)
    found = section([tmp_path])
    assert np.isnan(value(found, GENESIS, "AUC")["p"])
    assert "not tested" in found.remarks[0]


def test_nothing_and_damage(tmp_path):
    assert section([tmp_path]) is None
    write_arm(tmp_path, GENESIS, 2)
    next(tmp_path.glob("*/fold_0/validation/classification.csv")).write_bytes(b"case,group\n\xff\xfe")
    with pytest.raises(GenesisError, match="can't be read"):
        section([tmp_path])


def edit(folder: Path, trainer: str, change) -> None:
    for file in folder.glob(f"{trainer}__*/fold_*/validation/classification.csv"):
        change(pd.read_csv(file)).to_csv(file, index=False)


def test_where_a_class_has_no_item_nothing_is_shown(tmp_path):
    for trainer, signal in ((GENESIS, 2), (BASELINE, 0)):
        write_arm(tmp_path, trainer, signal)
        edit(tmp_path, trainer, lambda table: table[table["rank"] == 0])
    found = section([tmp_path])
    assert np.isnan(value(found, GENESIS, "AUC")["p"])
    assert found.verdict == (
        "Nothing is compared: there are no ClassifierScratch and another arm with the same items, of every class, "
        "and as many runs."
    )


def test_words_for_nothing_are_names_too(tmp_path):
    write_arm(tmp_path, GENESIS, 2)
    edit(tmp_path, GENESIS, lambda table: table.assign(label="None", group="NA"))
    assert value(section([tmp_path]), GENESIS, "AUC")["patients"] == 1


def test_an_item_in_two_folds_is_refused(tmp_path):
    write_arm(tmp_path, GENESIS, 2)
    model = next(tmp_path.iterdir())
    shutil.copytree(model / "fold_0", model / "fold_5")
    with pytest.raises(GenesisError, match="c0_0 was validated in several of fold_0, fold_1, fold_5"):
        section([tmp_path])


def test_arms_with_other_patients_are_not_compared(tmp_path):
    for trainer in (GENESIS, BASELINE):
        write_arm(tmp_path, trainer, 2)
    edit(tmp_path, BASELINE, lambda table: table.assign(group=table["case"]))
    assert "not tested" in section([tmp_path]).remarks[0]


def test_another_baseline_and_none(tmp_path):
    write_arm(tmp_path, GENESIS, 2)
    assert section([tmp_path]).remarks == [f"No run of the baseline {BASELINE} was found: nothing is tested."]
    write_arm(tmp_path, BASELINE, 0)
    found = section([tmp_path], GENESIS)
    assert value(found, BASELINE, "AUC")["difference"] < 0
    assert found.verdict.startswith("ClassifierScratch and Classifier can't be told")


def test_several_plans_are_told_apart(tmp_path):
    for trainer, signal in ((GENESIS, 2), (BASELINE, 0)):
        write_arm(tmp_path, trainer, signal)
        shutil.copytree(tmp_path / f"{trainer}__nnUNetPlans__3d_fullres", tmp_path / f"{trainer}__Other__3d_fullres")
    found = section([tmp_path])
    assert len(items(found)) == 4
    assert found.verdict.startswith("Classifier, Other, 3d_fullres and ClassifierScratch can't be told")
    assert "ClassifierScratch, Other, 3d_fullres with AUC 0." in found.pictures[0].alt
    assert [row["plans"] for row in found.rows if row["trainer"] == "volume alone"] == ["Other", "nnUNetPlans"]
