"""Write commands.md from the commands' own parsers: ``python .ci/make_commands.py``, which ``make docs`` runs."""

import contextlib
import io
import os
import sys
from importlib.metadata import distribution
from pathlib import Path
from unittest.mock import patch

FILE = Path(__file__).parents[1] / "docs" / "commands.md"
HEAD = """# Commands

Written by `make docs` from the commands' own `--help`. Exit status, unless it says otherwise: 0 done, 1 an error with a
message, 2 wrong usage, 75 stopped by a signal: start it again with `--c`.
"""


def page() -> str:
    """Make the page: every command of the package with all of its options."""
    commands = {c.name: c for c in distribution("nnunet-genesis").entry_points if c.group == "console_scripts"}
    return HEAD + "".join(f"\n## {name}\n```text\n{_help(commands[name])}```\n" for name in sorted(commands))


def _help(command) -> str:  # type: ignore[no-untyped-def]
    output = io.StringIO()
    with (
        patch.object(sys, "argv", [command.name, "--help"]),
        patch.dict(os.environ, COLUMNS="100"),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        command.load()()
    return output.getvalue()


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
