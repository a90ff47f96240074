"""What a data set's results show, in one sentence."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from nnunet_genesis.comparison.figures import short
from nnunet_genesis.comparison.results import KEYS
from nnunet_genesis.comparison.statistics import CONVERGED, FEWEST_RUNS, LEVEL


def verdict(questions: pd.DataFrame, baseline: str) -> str:
    """Say which differences are shown, and the largest of them, or that none is.

    Args:
        questions: the rows of :func:`statistics.compare` that were to be tested, with ``baseline_rise``; what leads is
            where the baseline has converged.
        baseline: the trainer they are compared with.
    """
    if questions.empty:
        return f"Nothing is compared: there are no runs of {short(baseline)} and of another trainer on the same cases."
    led = questions.assign(converged=questions["baseline_rise"] < CONVERGED, size=questions["difference"].abs())
    led = led.sort_values(["converged", "size"], ascending=False, kind="stable")
    shown, tested = led[led["p_holm"] < 1 - LEVEL], int(led["p"].notna().sum())
    first = (led[led["p"].notna()] if tested else led).iloc[0]
    largest = f"the largest difference{' in converged runs' if first['converged'] else ''}: "
    if len(shown):
        words = f"{_difference(shown.iloc[0], baseline, questions)}; {_count(shown, tested)}"
    elif tested:
        words = f"No difference to {short(baseline)} is shown in {_number(tested, 'comparison')}; {largest}"
        words += _difference(first, baseline, questions)
    else:
        words = (
            f"Nothing is shown: no arm was trained {FEWEST_RUNS} times at a size, so that a method can't be told from "
            f"the chance of training; {largest}{_difference(first, baseline, questions)}"
        )
    untested = len(led) - tested if tested else 0
    return words + (f"; {_number(untested, 'further one')} had too few runs to be tested." if untested else ".")


def verdict_of_classification(rows: Sequence[dict[str, Any]]) -> str:
    """Say what the AUCs show; ``rows`` as the section's, with ``p_holm``."""
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


def _difference(row: pd.Series, baseline: str, several: pd.DataFrame) -> str:
    points, low, high = (100 * row[name] for name in ("difference", "difference_low", "difference_high"))
    known = pd.notna(row["baseline_rise"])
    state = f", {'where' if row['converged'] else 'before'} {short(baseline)} has converged" if known else ""
    where = f"{row['cases']} training cases{state}"
    if len(several.groupby(KEYS[:2])) > 1:
        where += f" and {row['plans']}, {row['configuration']}"
    covered = {"cases and training": "", "none": ", of one patient"}.get(
        row["difference_interval"], f", covering {row['difference_interval']}"
    )
    limits = f"{LEVEL:.0%} interval {low:+.1f} to {high:+.1f}" if pd.notna(low) else "no interval"
    is_ahead = "ahead of" if points >= 0 else "behind"
    return (
        f"{short(row['trainer'])} is {is_ahead} {short(baseline)} by {abs(points):.1f} points of Dice with {where} "
        f"({limits}{covered})"
    )


def _count(shown: pd.DataFrame, tested: int) -> str:
    ahead = int((shown["difference"] > 0).sum())
    return f"of {_number(tested, 'comparison')}, {ahead} show a gain, {len(shown) - ahead} a loss"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
