"""Training curves from nnU-Net's logs, and when one run reaches what another ended with."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nnunet_genesis.comparison.results import KEYS, Run
from nnunet_genesis.files import read_json

EPOCH = re.compile(r": Epoch (\d+)\s*$")
PSEUDO_DICE = re.compile(r": Pseudo dice \[(.*)\]")
NUMBER = re.compile(r"(?<![\w.])(?:nan|\d+\.?\d*(?:e[-+]?\d+)?)")  # not the 32 of np.float32(0.5)


def pseudo_dice(run: Run) -> list[float]:
    """Mean pseudo-Dice of every epoch, from all logs of a run; an epoch that was repeated counts as it was last."""
    found: dict[int, float] = {}
    for file in sorted(
        run.folder.glob("training_log_*.txt"), key=lambda f: [int(n) for n in re.findall(r"\d+", f.name)]
    ):
        epoch = 0
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if start := EPOCH.search(line):
                epoch = int(start[1])
            elif values := PSEUDO_DICE.search(line):
                numbers = np.array(NUMBER.findall(values[1]), float)
                found[epoch] = float(np.nanmean(numbers)) if np.isfinite(numbers).any() else float("nan")
    return [value for _, value in sorted(found.items())]


def iterations(run: Run) -> int | None:
    """Training iterations an epoch, as nnU-Net's ``debug.json`` records them; ``None`` without that file.

    Of our trainers ``iterations`` counts: the other entry is what a continued run had left of its first epoch.
    """
    file = run.folder / "debug.json"
    record = read_json(file) if file.exists() else None
    return int(record.get("iterations", record["num_iterations_per_epoch"])) if record else None


def smooth(values: Sequence[float]) -> list[float]:
    """Centred moving mean over a tenth of the run; an epoch without a value takes no part.

    Not nnU-Net's average, 0.9 of the last and 0.1 of the new: of 20 epochs, it lags behind by half.
    """
    window = 2 * (len(values) // 20) + 1
    return pd.Series(values, dtype=float).rolling(window, min_periods=1, center=True).mean().ffill().tolist()


def curves_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run and epoch: the columns of :meth:`Run.key`, iteration (at its end) and smoothed pseudo-Dice.

    Runs whose :func:`iterations` aren't known are left out.
    """
    rows = []
    for run in runs:
        step = iterations(run)
        if step is None:
            continue
        for epoch, value in enumerate(smooth(pseudo_dice(run)), start=1):
            rows.append(run.key() | {"iteration": epoch * step, "pseudo_dice": value})
    return pd.DataFrame(rows)


def reached(curves: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """At which iteration each trainer's curve first reaches the baseline's last value, fold by fold.

    The baseline's own curve is one of them: where it was there long before its end, others are no quicker for it.

    Returns:
        One row a plans, configuration, size and trainer: in how many of how many folds, the median iteration of
        those, and the baseline's length.
    """
    rows = []
    for key, part in curves.groupby([*KEYS, "fold", "seed"], sort=False) if len(curves) else ():
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
