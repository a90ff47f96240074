"""Wall times of small pieces of work, and which function took them."""

import contextlib
import cProfile
import os
import pstats
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any


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


def profiled(work: Callable[..., object], *args: Any) -> tuple[float, dict[str, float]]:
    """Seconds of one call, and cumulative seconds by the name of each function called in it."""
    profile, start = cProfile.Profile(), time.perf_counter()
    profile.runcall(work, *args)
    seconds, by_function = time.perf_counter() - start, dict[str, float]()
    for (_, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        by_function[name] = max(cumulative, by_function.get(name, 0))
    return seconds, by_function


def shares(seconds: float, by_function: dict[str, float], steps: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Seconds of each step, which consists of the functions named, and of what is left ("other")."""
    found = {step: sum(by_function.get(name, 0) for name in names) for step, names in steps.items()}
    return {**found, "other": seconds - sum(found.values())}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and reports off the tables."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
