"""Write the documentation's reference from the code: ``python .ci/make_reference.py``, which ``make docs`` runs.

The page of commands comes from their parsers, the JSON schema of a checkpoint's record from its dataclass.
"""

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
import typing
from importlib.metadata import distribution
from pathlib import Path
from types import NoneType, UnionType
from unittest.mock import patch

from nnunet_genesis.checkpoint.record import Record

DOCS = Path(__file__).parents[1] / "docs"
TYPES = {str: "string", int: "integer", float: "number", dict: "object", list: "array", NoneType: "null"}
HEAD = """# Commands

Written by `make docs` from the commands' own `--help`. Exit status, unless it says otherwise: 0 done, 1 an error with a
message, 2 wrong usage, 75 stopped by a signal: start it again with `--c`.

Tab completes options in bash and zsh: `pip install "nnunet-genesis[completion]"`, and for each command that you use a
line `eval "$(register-python-argcomplete nnUNetv2_genesis_prepare)"` in the shell's profile.
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


def schema() -> str:
    """Make the JSON schema of the ``genesis`` entry of a checkpoint."""
    kinds = typing.get_type_hints(Record)
    about = dict(
        re.findall(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", Record.__doc__ or "", re.DOTALL | re.MULTILINE)
    )
    properties = {
        name: _schema(kind) | {"description": " ".join(re.sub(r":\w+:|`", "", about[name]).split())}
        for name, kind in kinds.items()
    }
    needed = [field.name for field in dataclasses.fields(Record) if field.default is dataclasses.MISSING]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "genesis entry of a checkpoint"}
    content = {**head, "type": "object", "properties": properties, "required": ["schema_version", *needed]}
    return json.dumps(content, indent=1) + "\n"


def _schema(kind: typing.Any) -> dict[str, typing.Any]:
    if isinstance(kind, UnionType):
        return {"anyOf": [_schema(part) for part in typing.get_args(kind)]}
    found, parts = {"type": TYPES[typing.get_origin(kind) or kind]}, typing.get_args(kind)
    if not parts or parts[-1] is typing.Any:
        return found
    return found | {"items" if found["type"] == "array" else "additionalProperties": _schema(parts[-1])}


FILES = {DOCS / "commands.md": page, DOCS / "record.schema.json": schema}

if __name__ == "__main__":
    for file, make in FILES.items():
        file.write_text(make(), encoding="utf-8")
