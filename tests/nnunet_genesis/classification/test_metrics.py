"""Figures against known values; intervals and tests over patients."""

import numpy as np
import pytest

from nnunet_genesis.classification import metrics
from nnunet_genesis.classification.metrics import (
    FALSE_POSITIVES,
    METRICS,
    auc,
    cpm_of,
    froc,
    interval,
    paired_p,
    resampled,
    volume_alone,
)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """For speed; enough for a p below 0.01."""
    monkeypatch.setattr(metrics, "RESAMPLES", 150)


def binary(seed: int, n: int = 200, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ranks = random.integers(2, size=n)
    scores = 1 / (1 + np.exp(-(random.normal(size=n) + signal * ranks)))
    return ranks, np.stack([1 - scores, scores], 1), np.ones(n)


def test_perfect_and_reversed():
    ranks = np.array([0, 1, 0, 1])
    right = np.eye(2)[ranks]
    assert {name: metric(ranks, right, np.ones(4)) for name, metric in METRICS.items()} == dict.fromkeys(METRICS, 1.0)
    assert auc(ranks, 1 - right, np.ones(4)) == 0
    assert np.isnan(auc(ranks, right, np.array([1.0, 0, 1, 0])))


def test_froc_counts_false_positives_a_scan():
    positive = np.array([True, False, True, False, False, True])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    found = dict(zip(FALSE_POSITIVES, froc(positive, scores, scans=1), strict=True))
    assert found[1] == pytest.approx(2 / 3)
    assert found[4] == 1
    assert found[0.125] == pytest.approx(1 / 3)


def test_cpm_of_many_scans_is_the_mean_of_froc():
    ranks, probabilities, weights = binary(0)
    cases = np.arange(200) // 10
    expected = froc(ranks == 1, probabilities[:, 1], 20).mean()
    assert cpm_of(cases)(ranks, probabilities, weights) == pytest.approx(expected)


def test_the_interval_covers_and_is_wider_over_patients():
    ranks, probabilities, weights = binary(1)
    value = auc(ranks, probabilities, weights)
    low, high = interval(resampled(auc, ranks, probabilities[:, None], np.arange(200)))
    assert low < value < high
    few = interval(resampled(auc, ranks, probabilities[:, None], np.arange(200) // 20))
    assert few[0] < value < few[1]


def test_the_paired_test_finds_a_difference_and_none():
    ranks, good, _ = binary(2, signal=2.0)
    _, bad, _ = binary(3, signal=0.0)
    good, bad = good[:, None], bad[:, None]
    assert paired_p(auc, ranks, good, bad, np.arange(200)) < 0.01
    assert paired_p(auc, ranks, good, good, np.arange(200)) == 1


def test_volume_alone_in_either_direction():
    ranks = np.array([0, 0, 1, 1])
    assert volume_alone(ranks, np.array([9.0, 8, 2, 1]), 2) == 1
    assert np.isnan(volume_alone(ranks, np.array([np.nan, 8, 2, 1]), 2))
