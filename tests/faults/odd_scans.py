"""What a row of the table of odd scans is, and what is expected of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.healthy import Healthy

Make = Callable[[Path, Healthy], object]


def as_it_is(scan: Healthy) -> Healthy:
    """The clean copy is the healthy scan itself."""
    return scan


@dataclass(frozen=True)
class Odd:
    """One kind of input.

    Attributes:
        name: of the row, and of the folder that it is made in.
        make: makes it in its folder, from a healthy scan.
        reason: pattern of the reason why it is left out; empty: it is accepted, or ignored if ``clean`` is None.
        clean: the clean copy that its preprocessed data must equal (the correction, put as a volume).
        after: done to its folder after discovery, before reading.
        company: pattern of the reason of files beside the scan that are left out.
    """

    name: str
    make: Make
    reason: str = ""
    clean: Callable[[Healthy], Healthy] | None = None
    after: Callable[[Path], object] | None = None
    company: str = ""
