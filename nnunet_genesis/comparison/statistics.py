"""Means with confidence intervals, paired tests with Holm's correction, curves; everything seeded."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, wilcoxon

from nnunet_genesis.comparison.results import KEYS, Results
from nnunet_genesis.comparison.subsets import group_of

RESAMPLES, SEED = 9999, 0


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float, str]:
    """Calculate a mean with its 95 % bootstrap interval.

    Returns:
        Mean, lower and upper limit, and how they were taken: ``"BCa"``; ``"percentiles"``, where scipy's BCa is NaN
        (the values differ by no more than their rounding); ``"all equal"``, where nothing is drawn; ``"none"`` (NaN)
        below two values.
    """
    values = np.asarray(values, float)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2:
        return mean, float("nan"), float("nan"), "none"
    if np.ptp(values) == 0:
        return mean, mean, mean, "all equal"
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the degenerate BCa that is replaced here
            rng = np.random.default_rng(SEED)
            limits = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method=method, rng=rng).confidence_interval
        if np.isfinite(limits).all():
            break
    return mean, float(limits.low), float(limits.high), "BCa" if method == "BCa" else "percentiles"


def wilcoxon_p(differences: Sequence[float] | np.ndarray) -> float:
    """Calculate the two-sided p of Wilcoxon's signed-rank test; 1 where nothing differs, NaN without pairs."""
    differences = np.asarray(differences, float)
    if not len(differences):
        return float("nan")
    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjust p-values after Holm, in the order given; NaN stays and doesn't count."""
    p = np.asarray(p_values, float)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    adjusted = p.copy()
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def compare(measured: pd.DataFrame, baseline: str, group_by: str | None = None) -> pd.DataFrame:
    """Calculate every trainer's mean, and its paired difference to the baseline.

    Args:
        measured: as :meth:`Results.measured` gives it.
        baseline: the trainer to compare with, at the same plans, configuration, fold, training cases and case.
        group_by: pattern of the patient: values are averaged by patient first, because a patient's images aren't
            independent.

    Returns:
        One row a plans, configuration, size, class, metric and trainer, in the order of the sizes.
    """
    rows = []
    for key, part in measured.groupby([*KEYS, "label", "metric"], sort=False):
        wide = part.pivot_table(index=["fold", "seed", "case"], columns="trainer", values="value")
        common = dict(zip([*KEYS, "label", "metric"], key, strict=True)) | {"train": float(part["train"].mean())}
        rows += [common | row for row in _arms(wide, baseline, group_by)]
    frame = pd.DataFrame(rows).sort_values([*KEYS[:2], "train"], kind="stable", ignore_index=True)
    return frame.assign(p_holm=holm(frame["p"]))


def _arms(wide: pd.DataFrame, baseline: str, group_by: str | None) -> list[dict[str, Any]]:
    def by_unit(values: pd.Series) -> np.ndarray:
        values = values.dropna()
        units = [group_of(case, group_by) for case in values.index.get_level_values("case")]
        return values.groupby(np.array(units, object)).mean().to_numpy()

    rows = []
    for trainer in sorted(wide.columns, key=lambda name: (name != baseline, name)):
        values = by_unit(wide[trainer])
        row: dict[str, Any] = {"trainer": trainer, "n": len(values), "p": float("nan"), "unpaired": 0}
        row |= dict(zip(("mean", "low", "high", "interval"), mean_interval(values), strict=True))
        if trainer != baseline and baseline in wide:
            difference = by_unit(wide[trainer] - wide[baseline])
            unpaired = int((wide[trainer].isna() != wide[baseline].isna()).sum())
            row |= {"pairs": len(difference), "unpaired": unpaired, "p": wilcoxon_p(difference)}
            names = ("difference", "difference_low", "difference_high", "difference_interval")
            row |= dict(zip(names, mean_interval(difference), strict=True))
        rows.append(row)
    return rows


def smooth(values: pd.Series) -> pd.Series:
    """Average over a centred tenth of the run; an epoch without a value takes no part.

    Not nnU-Net's average, 0.9 of the last and 0.1 of the new: of 20 epochs, it lags behind by half.
    """
    window = 2 * (len(values) // 20) + 1
    return values.rolling(window, min_periods=1, center=True).mean().ffill()


def training_curves(results: Results) -> pd.DataFrame:
    """Tabulate one row a run and epoch: the runs' columns, iteration (at its end) and smoothed pseudo-Dice.

    Runs of which the iterations of an epoch aren't known are left out.
    """
    curves = results.curves.join(results.of_runs(), on="run").dropna(subset="iterations")
    curves["pseudo_dice"] = curves.groupby("run", sort=False)["pseudo_dice"].transform(smooth)
    return curves.assign(iteration=(curves["epoch"] + 1) * curves["iterations"])


def reached(curves: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Find the iteration at which each trainer's curve first reaches the baseline's last value, fold by fold.

    The baseline's own curve is one of them: where it was there long before its end, others are no quicker for it.

    Returns:
        One row a plans, configuration, size and trainer: in how many of how many folds, the median iteration of
        those, and the baseline's length.
    """
    rows = []
    for key, part in curves.groupby([*KEYS, "fold", "seed"], sort=False):
        by_trainer = {name: run.sort_values("iteration") for name, run in part.groupby("trainer")}
        if baseline not in by_trainer:
            continue
        goal = by_trainer[baseline].iloc[-1]
        for name, run in by_trainer.items():
            there = run.loc[run["pseudo_dice"] >= goal["pseudo_dice"], "iteration"]
            rows.append([*key[:3], name, there.iloc[0] if len(there) else np.nan, goal["iteration"]])
    frame = pd.DataFrame(rows, columns=[*KEYS, "trainer", "iteration", "baseline_iterations"])
    summary = {"runs": ("iteration", "size"), "reached": ("iteration", "count"), "iteration": ("iteration", "median"),
               "baseline_iterations": ("baseline_iterations", "median")}  # fmt: skip
    return frame.groupby([*KEYS, "trainer"], sort=False, as_index=False).agg(**summary)
