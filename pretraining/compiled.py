"""numba, with its cache where there is a place for one."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """``function`` compiled at its first call; kept on disk where there is a writable place for it."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba finds no such place
        return njit(nogil=True)(function)
