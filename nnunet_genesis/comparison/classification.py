"""The classification part of a data set's report: one row an arm and metric, with intervals, and the curves."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_curve

from nnunet_genesis.classification import metrics
from nnunet_genesis.comparison.arms import Arm, find_arms, same_items
from nnunet_genesis.comparison.figures import Picture, look, panel, picture, plain, short
from nnunet_genesis.comparison.statistics import FEWEST_RUNS, LEVEL, holm

QUESTION = "AUC"  # the one metric that is tested
BASELINE = "nnUNetTrainerGenesisClassifierScratch"


@dataclasses.dataclass
class Section:
    """What the page shows: ``rows`` by arm and metric, confusion matrices by arm, figures, remarks, one sentence."""

    arms: list[Arm]
    baseline: str
    rows: list[dict[str, Any]]
    confusions: list[tuple[str, list[str], list[list[int]]]]
    pictures: list[Picture]
    remarks: list[str]
    verdict: str


def section(folders: Sequence[Path], baseline: str = BASELINE) -> Section | None:
    """Compare all arms of :func:`arms.find_arms` with the baseline; ``None`` where nothing was classified."""
    arms = sorted(find_arms(folders), key=lambda arm: (arm.plans, arm.configuration, arm.trainer != baseline))
    if not arms:
        return None
    remarks: list[str] = []
    if baseline not in {arm.trainer for arm in arms}:
        remarks.append(f"No run of the baseline {baseline} was found: nothing is tested.")
    first = {(arm.plans, arm.configuration): arm for arm in reversed(arms)}
    rows = [row for arm in arms for row in _rows(arm, _baseline(arm, arms, baseline, remarks), arm in first.values())]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    names, confusions = _names(arm.key for arm in arms), []
    for arm in arms:
        truth, found = np.repeat(arm.ranks, len(arm.tables)), arm.probabilities.argmax(2).ravel()
        matrix = confusion_matrix(truth, found, labels=range(len(arm.classes)))
        confusions.append((names[arm.key], arm.classes, matrix.tolist()))
    return Section(arms, baseline, rows, confusions, _pictures(arms, rows), remarks, verdict(rows, baseline))


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["trainer"], row["plans"], row["configuration"]


def _names(keys: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """Name arms by trainer, and by plans and configuration where there are several."""
    known = list(keys)
    several = len({key[1:] for key in known}) > 1
    return {key: short(key[0]) + f", {key[1]}, {key[2]}" * several for key in known}


def _baseline(arm: Arm, arms: list[Arm], name: str, remarks: list[str]) -> Arm | None:
    wanted = (name, arm.plans, arm.configuration)
    for other in arms:
        if other.key == wanted and other is not arm:
            if same_items(arm.table, other.table) and arm.tables.keys() == other.tables.keys():
                return other
            remarks.append(f"{arm.trainer}: not tested against {name}, which has other items or other runs.")
    return None


def _rows(arm: Arm, baseline: Arm | None, is_first: bool) -> Iterator[dict[str, Any]]:
    ranks, ones = arm.ranks, np.ones(len(arm.ranks))
    common = {"trainer": arm.trainer, "plans": arm.plans, "configuration": arm.configuration, "n": len(ranks),
              "patients": len(set(arm.patients)), "runs": len(arm.tables)}  # fmt: skip
    nothing = dict.fromkeys(("low", "high", "difference", "difference_low", "difference_high", "p"), np.nan)
    for name, metric in arm.metrics.items():
        mean = metrics.mean_of_runs(metric)
        value = mean(ranks, arm.probabilities, ones)
        row = common | {"metric": name, "value": value} | nothing
        row["low"], row["high"] = metrics.interval(arm.resampled(name))
        if baseline:
            row["difference"] = value - mean(ranks, baseline.probabilities, ones)
            differences = arm.resampled(name) - baseline.resampled(name)
            row["difference_low"], row["difference_high"] = metrics.interval(differences)
            if name == QUESTION and len(arm.tables) >= FEWEST_RUNS:
                row["p"] = metrics.paired_p(metric, ranks, arm.probabilities, baseline.probabilities, arm.patients)
        yield row
    if is_first and np.isfinite(arm.table["volume"]).all():
        value = metrics.volume_alone(ranks, arm.table["volume"].to_numpy(float), len(arm.classes))
        yield common | {"trainer": "volume alone", "metric": "AUC", "value": value, "runs": 1} | nothing


def verdict(rows: list[dict[str, Any]], baseline: str = BASELINE) -> str:
    """Say what the AUCs show: a difference needs enough runs for a test, its p, and an interval without 0."""
    asked = [row for row in rows if row["metric"] == QUESTION and not pd.isna(row["difference"])]
    if not asked:
        return (
            f"Nothing is compared: there are no {short(baseline)} and another arm with the same items, of every class, "
            "and as many runs."
        )
    tested = [row for row in asked if not pd.isna(row["p_holm"])]
    first = min(tested or asked, key=lambda row: (not _apart(row), row["p_holm"], -abs(row["difference"])))
    name, other, more = _names(map(_key, rows))[_key(first)], short(baseline), ""
    if tested:
        words = f"{name} {'is' if _apart(first) else 'is not'} shown to differ from {other}"
    else:
        words = f"{name} and {other} can't be told from the chance of training, with fewer than {FEWEST_RUNS} runs"
        more = "; another training may differ more"
    return (
        f"{words}: its AUC is {first['value']:.3f}, {first['difference']:+.3f} against it ({LEVEL:.0%} interval "
        f"{first['difference_low']:+.3f} to {first['difference_high']:+.3f} over patients"
        f"{' and runs' if first['runs'] > 1 else ''}{more})."
    )


def _apart(row: dict[str, Any]) -> bool:
    return row["p_holm"] < 1 - LEVEL and (row["difference_low"] > 0 or row["difference_high"] < 0)


def _pictures(arms: list[Arm], rows: list[dict[str, Any]]) -> list[Picture]:
    """Draw ROC, calibration and, of candidates, FROC; of several classes, one against the rest, all in one curve."""
    titles = {"ROC": ("false positives", "found"), "Calibration": ("predicted probability", "share that is so")}
    titles |= {"FROC": ("false positives a scan", "found")} if arms[0].candidates else {}
    names, pictures = _names(arm.key for arm in arms), []
    for title, (x, y) in titles.items():
        axes = panel()
        for arm, run in [(one, run) for one in arms for run in range(len(one.tables))]:
            colour, marker = look(list(names.values()), names[arm.key])
            style: dict[str, Any] = {
                "color": colour,
                "label": None if run else plain(names[arm.key].replace(", ", "\n", 1)),
            }
            of_class, probabilities = range(len(arm.classes) == 2, len(arm.classes)), arm.probabilities[:, run]
            truth = np.concatenate([arm.ranks == k for k in of_class])
            scores = probabilities[:, of_class].T.ravel()
            if title == "ROC":
                axes.plot(*roc_curve(truth, scores)[:2], **style)
            elif title == "Calibration":
                found, predicted = calibration_curve(truth, scores, n_bins=10, strategy="quantile")
                axes.plot(predicted, found, f"{marker}-", **style)
            elif arm.candidates:
                rates = metrics.froc(arm.ranks == 1, probabilities[:, 1], arm.table["case"].nunique())
                axes.semilogx(metrics.FALSE_POSITIVES, rates, f"{marker}-", base=2, **style)
        axes.set(xlabel=x, ylabel=y, ylim=(-0.02, 1.02))
        if title != "FROC":
            axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
        metric = "CPM" if title == "FROC" else QUESTION
        shown = [row for row in rows if row["metric"] == metric and _key(row) in names]
        alt = ", ".join(f"{names[_key(row)]} with {metric} {row['value']:.3f}" for row in shown)
        pictures.append(picture(title, title, f"{title} of {alt}.", axes))
    return pictures
