"""What a data set's results show, in one sentence."""

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
    shown, tested = led[led["p_holm"] < 1 - LEVEL], led[led["p"].notna()]
    first = (tested if len(tested) else led).iloc[0]
    largest = f"the largest difference{' in converged runs' if first['converged'] else ''}: "
    largest += _difference(first, baseline, questions)
    if len(shown):
        ahead = int((shown["difference"] > 0).sum())
        words = f"{_difference(shown.iloc[0], baseline, questions)}; of {_number(len(tested), 'comparison')}, {ahead} "
        words += f"show a gain, {len(shown) - ahead} a loss"
    elif len(tested):
        words = f"No difference to {short(baseline)} is shown in {_number(len(tested), 'comparison')}; {largest}"
    else:
        return (
            f"Nothing is shown: no arm was trained {FEWEST_RUNS} times at a size, so that a method can't be told from "
            f"the chance of training; {largest}."
        )
    untested = len(led) - len(tested)
    return words + (f"; {_number(untested, 'further one')} had too few runs to be tested." if untested else ".")


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


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
