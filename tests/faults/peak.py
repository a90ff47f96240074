"""How much memory a step took at its highest, from Linux' own record."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _highest() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


@contextmanager
def peak_growth() -> Iterator[list[float]]:
    """After the block, the list holds how far the process' resident memory rose in it, in MB."""
    growth: list[float] = []
    try:
        _CLEAR.write_text("5")  # resets the highest value to the present one
    except OSError:
        pytest.skip("the highest memory can only be measured on Linux")
    before = _highest()
    try:
        yield growth
    finally:
        growth.append((_highest() - before) / 1000)
