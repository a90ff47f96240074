"""What files are called in a manifest and on a terminal."""

import os
import re
from pathlib import Path


def relative_name(path: Path, base: Path) -> str:
    """A path relative to its input root, posix, on one line and in UTF-8."""
    # A name whose bytes are no UTF-8 must not break the manifest.
    relative = path.relative_to(base)
    name = relative.as_posix() if relative.parts else base.name
    text = os.fsencode(name).decode("utf-8", "replace")
    # Nor must a line break, or a command to the terminal.
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)
