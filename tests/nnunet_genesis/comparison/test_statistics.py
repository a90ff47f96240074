"""Statistics and surface Dice of the report, against values worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from nnunet_genesis.comparison.figures import short
from nnunet_genesis.comparison.nsd import nsd
from nnunet_genesis.comparison.results import read_results
from nnunet_genesis.comparison.runs import find_runs
from nnunet_genesis.comparison.statistics import (
    compare,
    holm,
    mean_interval,
    reached,
    smooth,
    training_curves,
    wilcoxon_p,
)
from nnunet_genesis.comparison.subsets import SubsetMap
from tests.nnunet_genesis.comparison.synthetic_results import GENESIS, SCRATCH, write_run


def test_wilcoxon_of_five_equal_signs_is_one_in_sixteen():
    assert wilcoxon_p([1, 2, 3, 4, 5]) == pytest.approx(2 / 2**5)
    assert wilcoxon_p([0, 0]) == 1
    assert np.isnan(wilcoxon_p([]))


def test_holm_multiplies_by_the_tests_left_and_never_falls():
    np.testing.assert_allclose(holm([0.01, 0.04, np.nan, 0.03]), [0.03, 0.06, np.nan, 0.06])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])


def test_interval_holds_the_mean_and_is_seeded():
    values = np.random.default_rng(0).normal(5, 1, 40)
    mean, low, high, method = mean_interval(values)
    assert mean == pytest.approx(values.mean())
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 40**0.5, rel=0.15)
    assert mean_interval(values) == (mean, low, high, method)


@pytest.mark.parametrize(
    ("values", "method"),
    [
        ([0.5, 0.6, 0.8], "BCa"),
        ([0.3] * 5 + [0.1 + 0.2], "percentiles"),  # scipy's BCa is NaN: the spread is one of rounding
        ([0.5, 0.5], "all equal"),
        ([0.5], "none"),
    ],
)
def test_an_interval_says_how_it_was_taken(values, method):
    mean, low, high, found = mean_interval(values)
    assert found == method
    assert np.isnan([low, high]).all() if method == "none" else low <= mean <= high


def table(values: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Trainer → case → Dice, as the report's table of cases."""
    common = {"plans": "P", "configuration": "C", "cases": "4", "train": 4, "fold": 0, "seed": 0, "label": "1"}
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
    assert row["difference"] == pytest.approx(0.15)
    assert row["mean"] == pytest.approx(0.5)


def test_images_of_a_patient_count_once():
    cases = {SCRATCH: {"p1_a": 0.4, "p1_b": 0.6, "p2_a": 0.9}}
    row = compare(table(cases), SCRATCH, group_by=r"p\d").iloc[0]
    assert (row["n"], row["mean"]) == (2, pytest.approx(0.7))


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
