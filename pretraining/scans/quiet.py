"""Keep the C++ libraries' warnings off the console: what matters in them we check ourselves and say in words."""

from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Switch ITK's global warning display off within the block, and back to what it was after it."""
    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)
