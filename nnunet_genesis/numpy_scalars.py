"""The numpy scalars in nnU-Net's logs, read without numpy's own constructors: those allocate what they are told to."""

from typing import Any

import numpy as np


class FloatType:
    """Stands in for ``numpy.dtype`` while a checkpoint is read: half, single and double precision alone."""

    def __init__(self, kind: str, *_: Any) -> None:
        if kind not in ("f2", "f4", "f8"):
            raise ValueError(f"expected a float of numpy's, found the type {str(kind)[:20]!r}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


def scalar(kind: FloatType, data: bytes) -> np.generic:
    """Stands in for numpy's ``scalar``."""
    if not isinstance(kind, FloatType) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise ValueError("expected the bytes of one number")
    return np.frombuffer(data, kind.dtype)[0]


def numpy_scalars() -> list[Any]:
    """For ``torch.serialization.safe_globals``; numpy 1 and 2 keep ``scalar`` in different modules."""
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*scalars, (FloatType, "numpy.dtype"), FloatType]
