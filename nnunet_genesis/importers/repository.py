"""A folder of weights as model hubs have them: checkpoint, adaptation plan, and a README that says whose it is."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from nnunet_genesis.checkpoint.untrusted import plain, some_keys
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file

CHECKPOINT, PLAN, CONFIG, README = "checkpoint_final.pth", "adaptation_plan.json", "config.json", "README.md"
FILES = (CHECKPOINT, PLAN, CONFIG, README)
LARGEST = 1 << 20  # bytes of any of them but the checkpoint; the published ones have 70 to 6,200
_TEXT = 2000  # characters of a licence or a citation
_MOST = 20  # citations

_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_BIBTEX = re.compile(r"^[ \t]*(?=@\w+[ \t]*\{)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Card:
    """What a repository says of its weights beside the checkpoint; nothing in it is trusted.

    Attributes:
        plan: content of ``adaptation_plan.json``, or None.
        licence: by the README's YAML, or None.
        citations: BibTeX entries of the README and what its YAML names.
        notes: what the user should know.
    """

    plan: Any = None
    licence: str | None = None
    citations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find(path: Path) -> tuple[Path, Card]:
    """Find the checkpoint that a path means, and what is said beside it.

    Args:
        path: a repository's folder, or a file; a file is a repository's where ``adaptation_plan.json`` is beside it.

    Raises:
        GenesisError: there is no checkpoint in the folder, or ``adaptation_plan.json`` isn't JSON.
    """
    if not os.path.isdir(path):  # pathlib raises for a name of 5,000 letters
        return path, _card(path.parent) if os.path.isfile(path.parent / PLAN) else Card()
    file = path / CHECKPOINT
    if not file.is_file():
        found = some_keys(sorted(entry.name for entry in path.iterdir())) or "nothing"
        raise GenesisError(
            f"{path}: expected a folder with {CHECKPOINT}, as model hubs have it, found {found}. Give the file of "
            "weights, or download the whole repository."
        )
    return file, _card(path)


def _card(folder: Path) -> Card:
    plan = _json(folder / PLAN) if (folder / PLAN).is_file() else None
    return Card(plan, *_readme(folder / README))


def _json(file: Path) -> dict[str, Any]:
    """Read a JSON object of moderate size.

    Raises:
        GenesisError: it is something else.
    """
    try:
        content = json.loads(_text(file))
        found = f"a {type(content).__name__}"
    except (ValueError, RecursionError) as error:
        content, found = None, f"something else ({error})"
    if not isinstance(content, dict):
        raise GenesisError(f"{file}: expected a JSON object, found {found[:200]}. Get the file again, or remove it.")
    return dict(plain(content, file))


def _text(file: Path) -> str:
    """Read a text file.

    Raises:
        ValueError: it is larger than :data:`LARGEST`, or it can't be read.
    """
    if (size := regular_file(file, "a text file").stat().st_size) > LARGEST:
        raise ValueError(f"{size} bytes, expected at most {LARGEST}")
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"it can't be read: {error.strerror}") from error


def _readme(file: Path) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """Take licence and citations from a README, with notes on what couldn't be read."""
    if not file.is_file():
        return None, (), (f"There is no {README} beside the checkpoint: no licence, no citations.",)
    try:
        text = _text(file)
        front = _FRONT_MATTER.match(text)
        # BaseLoader builds text, lists and dicts, and nothing else: no tags, numbers, dates or merged keys.
        data = yaml.load(front[1], Loader=yaml.BaseLoader) if front else None
    except (GenesisError, ValueError, yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        return None, (), (f"{README}: its YAML can't be read ({why}): no licence is taken from it.",)
    if not isinstance(data, dict):
        return None, _citations(text, {}), (f"{README} doesn't begin with YAML between two lines of ---: no licence.",)
    licence = _licence(data)
    return licence, _citations(text, data), () if licence else (f"{README}: its YAML names no license.",)


def _licence(data: dict[str, Any]) -> str | None:
    """Read ``license``; ``other`` is what ``license_name`` and ``license_link`` say."""
    named = data.get("license")
    names = [value for value in (named if isinstance(named, list) else [named]) if isinstance(value, str) and value]
    if names == ["other"]:
        names = [value for key in ("license_name", "license_link") if isinstance(value := data.get(key), str) and value]
        return " ".join(names)[:_TEXT] or "other"
    return ", ".join(names)[:_TEXT] or None


def _citations(text: str, data: dict[str, Any]) -> tuple[str, ...]:
    """Collect BibTeX entries of fenced blocks, ``citation`` of the YAML and the papers among its tags."""
    entries = [entry for block in _FENCED.findall(text) for entry in _BIBTEX.split(block) if entry.startswith("@")]
    named, tags = data.get("citation", []), data.get("tags", [])
    entries += [value for value in (named if isinstance(named, list) else [named]) if isinstance(value, str)]
    entries += [tag for tag in tags if isinstance(tag, str) and tag.startswith(("arxiv:", "doi:"))]
    found = [" ".join(entry.split())[:_TEXT] for entry in entries]
    return tuple(dict.fromkeys(filter(None, found)))[:_MOST]
