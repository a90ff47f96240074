"""How well classes are told apart: scikit-learn's figures, FROC, intervals over patients, and a paired test."""

from collections.abc import Callable

import numpy as np
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score, roc_curve

RESAMPLES, SEED = 1000, 0
_MOST, _LEAST = 20_000_000, 100  # items in all resamples; candidates may be hundreds of thousands
FALSE_POSITIVES = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # a scan: LUNA16's competition performance metric
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]  # of ranks (n,), probabilities (n, k), weights (n,)


def _one_against_the_rest(score: Callable[..., float]) -> Metric:
    def metric(ranks: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
        """Mean over the classes; of two, of the last. NaN where one is missing."""
        number = probabilities.shape[1]
        if not np.bincount(ranks, weights, number).all():
            return float("nan")
        classes = range(number == 2, number)
        return float(np.mean([score(ranks == k, probabilities[:, k], sample_weight=weights) for k in classes]))

    return metric


def _balanced_accuracy(ranks: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
    """Mean recall of the classes that are there; scikit-learn's own warns of every resample that lacks one."""
    there, found = np.unique(ranks[weights > 0]), probabilities.argmax(1)
    return float(recall_score(ranks, found, labels=there, average="macro", sample_weight=weights))


auc = _one_against_the_rest(roc_auc_score)
METRICS: dict[str, Metric] = {
    "AUC": auc,
    "average precision": _one_against_the_rest(average_precision_score),
    "balanced accuracy": _balanced_accuracy,
}


def froc(positive: np.ndarray, scores: np.ndarray, scans: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of the positive candidates found at each number of :data:`FALSE_POSITIVES` a scan."""
    false, found, _ = roc_curve(positive, scores, sample_weight=weights)
    negatives = (~positive).sum() if weights is None else weights[~positive].sum()
    return np.interp(FALSE_POSITIVES, false * negatives / scans, found)


def cpm_of(cases: np.ndarray) -> Metric:
    """LUNA16's CPM, the mean of :func:`froc`, for candidates of these scans; each counts as a lesion of its own."""
    scan_of, sizes = np.unique(cases, return_inverse=True, return_counts=True)[1:]

    def metric(ranks: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
        scans = float((weights / sizes[scan_of]).sum())
        positive = ranks == 1
        if not (weights[positive].sum() > 0 and weights[~positive].sum() > 0):
            return float("nan")
        return float(froc(positive, probabilities[:, 1], scans, weights).mean())

    return metric


def mean_of_runs(metric: Metric) -> Metric:
    """Make the mean of a metric over several runs, of their probabilities (n, runs, k)."""

    def mean(ranks: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
        return float(np.mean([metric(ranks, run, weights) for run in np.moveaxis(probabilities, 1, 0)]))

    return mean


def resampled(metric: Metric, ranks: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Bootstrap the mean over runs, from their probabilities (n, runs, k); returns a value a resample.

    Patients are drawn, with all that is theirs, and of several runs the runs too: the same ones for every model, so
    that values of two can be subtracted.
    """
    unit, patient = np.unique(groups, return_inverse=True)
    rng, values, runs = np.random.default_rng(SEED), [], probabilities.shape[1]
    for _ in range(_number(len(ranks) * runs)):
        times = np.bincount(rng.integers(len(unit), size=len(unit)), minlength=len(unit))
        drawn = probabilities[:, rng.integers(runs, size=runs)] if runs > 1 else probabilities
        values.append(mean_of_runs(metric)(ranks, drawn, times[patient].astype(float)))
    return np.asarray(values)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of resampled values; NaN without any."""
    low, high = np.nanpercentile(values, (2.5, 97.5)) if np.isfinite(values).any() else (np.nan, np.nan)
    return float(low), float(high)


def paired_p(metric: Metric, ranks: np.ndarray, one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> float:
    """Two-sided p of the difference of a metric's mean over runs between two models; NaN where there is none.

    A permutation test: the two models' probabilities (n, runs, k) are exchanged, patient by patient.
    """
    unit, patient = np.unique(groups, return_inverse=True)
    rng, weights = np.random.default_rng(SEED), np.ones(len(ranks))

    def difference(swapped: np.ndarray) -> float:
        first, second = np.where(swapped, other, one), np.where(swapped, one, other)
        mean = mean_of_runs(metric)
        return mean(ranks, first, weights) - mean(ranks, second, weights)

    found = difference(np.zeros((len(ranks), 1, 1), bool))
    if not np.isfinite(found):
        return float("nan")
    times = _number(len(ranks) * one.shape[1])
    swaps = (rng.integers(2, size=len(unit)).astype(bool)[patient, None, None] for _ in range(times))
    extreme = [abs(difference(swap)) >= abs(found) - 1e-12 for swap in swaps]
    return (1 + sum(extreme)) / (1 + len(extreme))


def _number(items: int) -> int:
    return int(np.clip(_MOST // items, _LEAST, RESAMPLES))


def volume_alone(ranks: np.ndarray, volumes: np.ndarray, classes: int) -> float:
    """AUC of the volume as the only score, whichever direction separates; NaN where none is known."""
    if not np.isfinite(volumes).all() or np.ptp(volumes) == 0:
        return float("nan")
    values = [roc_auc_score(ranks == k, volumes) for k in range(classes == 2, classes)]
    return float(np.mean(np.maximum(values, 1 - np.asarray(values))))
