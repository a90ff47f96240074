"""Means and differences with intervals over cases and training runs, one test a question, curves.

An interval is the wider of two of Student's: over patients, each the mean of its runs, and over the folds' means (of
fewer than three folds, over the runs'). The first covers the choice of patients, the second the chance of training and
of the training cases. In simulations neither is too short (a test); a mixed model, which estimates both variances from
three runs, is, and so is resampling them.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import linregress
from scipy.stats import t as student

from nnunet_genesis.comparison.results import KEYS, MEAN, RUN, Results
from nnunet_genesis.comparison.subsets import group_of

LEVEL = 0.95
FEWEST_RUNS = 3  # of an arm, for a test; and of folds, for an interval over them
CONVERGED = 0.005  # change of the baseline's pseudo-Dice over the last fifth of its run, at most


def estimate(values: pd.Series, group_by: str | None = None) -> dict[str, Any]:
    """Estimate a mean, its 95 % interval, and the two-sided p of a mean of 0.

    Args:
        values: of one arm or of one difference, indexed by fold, seed, repetition (the run) and case, in this order.
        group_by: pattern of the patient; a patient's images are averaged first.

    Returns:
        ``n`` patients, ``n_runs``, ``mean``, ``low``, ``high``, ``p``, and ``interval``, what it covers: patients and
        ``runs`` (from three on), ``two runs``, ``one run``; ``none`` (NaN) of one patient.
    """
    values = values.dropna()
    run, runs = values.index.droplevel("case").factorize()
    patient, patients = pd.factorize(np.array([group_of(c, group_by) for c in values.index.get_level_values("case")]))
    n, k = len(patients), len(runs)
    sums, counts = (np.bincount(patient * k + run, weights, n * k) for weights in (values.to_numpy(), None))
    table = np.divide(sums, counts, out=np.full(n * k, np.nan), where=counts > 0).reshape(n, k)
    covers = "none" if n < 2 else {1: "one run", 2: "two runs"}.get(k, "runs")
    mean = float((of_patients := np.nanmean(table, 1)).mean()) if n else math.nan
    found = {"n": n, "n_runs": k, "mean": mean, "low": math.nan, "high": math.nan, "p": math.nan, "interval": covers}
    if n < 2:
        return found
    spreads = [_student(mean, of_patients)]
    if k > 1:
        of_runs = pd.Series(np.nanmean(table, 0), runs.get_level_values(0))
        of_folds = of_runs.groupby(level=0).mean()
        spreads.append(_student(mean, (of_folds if len(of_folds) >= FEWEST_RUNS else of_runs).to_numpy()))
    half, p = map(max, zip(*spreads, strict=True))
    return found | {"low": mean - half, "high": mean + half, "p": p}


def _student(mean: float, values: np.ndarray) -> tuple[float, float]:
    """Give the half width of a mean's interval, and the p of a mean of 0, from values that vary around it."""
    error, freedom = float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1
    if not error:  # all equal
        return 0.0, float(mean == 0)
    return float(student.ppf((1 + LEVEL) / 2, freedom)) * error, float(2 * student.sf(abs(mean) / error, freedom))


def holm(p_values: pd.Series | np.ndarray | list[float]) -> np.ndarray:
    """Adjust p-values after Holm, in the order given; NaN stays and doesn't count."""
    p = np.asarray(p_values, float)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    adjusted = p.copy()
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def compare(measured: pd.DataFrame, baseline: str, group_by: str | None = None) -> pd.DataFrame:
    """Calculate every trainer's mean, and its paired difference to the baseline.

    The tests were decided beforehand: one an arm and size, of the Dice that is the mean of the classes, where the arm
    has at least three runs to pair. Nothing else has a p; Holm's correction is over those.

    ``measured`` is :meth:`Results.measured`'s; pairs have the same plans, configuration, run, training cases and case.

    Returns:
        One row a plans, configuration, size, class, metric and trainer, in the order of the sizes.
    """
    rows = []
    for key, part in measured.groupby([*KEYS, "label", "metric"], sort=False):
        wide = part.pivot_table(index=[*RUN, "case"], columns="trainer", values="value")
        common = dict(zip([*KEYS, "label", "metric"], key, strict=True)) | {"train": float(part["train"].mean())}
        rows += [common | row for row in _arms(wide, baseline, group_by)]
    frame = pd.DataFrame(rows).sort_values([*KEYS[:2], "train"], kind="stable", ignore_index=True)
    frame["p"] = frame["p"].where(is_question(frame) & (frame["pairs_runs"] >= FEWEST_RUNS))
    return frame.assign(p_holm=holm(frame["p"]))


def is_question(rows: pd.DataFrame) -> pd.Series:
    """Mark the rows that ask what was decided beforehand."""
    return (rows["label"] == MEAN) & (rows["metric"] == "Dice") & rows["difference"].notna()


def _arms(wide: pd.DataFrame, baseline: str, group_by: str | None) -> list[dict[str, Any]]:
    rows = []
    for trainer in sorted(wide.columns, key=lambda name: (name != baseline, name)):
        row = {"trainer": trainer} | estimate(wide[trainer], group_by)
        row |= {name: np.clip(row[name], 0, 1) for name in ("low", "high")}  # what Dice and NSD can be
        row |= dict.fromkeys(("difference", "pairs", "pairs_runs", "pairs_baseline", "p"), np.nan) | {"unpaired": 0}
        if trainer != baseline and baseline in wide:
            pairs = wide[[trainer, baseline]].dropna()
            found = estimate(pairs[trainer] - pairs[baseline], group_by)
            row |= {"pairs": found["n"], "pairs_runs": found["n_runs"], "p": found["p"], "difference": found["mean"]}
            row["pairs_baseline"] = estimate(pairs[baseline], group_by)["mean"]
            row |= {f"difference_{name}": found[name] for name in ("low", "high", "interval")}
            there = wide[[trainer, baseline]].notna()
            shared = there.groupby(level=RUN).transform("any").all(axis=1)  # runs that both have
            row["unpaired"] = int((there[trainer] != there[baseline])[shared].sum())
        rows.append(row)
    return rows


def smooth(values: pd.Series) -> pd.Series:
    """Average over a centred tenth of the run; an epoch without a value takes no part.

    Not nnU-Net's average, 0.9 of the last and 0.1 of the new: of 20 epochs, it lags behind by half.
    """
    window = 2 * (len(values) // 20) + 1
    return values.rolling(window, min_periods=1, center=True).mean().ffill()


def training_curves(results: Results) -> pd.DataFrame:
    """Tabulate one row a run and epoch: the runs' columns, iteration (at its end), smoothed and ``raw`` pseudo-Dice.

    Runs of which the iterations of an epoch aren't known are left out.
    """
    curves = results.curves.join(results.of_runs(), on="run").dropna(subset="iterations")
    smoothed = curves.groupby("run", sort=False)["pseudo_dice"].transform(smooth)
    iteration = (curves["epoch"] + 1) * curves["iterations"]
    return curves.assign(raw=curves["pseudo_dice"], pseudo_dice=smoothed, iteration=iteration)


def reached(curves: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Find the iteration at which each trainer's curve first reaches the baseline's last value, run by run.

    The baseline's own curve is one of them: where it was there long before its end, others are no quicker for it.

    Returns:
        One row a plans, configuration, size and trainer: in how many of how many runs, the median iteration of
        those, and the baseline's length.
    """
    rows = []
    for key, part in curves.sort_values("iteration", kind="stable").groupby([*KEYS, *RUN], sort=False):
        if (part["trainer"] == baseline).any():
            goal = part[part["trainer"] == baseline].iloc[-1]
            for name, run in part.groupby("trainer"):
                there = run.loc[run["pseudo_dice"] >= goal["pseudo_dice"], "iteration"].min()
                rows.append([*key[:3], name, there, goal["iteration"]])
    frame = pd.DataFrame(rows, columns=[*KEYS, "trainer", "iteration", "baseline_iterations"])
    return frame.groupby([*KEYS, "trainer"], sort=False, as_index=False).agg(
        runs=("iteration", "size"),
        reached=("iteration", "count"),
        iteration=("iteration", "median"),
        baseline_iterations=("baseline_iterations", "median"),
    )


def rises(curves: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Give by :data:`KEYS` how much the baseline's pseudo-Dice rises over the last fifth of its run, mean of the runs.

    ``rise`` is that of the straight line through the fifth's epochs, ``error`` its standard error: pseudo-Dice is of a
    few random patches, and wavers. Runs of fewer than 15 epochs aren't judged.
    """
    mine, rows = curves[curves["trainer"] == baseline].sort_values("iteration"), []
    for key, run in mine.groupby([*KEYS, *RUN])["raw"]:
        last = run.tail(len(run) // 5).dropna()
        if len(last) > 2:
            line, steps = linregress(np.arange(len(last)), last), len(last) - 1
            rows.append([*key[: len(KEYS)], line.slope * steps, (line.stderr * steps) ** 2, 1])
    sums = pd.DataFrame(rows, columns=[*KEYS, "rise", "error", "runs"]).groupby(KEYS).sum()
    return pd.DataFrame({"rise": sums["rise"] / sums["runs"], "error": sums["error"] ** 0.5 / sums["runs"]})


def converged(rise: float, error: float) -> str:
    """Say whether a rise within two standard errors is below :data:`CONVERGED`, up or down: yes, no, can't be told."""
    if math.isnan(rise):
        return "not known"
    if abs(rise) + 2 * error < CONVERGED:
        return "yes"
    return "no" if abs(rise) - 2 * error > CONVERGED else "can't be told"
