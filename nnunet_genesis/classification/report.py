"""The classification part of a data set's report: one row an arm, its figures with intervals, and the curves."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_curve

from nnunet_genesis.classification import metrics
from nnunet_genesis.errors import GenesisError

PREDICTIONS, SCORE = "classification.csv", "p:"  # of a fold's validation; columns of classes
QUESTION = "AUC"  # the one metric that is tested
BASELINE = "nnUNetTrainerGenesisClassifierScratch"


@dataclasses.dataclass
class Arm:
    """A trainer's out-of-fold predictions: ``table``, a row an item; ``classes`` in order."""

    trainer: str
    plans: str
    configuration: str
    table: pd.DataFrame

    @property
    def classes(self) -> list[str]:
        """Names in order."""
        return [name.removeprefix(SCORE) for name in self.table.columns if name.startswith(SCORE)]

    @property
    def values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ranks (n,), probabilities (n, classes), patients (n,)."""
        probabilities = self.table[[SCORE + name for name in self.classes]].to_numpy(float)
        return self.table["rank"].to_numpy(int), probabilities, self.table["group"].to_numpy(str)

    def metrics(self) -> dict[str, metrics.Metric]:
        """Those of all arms and, for binary candidates, the CPM."""
        candidates = "x" in self.table and len(self.classes) == 2
        return metrics.METRICS | ({"CPM": metrics.cpm_of(self.table["case"].to_numpy(str))} if candidates else {})


@dataclasses.dataclass
class Section:
    """What the page shows: ``rows`` by arm and metric, confusion matrices by arm, figures by title, remarks."""

    rows: list[dict[str, Any]]
    confusions: list[tuple[str, list[str], list[list[int]]]]
    figures: dict[str, Figure]
    remarks: list[str]


def find_arms(folder: Path) -> list[Arm]:
    """The arms of a data set's folder in nnUNet_results; folds that validate training cases (``all``) are left out.

    Raises:
        GenesisError: a file of predictions isn't ours.
    """
    arms = []
    for model in sorted(folder.glob("*__*__*")):
        files = sorted(model.glob(f"fold_[0-9]*/validation/{PREDICTIONS}"))
        trainer, plans, *configuration = model.name.split("__")
        if not files or len(configuration) != 1:
            continue
        try:
            table = pd.concat([pd.read_csv(file, dtype={"case": str, "group": str, "label": str}) for file in files])
            missing = {"case", "group", "rank", "volume"} - set(table.columns)
        except (ValueError, UnicodeDecodeError) as error:
            raise GenesisError(f"{model}: {PREDICTIONS} can't be read ({error}). Write it anew: --val.") from error
        if missing or table.isna().drop(columns=["volume"], errors="ignore").any(axis=None):
            raise GenesisError(f"{model}: the folds' {PREDICTIONS} differ or lack columns. Write them anew: --val.")
        arms.append(Arm(trainer, plans, configuration[0], table))
    return arms


def section(folder: Path, baseline: str = BASELINE) -> Section | None:
    """Compare all arms; ``None`` where nothing was classified."""
    arms = sorted(find_arms(folder), key=lambda arm: (arm.plans, arm.configuration, arm.trainer != baseline))
    if not arms:
        return None
    remarks: list[str] = []
    rows = [row for arm in arms for row in _rows(arm, _baseline(arm, arms, baseline, remarks))]
    confusions = []
    for arm in arms:
        ranks, probabilities, _ = arm.values
        confusions.append((arm.trainer, arm.classes, confusion_matrix(ranks, probabilities.argmax(1)).tolist()))
    return Section(rows, confusions, _figures(arms), remarks)


def _baseline(arm: Arm, arms: list[Arm], name: str, remarks: list[str]) -> Arm | None:
    for other in arms:
        if (other.trainer, other.plans, other.configuration) == (
            name,
            arm.plans,
            arm.configuration,
        ) and other is not arm:
            keys = [key for key in ("case", "x", "y", "z", "rank") if key in arm.table]
            if arm.table[keys].reset_index(drop=True).equals(other.table[keys].reset_index(drop=True)):
                return other
            remarks.append(f"{arm.trainer}: not tested against {name}, whose folds have other items.")
    return None


def _rows(arm: Arm, baseline: Arm | None) -> Iterator[dict[str, Any]]:
    ranks, probabilities, groups = arm.values
    ones = np.ones(len(ranks))
    for name, metric in arm.metrics().items():
        low, high = metrics.interval(metric, ranks, probabilities, groups)
        row = {"trainer": arm.trainer, "plans": arm.plans, "configuration": arm.configuration, "metric": name,
               "n": len(ranks), "patients": len(set(groups)), "value": metric(ranks, probabilities, ones), "low": low,
               "high": high, "difference": np.nan, "difference_low": np.nan, "difference_high": np.nan,
               "p": np.nan}  # fmt: skip
        if baseline:
            both = np.stack([probabilities, baseline.values[1]], 1)
            by = metrics.difference_of(metric)
            row["difference"] = by(ranks, both, ones)
            row["difference_low"], row["difference_high"] = metrics.interval(by, ranks, both, groups)
            if name == QUESTION:
                row["p"] = metrics.paired_p(metric, ranks, probabilities, baseline.values[1], groups)[1]
        yield row
    if baseline is None and np.isfinite(arm.table["volume"]).all():
        value = metrics.volume_alone(ranks, arm.table["volume"].to_numpy(float), len(arm.classes))
        yield row | {"trainer": "volume alone", "metric": "AUC", "value": value, "low": np.nan, "high": np.nan}


def _figures(arms: list[Arm]) -> dict[str, Figure]:
    """ROC, calibration and, of candidates, FROC; of several classes, one against the rest and the mean of them."""
    titles = {"ROC": ("false positives", "found"), "Calibration": ("predicted probability", "share that is so")}
    titles |= {"FROC": ("false positives a scan", "found")} if "CPM" in arms[0].metrics() else {}
    found = {title: Figure(figsize=(4.8, 4), layout="constrained") for title in titles}
    axes = {title: figure.subplots() for title, figure in found.items()}
    for arm in arms:
        ranks, probabilities, _ = arm.values
        shown = [k for k in range(len(arm.classes)) if len(arm.classes) > 2 or k == 1]
        truth = np.concatenate([ranks == k for k in shown])
        scores = np.concatenate([probabilities[:, k] for k in shown])
        axes["ROC"].plot(*roc_curve(truth, scores)[:2], label=arm.trainer)
        curve = calibration_curve(truth, scores, n_bins=10, strategy="quantile")[::-1]
        axes["Calibration"].plot(*curve, "o-", label=arm.trainer)
        if "FROC" in axes:
            rates = metrics.froc(ranks == 1, probabilities[:, 1], arm.table["case"].nunique())
            axes["FROC"].semilogx(metrics.FALSE_POSITIVES, rates, "o-", base=2, label=arm.trainer)
    for title, (x, y) in titles.items():
        axes[title].set(xlabel=x, ylabel=y, ylim=(-0.02, 1.02))
        axes[title].legend(frameon=False, fontsize="x-small", loc="lower right")
        if title != "FROC":
            axes[title].plot([0, 1], [0, 1], color="grey", lw=0.5)
    return found
