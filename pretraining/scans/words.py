"""What files and errors are called in a manifest and on a terminal."""

import os
import re
from pathlib import Path

from pretraining.scans.scan import ScanError


def relative_name(path: Path, base: Path) -> str:
    """A path relative to its input root, posix, on one line and in UTF-8."""
    # A name whose bytes are no UTF-8 must not break the manifest.
    relative = path.relative_to(base)
    name = relative.as_posix() if relative.parts else base.name
    text = os.fsencode(name).decode("utf-8", "replace")
    # Nor must a line break, or a command to the terminal.
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)


def reason_of(error: Exception) -> str:
    """Why a file can't be used, from whatever was raised by looking at it."""
    if isinstance(error, ScanError):
        return str(error)
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, OSError):
        return f"can't be read: {error.strerror or type(error).__name__}"
    # The libraries raise nearly anything on damaged bytes; one file must not stop the search for the others.
    return f"its header can't be understood ({type(error).__name__})"
