"""The documentation is true: commands parse, trainers exist, links lead somewhere, the reference is the parsers'."""

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = re.compile(r"(nnUNetv2_genesis_\w+|-m pretraining)\b")


class _Parsed(Exception):  # noqa: N818 - not an error
    pass


def shell_blocks(page: Path) -> list[str]:
    """Content of the page's shell blocks."""
    return re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Commands of ours in the pages' shell blocks, as words."""
    for page in PAGES:
        for block in shell_blocks(page):
            for line in block.replace("\\\n", " ").splitlines():
                found = OURS.search(line.partition("#")[0])
                if found and "$(" not in line:
                    words = shlex.split(line[found.start() :], comments=True)
                    yield page.name, words if words[0] != "-m" else ["nnUNetv2_genesis_pretrain", *words[2:]]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_commands_of_the_pages_parse(monkeypatch):
    scripts = {c.name: c for c in distribution("nnunet-genesis").entry_points if c.group == "console_scripts"}
    parse = argparse.ArgumentParser.parse_args

    def stop(*args: object, **kwargs: object) -> None:
        parse(*args, **kwargs)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    lines = list(command_lines())
    assert len(lines) > 20
    for page, words in lines:
        monkeypatch.setattr(sys, "argv", words)
        try:
            scripts[words[0]].load()()
        except _Parsed:
            continue
        except SystemExit:
            pytest.fail(f"{page}: {shlex.join(words)}")


def test_trainers_of_the_pages_exist():
    from nnunet_genesis.trainers import nnunet_genesis_trainers
    from pretraining import run

    known = {*vars(nnunet_genesis_trainers), *vars(run), "nnUNetTrainer"}
    for page in PAGES:
        named = re.findall(r"-tr (nnUNetTrainer\w+)", page.read_text(encoding="utf-8"))
        own = re.findall(r"class (nnUNetTrainer\w+)", page.read_text(encoding="utf-8"))
        assert {*named} - {*own} <= known, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_reference_is_of_the_code(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / ".ci")
    import make_reference

    for file, make in make_reference.FILES.items():
        assert file.read_text(encoding="utf-8") == make(), "Run make docs"
