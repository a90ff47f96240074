"""Wall times of small pieces of work."""

import statistics
import time
from collections.abc import Callable


def milliseconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Wall time of each of ``repeats`` calls, after one that doesn't count (tables, compilation)."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def median(work: Callable[[], object], repeats: int) -> float:
    """Median of :func:`milliseconds`."""
    return statistics.median(milliseconds(work, repeats))


def mean(work: Callable[[], object], repeats: int) -> float:
    """Mean of :func:`milliseconds`: for work that differs from call to call."""
    return statistics.fmean(milliseconds(work, repeats))
