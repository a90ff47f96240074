"""What a data set's results show, in one sentence."""

import pandas as pd

from nnunet_genesis.comparison.figures import short
from nnunet_genesis.comparison.results import KEYS
from nnunet_genesis.comparison.statistics import FEWEST_RUNS, LEVEL


def verdict(questions: pd.DataFrame, baseline: str, unit: str) -> str:
    """Say which differences are shown, and the largest of them, or that none is.

    Args:
        questions: the rows of :func:`statistics.compare` that were to be tested, with ``converged``; what leads is
            where the baseline has.
        baseline: the trainer they are compared with.
        unit: what sizes count, cases or patients.
    """
    if questions.empty:
        return f"Nothing is compared: there are no runs of {short(baseline)} and of another trainer on the same cases."
    led = questions.assign(first=questions["converged"] == "yes", size=questions["difference"].abs())
    led = led.sort_values(["first", "size"], ascending=False, kind="stable")
    shown, tested = led[led["p_holm"] < 1 - LEVEL], led[led["p"].notna()]
    first = (tested if len(tested) else led).iloc[0]
    largest = f"the largest difference{' in converged runs' if first['first'] else ''}: "
    largest += _difference(first, baseline, questions, unit)
    if len(shown):
        ahead = int((shown["difference"] > 0).sum())
        words = f"{_difference(shown.iloc[0], baseline, questions, unit)}; of {_number(len(tested), 'comparison')}, "
        words += f"shown as gains: {ahead}, as losses: {len(shown) - ahead}"
    elif len(tested):
        words = f"No difference to {short(baseline)} is shown in {_number(len(tested), 'comparison')}; {largest}"
    else:
        return (
            f"Nothing is shown: no arm has {FEWEST_RUNS} runs of a size to pair with {short(baseline)}'s on two {unit} "
            f"or more, so that a method can't be told from the chance of training; {largest}."
        )
    untested = len(led) - len(tested)
    return words + (f"; {_number(untested, 'further one')} had too few runs to be tested." if untested else ".")


def _difference(row: pd.Series, baseline: str, several: pd.DataFrame, unit: str) -> str:
    points, low, high = (100 * row[name] for name in ("difference", "difference_low", "difference_high"))
    state = {"yes": f", where {short(baseline)} has converged", "no": f", before {short(baseline)} has converged"}
    where = f"{row['cases']} training {unit}{state.get(row['converged'], '')}"
    if len(several.groupby(KEYS[:2])) > 1:
        where += f" and {row['plans']}, {row['configuration']}"
    covers = row["difference_interval"]
    covered = {"runs": "", "none": ", of one patient"}.get(covers, f", of {covers}")
    limits = f"{LEVEL:.0%} interval {low:+.1f} to {high:+.1f}" if pd.notna(low) else "no interval"
    size, arm, other = f"{abs(points):.1f}", short(row["trainer"]), short(baseline)
    how = f"is {'ahead of' if points > 0 else 'behind'} {other} by {size} points of Dice"
    return f"{arm} {how if float(size) else f'has the Dice of {other}'} with {where} ({limits}{covered})"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
