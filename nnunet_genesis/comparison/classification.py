"""The classification part of a data set's report: one row an arm and metric, with intervals, and the curves."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_curve

from nnunet_genesis.classification import metrics
from nnunet_genesis.classification.labels import PREDICTIONS, SCORE
from nnunet_genesis.comparison.figures import Picture, look, panel, picture, plain, short
from nnunet_genesis.comparison.statistics import LEVEL, holm
from nnunet_genesis.errors import GenesisError

QUESTION = "AUC"  # the one metric that is tested
BASELINE = "nnUNetTrainerGenesisClassifierScratch"


@dataclasses.dataclass
class Arm:
    """A trainer's out-of-fold predictions: ``table`` has a row an item; the classes are in order."""

    trainer: str
    plans: str
    configuration: str
    table: pd.DataFrame

    def __post_init__(self) -> None:
        columns = [name for name in self.table.columns if name.startswith(SCORE)]
        self.classes = [name.removeprefix(SCORE) for name in columns]
        self.ranks, self.probabilities = self.table["rank"].to_numpy(int), self.table[columns].to_numpy(float)
        self.patients, cases = self.table["group"].to_numpy(str), self.table["case"].to_numpy(str)
        self.candidates = "x" in self.table and len(self.classes) == 2
        self.metrics = metrics.METRICS | ({"CPM": metrics.cpm_of(cases)} if self.candidates else {})


@dataclasses.dataclass
class Section:
    """What the page shows: ``rows`` by arm and metric, confusion matrices by arm, figures, remarks, one sentence."""

    rows: list[dict[str, Any]]
    confusions: list[tuple[str, list[str], list[list[int]]]]
    pictures: list[Picture]
    remarks: list[str]
    verdict: str


def find_arms(folder: Path) -> list[Arm]:
    """Find the arms of a data set's folder in nnUNet_results, without folds that validate training cases (``all``).

    Raises:
        GenesisError: a file of predictions isn't ours.
    """
    arms = []
    for model in sorted(folder.glob("*__*__*")):
        files = sorted(model.glob(f"fold_[0-9]*/validation/{PREDICTIONS}"))
        names = model.name.split("__")
        if not files or len(names) != 3:
            continue
        try:
            table = pd.concat([pd.read_csv(file, dtype={"case": str, "group": str, "label": str}) for file in files])
        except (ValueError, UnicodeDecodeError) as error:
            raise GenesisError(f"{model}: {PREDICTIONS} can't be read ({error}). Write it anew: --val.") from error
        missing = {"case", "group", "rank", "volume"} - set(table.columns)
        if missing or table.drop(columns="volume").isna().any(axis=None):
            raise GenesisError(f"{model}: the folds' {PREDICTIONS} differ or lack columns. Write them anew: --val.")
        arms.append(Arm(names[0], names[1], names[2], table))
    return arms


def section(folder: Path, baseline: str = BASELINE) -> Section | None:
    """Compare all arms; ``None`` where nothing was classified."""
    arms = sorted(find_arms(folder), key=lambda arm: (arm.plans, arm.configuration, arm.trainer != baseline))
    if not arms:
        return None
    remarks: list[str] = []
    rows = [row for arm in arms for row in _rows(arm, _baseline(arm, arms, baseline, remarks))]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    confusions = [
        (arm.trainer, arm.classes, confusion_matrix(arm.ranks, found, labels=range(len(arm.classes))).tolist())
        for arm, found in ((arm, arm.probabilities.argmax(1)) for arm in arms)
    ]
    return Section(rows, confusions, _pictures(arms), remarks, _verdict(rows))


def _baseline(arm: Arm, arms: list[Arm], name: str, remarks: list[str]) -> Arm | None:
    wanted = (name, arm.plans, arm.configuration)
    for other in arms:
        if (other.trainer, other.plans, other.configuration) == wanted and other is not arm:
            keys = [key for key in ("case", "x", "y", "z", "rank") if key in arm.table]
            if arm.table[keys].reset_index(drop=True).equals(other.table[keys].reset_index(drop=True)):
                return other
            remarks.append(f"{arm.trainer}: not tested against {name}, whose folds have other items.")
    return None


def _rows(arm: Arm, baseline: Arm | None) -> Iterator[dict[str, Any]]:
    ranks, probabilities, patients = arm.ranks, arm.probabilities, arm.patients
    ones = np.ones(len(ranks))
    common = {"trainer": arm.trainer, "plans": arm.plans, "configuration": arm.configuration, "n": len(ranks),
              "patients": len(set(patients))}  # fmt: skip
    nothing = dict.fromkeys(("low", "high", "difference", "difference_low", "difference_high", "p"), np.nan)
    for name, metric in arm.metrics.items():
        row = common | {"metric": name, "value": metric(ranks, probabilities, ones)} | nothing
        row["low"], row["high"] = metrics.interval(metric, ranks, probabilities, patients)
        if baseline:
            both, by = np.stack([probabilities, baseline.probabilities], 1), metrics.difference_of(metric)
            row["difference"] = by(ranks, both, ones)
            row["difference_low"], row["difference_high"] = metrics.interval(by, ranks, both, patients)
            if name == QUESTION:
                row["p"] = metrics.paired_p(metric, ranks, probabilities, baseline.probabilities, patients)[1]
        yield row
    if baseline is None and np.isfinite(arm.table["volume"]).all():
        value = metrics.volume_alone(ranks, arm.table["volume"].to_numpy(float), len(arm.classes))
        yield common | {"trainer": "volume alone", "metric": "AUC", "value": value} | nothing


def _verdict(rows: list[dict[str, Any]]) -> str:
    """Say what the AUCs show."""
    tested = sorted((row for row in rows if not pd.isna(row["p_holm"])), key=lambda row: row["p_holm"])
    if not tested:
        return "Nothing is compared: there are no two arms on the same items."
    first = tested[0]
    shown = "is shown to differ from scratch" if first["p_holm"] < 1 - LEVEL else "isn't shown to differ from scratch"
    return (
        f"{short(first['trainer'])} {shown}: its AUC is {first['value']:.3f}, {first['difference']:+.3f} against the "
        f"baseline ({LEVEL:.0%} interval {first['difference_low']:+.3f} to {first['difference_high']:+.3f} over the "
        "patients of these runs; another training may differ more)."
    )


def _pictures(arms: list[Arm]) -> list[Picture]:
    """Draw ROC, calibration and, of candidates, FROC; of several classes, one against the rest, all in one curve."""
    titles = {"ROC": ("false positives", "found"), "Calibration": ("predicted probability", "share that is so")}
    titles |= {"FROC": ("false positives a scan", "found")} if arms[0].candidates else {}
    order = list(dict.fromkeys(arm.trainer for arm in arms))
    pictures = []
    for title, (x, y) in titles.items():
        axes = panel()
        for arm in arms:
            colour, marker = look(order, arm.trainer)
            style: dict[str, Any] = {"color": colour, "label": plain(short(arm.trainer))}
            shown = range(len(arm.classes) == 2, len(arm.classes))
            truth = np.concatenate([arm.ranks == k for k in shown])
            scores = arm.probabilities[:, shown].T.ravel()
            if title == "ROC":
                axes.plot(*roc_curve(truth, scores)[:2], **style)
            elif title == "Calibration":
                found, predicted = calibration_curve(truth, scores, n_bins=10, strategy="quantile")
                axes.plot(predicted, found, f"{marker}-", **style)
            elif arm.candidates:
                rates = metrics.froc(arm.ranks == 1, arm.probabilities[:, 1], arm.table["case"].nunique())
                axes.semilogx(metrics.FALSE_POSITIVES, rates, f"{marker}-", base=2, **style)
        axes.set(xlabel=x, ylabel=y, ylim=(-0.02, 1.02))
        if title != "FROC":
            axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
        pictures.append(picture(title, title, f"{title} of each trainer; the table has its figures.", axes))
    return pictures
