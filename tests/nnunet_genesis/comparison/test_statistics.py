"""Statistics and surface Dice of the report, against values worked out by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from nnunet_genesis.comparison.figures import short
from nnunet_genesis.comparison.nsd import nsd
from nnunet_genesis.comparison.results import read_results
from nnunet_genesis.comparison.runs import find_runs
from nnunet_genesis.comparison.statistics import (
    compare,
    converged,
    estimate,
    holm,
    reached,
    rises,
    smooth,
    training_curves,
)
from nnunet_genesis.comparison.subsets import SubsetMap
from tests.nnunet_genesis.comparison.synthetic_results import GENESIS, SCRATCH, write_run


def test_holm_multiplies_by_the_tests_left_and_never_falls():
    np.testing.assert_allclose(holm([0.01, 0.04, np.nan, 0.03]), [0.03, 0.06, np.nan, 0.06])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])


def values(folds: int, runs: int, patients: int, chance: float, rng: np.random.Generator) -> pd.Series:
    """Of no difference: patients vary by 1, runs by ``chance``, runs on a patient by a half more."""
    patient, run = rng.normal(size=(folds, 1, patients)), chance * rng.normal(size=(folds, runs, 1))
    cube = patient + run + 0.5 * rng.normal(size=(folds, runs, patients))
    fold, number, case = (axis.ravel() for axis in np.indices(cube.shape))
    levels = [fold, number, np.zeros_like(fold), np.char.add(np.char.mod("%d_", fold), np.char.mod("%d", case))]
    return pd.Series(cube.ravel(), pd.MultiIndex.from_arrays(levels, names=["fold", "seed", "repetition", "case"]))


DESIGNS = [(3, 1, 0.0), (3, 1, 0.5), (3, 1, 1.0), (5, 1, 0.5), (3, 2, 0.0), (3, 2, 1.0), (1, 3, 0.5), (2, 2, 1.0)]


@pytest.mark.parametrize(("folds", "runs", "chance"), DESIGNS)
def test_intervals_cover_the_choice_of_cases_and_the_chance_of_training(folds, runs, chance):
    """Of 400 in which 5 % would be wrong, more than 30 are in 1 of 100 such tests."""
    rng = np.random.default_rng(0)
    found = [estimate(values(folds, runs, 10, chance, rng)) for _ in range(400)]
    assert 0 < sum(one["p"] < 0.05 for one in found) <= 30
    assert all((one["p"] < 0.05) != (one["low"] <= 0 <= one["high"]) for one in found)


def test_of_one_run_the_interval_is_students_over_patients():
    data = values(1, 1, 12, 0, np.random.default_rng(0))
    found, expected = estimate(data), ttest_1samp(data, 0)
    assert (found["n"], found["n_runs"], found["interval"]) == (12, 1, "one run")
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval()))


def test_an_interval_of_equal_values_is_their_value_and_one_patient_has_none():
    data = values(1, 1, 3, 0, np.random.default_rng(0))
    assert estimate(data * 0 + 0.5)["low"] == 0.5
    assert estimate(data * 0)["p"] == 1
    assert np.isnan(estimate(data[:1])["low"])
    assert estimate(data[:1])["interval"] == "none"


def table(values: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Trainer → case → Dice, as the report's table of cases."""
    common = {"plans": "P", "configuration": "C", "cases": "4", "train": 4, "fold": 0, "seed": 0,
              "repetition": 0, "label": "1"}  # fmt: skip
    return pd.DataFrame(
        [
            common | {"metric": "Dice", "trainer": trainer, "case": case, "value": value}
            for trainer, cases in values.items()
            for case, value in cases.items()
        ]
    )


def test_only_cases_that_both_have_are_paired():
    cases = {SCRATCH: {"a": 0.5, "b": 0.6, "c": 0.7}, GENESIS: {"a": 0.6, "b": 0.8, "d": 0.1}}
    row = compare(table(cases), SCRATCH).set_index("trainer").loc[GENESIS]
    assert (row["n"], row["pairs"], row["unpaired"]) == (3, 2, 2)
    assert row["pairs_baseline"] == pytest.approx(0.55)
    further = table({SCRATCH: {"e": 0.5}}).assign(fold=1)  # a run that only one of the two has
    assert (compare(pd.concat([table(cases), further]), SCRATCH)["unpaired"] == [0, 2]).all()
    assert row["difference"] == pytest.approx(0.15)
    assert row["mean"] == pytest.approx(0.5)


def test_images_of_a_patient_count_once():
    cases = {SCRATCH: {"p1_a": 0.4, "p1_b": 0.6, "p2_a": 0.9}}
    row = compare(table(cases), SCRATCH, group_by=r"p\d").iloc[0]
    assert (row["n"], row["mean"]) == (2, pytest.approx(0.7))


def test_only_what_was_decided_beforehand_is_tested_and_from_three_runs_on():
    rng = np.random.default_rng(0)
    parts = [table({name: {f"{fold}_{n}": rng.random() for n in range(5)} for name in (SCRATCH, GENESIS)}).assign(
        fold=fold, label=label, metric=metric) for fold in range(3)
        for label, metric in (("mean", "Dice"), ("mean", "NSD"), ("1", "Dice"))]  # fmt: skip
    rows = compare(pd.concat(parts), SCRATCH)
    assert rows.loc[rows["p"].notna(), ["trainer", "label", "metric"]].to_numpy().tolist() == [
        [GENESIS, "mean", "Dice"]
    ]
    assert compare(pd.concat(parts[:6]), SCRATCH)["p"].isna().all()


def risen(folder: Path, curve: np.ndarray) -> tuple[float, float]:
    write_run(folder, SCRATCH, 0, {"a": (0.5, 0.5)}, curve=tuple(curve))
    results = read_results(folder, None, folder, [])
    assert rises(training_curves(results), GENESIS).empty
    return tuple(rises(training_curves(results), SCRATCH).loc["nnUNetPlans", "3d_fullres", "all"])


def test_a_rise_is_that_of_the_line_through_the_last_fifth_with_its_error(tmp_path):
    assert risen(tmp_path / "line", np.linspace(0, 1, 50)) == pytest.approx((9 / 49, 0), abs=1e-6)
    noise = np.random.default_rng(0).normal(0.5, 0.05, (200, 25))
    errors = [risen(tmp_path / str(n), curve) for n, curve in enumerate(noise[:5])]
    assert all(error > 0.01 for _, error in errors)


@pytest.mark.parametrize(
    ("rise", "error", "expected"),
    [
        (0.001, 0.001, "yes"),
        (0.04, 0.01, "no"),
        (-0.6, 0.05, "no"),
        (0.001, 0.05, "can't be told"),
        (np.nan, 0, "not known"),
    ],
)
def test_converged_is_what_stays_where_it_is_beyond_the_wavering(rise, error, expected):
    assert converged(rise, error) == expected


def line(*voxels: int) -> np.ndarray:
    mask = np.zeros((1, 1, 12), bool)
    mask[0, 0, list(voxels)] = True
    return mask


@pytest.mark.parametrize(
    ("reference", "prediction", "tolerance", "expected"),
    [
        (line(3), line(3), 0.0, 1.0),
        (line(3), line(4), 1.9, 0.0),  # 2 mm apart
        (line(3), line(4), 2.0, 1.0),
        (line(3), line(3, 9), 0.0, 2 / 3),  # one of one, and one of two
        (line(3), line(), 9.0, 0.0),
    ],
)
def test_surface_dice_by_hand(reference, prediction, tolerance, expected):
    assert nsd(reference, prediction, (1, 1, 2), tolerance) == pytest.approx(expected)
    assert nsd(prediction, reference, (1, 1, 2), tolerance) == pytest.approx(expected)


def test_surface_dice_of_nothing_is_no_number():
    assert np.isnan(nsd(line(), line(), (1, 1, 2), 1))


def test_the_inside_is_no_surface():
    """A 5³ cube against itself without its centre: the hole adds its 6 neighbours to the 98 outer voxels."""
    cube = np.pad(np.ones((5, 5, 5), bool), 2)
    hollow = cube.copy()
    hollow[4, 4, 4] = False
    assert nsd(cube, hollow, (1, 1, 1), 0.5) == pytest.approx((98 + 98) / (98 + 104))


def test_an_unknown_fold_number_beyond_nnunets_five_is_remarked(tmp_path):
    for fold in (4, 5):
        write_run(tmp_path, SCRATCH, fold, {"a": (0.5, 0.5)})
    runs, remarks = find_runs(tmp_path, SubsetMap())
    assert len(runs) == 2
    assert len(remarks) == 1
    assert "fold_5: genesis_splits.json doesn't know this fold" in remarks[0]


def test_a_run_of_unknown_length_is_not_drawn_with_a_guessed_one(tmp_path):
    known = write_run(tmp_path, SCRATCH, 0, {"a": (0.5, 0.5)}, curve=(0.1, 0.2))
    unknown = write_run(tmp_path, GENESIS, 0, {"a": (0.5, 0.5)}, curve=(0.1, 0.2))
    (unknown / "debug.json").unlink()
    results = read_results(tmp_path, None, tmp_path, [])
    assert any(remark.startswith(f"{GENESIS}__") and "debug.json" in remark for remark in results.remarks)
    curves = training_curves(results)
    assert set(curves["trainer"]) == {SCRATCH}
    assert curves["iteration"].tolist() == [10, 20]
    assert (known / "debug.json").exists()


def test_curves_are_smoothed_without_a_lag():
    def smoothed(*values: float) -> list[float]:
        return smooth(pd.Series(values)).tolist()

    assert smoothed(0.1, 0.5, 0.2) == [0.1, 0.5, 0.2]  # short: as it is
    assert smoothed(0.3, float("nan"), 0.5) == [0.3, 0.3, 0.5]
    step = smoothed(*[0.0] * 20, *[1.0] * 20)  # 40 epochs: over 5
    assert step[:18] == [0] * 18
    assert step[18:22] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert step[22:] == [1] * 18


def test_when_the_baselines_last_value_is_reached_by_hand(tmp_path):
    for fold, curve in ((0, (0.1, 0.5, 0.9)), (1, (0.2, 0.7, 0.6))):
        write_run(tmp_path, SCRATCH, fold, {"a": (0.5, 0.5)}, curve=(0.1, 0.8, 0.7))
        write_run(tmp_path, GENESIS, fold, {"a": (0.5, 0.5)}, curve=curve)
    table = reached(training_curves(read_results(tmp_path, None, tmp_path, [])), SCRATCH).set_index("trainer")
    assert table.loc[GENESIS, ["runs", "reached"]].tolist() == [2, 2]
    assert table.loc[GENESIS, ["iteration", "baseline_iterations"]].tolist() == [25, 30]  # the median of 30 and 20
    assert table.loc[SCRATCH, "iteration"] == 20  # it passed its own last value before the end


@pytest.mark.parametrize(
    ("trainer", "name"),
    [
        ("nnUNetTrainer", "nnUNetTrainer"),
        ("nnUNetTrainer_250epochs", "250epochs"),
        ("nnUNetTrainerGenesis", "Genesis"),
        ("nnUNetTrainerGenesisFull", "Full"),
        ("nnUNetTrainerGenesis_masking", "Genesis_masking"),
    ],
)
def test_short_names_never_start_with_an_underscore_which_legends_leave_out(trainer, name):
    assert short(trainer) == name
