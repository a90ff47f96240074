"""The classification part of a data set's report: one row an arm, its figures with intervals, and the curves."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_curve

from nnunet_genesis.classification import metrics
from nnunet_genesis.errors import GenesisError

PREDICTIONS, SCORE = "classification.csv", "p:"  # of a fold's validation; columns of classes
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
    """What the page shows: ``rows`` by arm and metric, confusion matrices by arm, a figure, remarks."""

    rows: list[dict[str, Any]]
    confusions: list[tuple[str, list[str], list[list[int]]]]
    figure: bytes
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
    return Section(rows, confusions, _figure(arms), remarks)


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
               "high": high, "difference": np.nan, "p": np.nan}  # fmt: skip
        if baseline:
            row["difference"], row["p"] = metrics.paired_p(metric, ranks, probabilities, baseline.values[1], groups)
        yield row
    if baseline is None and np.isfinite(arm.table["volume"]).all():
        value = metrics.volume_alone(ranks, arm.table["volume"].to_numpy(float), len(arm.classes))
        yield row | {"trainer": "volume alone", "metric": "AUC", "value": value, "low": np.nan, "high": np.nan}


def _figure(arms: list[Arm]) -> bytes:
    """ROC, calibration and, of candidates, FROC; of several classes, one against the rest and the mean of them."""
    candidates = "CPM" in arms[0].metrics()
    figure, axes = plt.subplots(1, 2 + candidates, figsize=(5 * (2 + candidates), 4.5), squeeze=False)
    for arm in arms:
        ranks, probabilities, _ = arm.values
        shown = [k for k in range(len(arm.classes)) if len(arm.classes) > 2 or k == 1]
        truth = np.concatenate([ranks == k for k in shown])
        scores = np.concatenate([probabilities[:, k] for k in shown])
        axes[0, 0].plot(*roc_curve(truth, scores)[:2], label=arm.trainer)
        axes[0, 1].plot(*calibration_curve(truth, scores, n_bins=10, strategy="quantile")[::-1], "o-")
        if candidates:
            found = metrics.froc(ranks == 1, probabilities[:, 1], arm.table["case"].nunique())
            axes[0, 2].semilogx(metrics.FALSE_POSITIVES, found, "o-", base=2)
    titles = [("ROC", "false positives", "found"), ("calibration", "predicted probability", "share that is so"),
              ("FROC", "false positives a scan", "found")]  # fmt: skip
    for axis, (title, x, y) in zip(axes[0], titles, strict=False):
        axis.set(title=title, xlabel=x, ylabel=y, ylim=(-0.02, 1.02))
        if title != "FROC":
            axis.plot([0, 1], [0, 1], color="grey", lw=0.5)
    figure.legend(loc="lower center", ncols=2, fontsize="small")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    stream = io.BytesIO()
    figure.savefig(stream, dpi=100)
    plt.close(figure)
    return stream.getvalue()
