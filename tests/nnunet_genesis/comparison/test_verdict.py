"""The sentence on top of a report: true, and a sentence, whatever the rows."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from nnunet_genesis.comparison.verdict import verdict
from tests.nnunet_genesis.comparison.synthetic_results import GENESIS, SCRATCH

AHEAD = "Genesis is ahead of Scratch by 3.0 points of Dice with 5 training patients"
LIMITS = "95% interval +1.0 to +5.0"


def row(**changes: Any) -> dict[str, Any]:
    """Three runs, shown and converged, but for the changes."""
    row = {"plans": "P", "configuration": "3d", "cases": "5", "trainer": GENESIS, "p": 0.01, "p_holm": 0.01}
    row |= {"difference": 0.03, "difference_low": 0.01, "difference_high": 0.05, "difference_interval": "runs"}
    return row | {"converged": "yes"} | changes


def one_run(**changes: Any) -> dict[str, Any]:
    return row(p=np.nan, p_holm=np.nan, difference_interval="one run", **changes)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [row()],
            f"{AHEAD}, where Scratch has converged ({LIMITS}); of 1 comparison, shown as gains: 1, as losses: 0.",
        ),
        (
            [row(), row(difference=-0.2, converged="no")],
            f"{AHEAD}, where Scratch has converged ({LIMITS}); of 2 comparisons, shown as gains: 1, as losses: 1.",
        ),
        (
            [row(p_holm=0.3, converged="can't be told"), one_run()],
            f"No difference to Scratch is shown in 1 comparison; the largest difference: {AHEAD} ({LIMITS}); 1 further "
            "one had too few runs to be tested.",
        ),
        (
            [one_run(converged="no")],
            "Nothing is shown: no arm has 3 runs of a size to pair with Scratch's on two patients or more, so that a "
            f"method can't be told from the chance of training; the largest difference: {AHEAD}, before Scratch has "
            f"converged ({LIMITS}, of one run).",
        ),
        (
            [row(difference=-0.0004, p_holm=0.9, converged="not known")],
            "No difference to Scratch is shown in 1 comparison; the largest difference: Genesis has the Dice of "
            f"Scratch with 5 training patients ({LIMITS}).",
        ),
    ],
)
def test_sentences(rows, expected):
    assert verdict(pd.DataFrame(rows), SCRATCH, "patients") == expected


def test_nothing_to_compare():
    assert verdict(pd.DataFrame(), SCRATCH, "cases").startswith("Nothing is compared: there are no runs of Scratch")
