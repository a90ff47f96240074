"""A repository's folder: whose the weights are is read from its README, and nothing in it is trusted."""

import json
import sys
from pathlib import Path

import pytest
import torch

from nnunet_genesis import cli, importers
from nnunet_genesis.checkpoint.lineage import Origin
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers import repository
from tests.nnunet_genesis.importers.test_planned_files import nnssl_content, of_plain_types

README = """---
license: cc-by-sa-4.0
library_name: nnunetv2
tags:
- radiology
- arxiv:2609.26924
---
# A model

```bibtex
@article{a2026,
  title={One},
  year={2026}
}
@inproceedings{b, title={Two}}
```
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The four files, in a folder with a space in its name."""
    path = tmp_path / "a model"
    path.mkdir()
    content = nnssl_content()
    (path / repository.PLAN).write_text(json.dumps(content["nnssl_adaptation_plan"]))
    (path / repository.CONFIG).write_text('{"model_type": "x"}')
    (path / repository.README).write_text(README)
    torch.save(content, path / repository.CHECKPOINT)
    return path


def notes(folder: Path) -> str:
    return " ".join(importers.convert(folder).notes)


@pytest.mark.parametrize("inside", ["", repository.CHECKPOINT])
def test_licence_and_citations_come_from_the_readme(folder, inside):
    imported = importers.convert(folder / inside)
    record = imported.record
    assert record["licence"] == "cc-by-sa-4.0"
    assert record["citations"] == [
        "A. (2024)",
        "B. (2025)",
        "C.",
        "@article{a2026, title={One}, year={2026} }",
        "@inproceedings{b, title={Two}}",
        "arxiv:2609.26924",
    ]
    (entry,) = imported.checkpoint["citations"]
    assert entry.keys() == {"type", "name", "apa_citations"}
    assert entry["apa_citations"] == record["citations"]
    assert not imported.notes
    assert of_plain_types(record)


def test_what_the_user_says_comes_first(folder):
    record = importers.convert(folder, licence="mine", origin="doi:10.1/2").record
    assert record["licence"] == "mine"
    assert record["imported"]["source"] == "doi:10.1/2"
    assert len(record["imported"]["sha256"]) == 64


def test_the_plan_beside_serves_where_the_checkpoint_has_none(folder):
    content = nnssl_content()
    del content["nnssl_adaptation_plan"]
    torch.save(content, folder / repository.CHECKPOINT)
    assert importers.convert(folder).record["imported"]["format"] == "nnssl"
    (folder / repository.PLAN).write_text("[" * 100_000)
    with pytest.raises(GenesisError, match=r"adaptation_plan\.json: expected a JSON object, found something else"):
        importers.convert(folder)


def bomb(levels: int = 9) -> str:
    lists = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, levels))
    merges = "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, levels))
    return f"---\na0: &a0 x\nm0: &m0 {{k: v}}\n{lists}{merges}license: mit\n---\n"


@pytest.mark.parametrize(
    ("text", "licence", "noted"),
    [
        (None, None, "no README.md beside"),
        ("", None, "doesn't begin with YAML"),
        ("# A title\nlicense: mit\n", None, "doesn't begin with YAML"),
        ("---\nlicense: [unclosed\n---\n", None, "its YAML can't be read"),
        ("---\nlicense: !!python/object/apply:os.system ['true']\n---\n", "true", ""),
        ("---\n" + "[" * 100_000 + "\n---\n", None, "its YAML can't be read"),
        ("---\nx: " + "y" * 2_000_000 + "\n---\n", None, "expected at most"),
        ("---\nlicense: {a: b}\n---\n", None, "names no license"),
        ("---\n- a\n- b\n---\n", None, "doesn't begin with YAML"),
        ("---\nlicense: other\nlicense_name: our-own\nlicense_link: LICENSE\n---\n", "our-own LICENSE", ""),
        ("\ufeff---\r\nlicense: no\r\ntags: 7\r\ncitation: {a: b}\r\n---", "no", ""),
        ("---\nlicense: " + "z" * 5000 + "\n---\n", "z" * 2000, ""),
        (bomb(), "mit", ""),
        ("---\nlicense: mit\ntags: &t [*t]\n---\n", None, "its YAML can't be read"),
    ],
)
def test_nasty_readmes(folder, text, licence, noted):
    file = folder / repository.README
    file.unlink() if text is None else file.write_text(text)
    imported = importers.convert(folder)
    assert imported.record["licence"] == (licence or "not stated in the file")
    assert noted in " ".join(imported.notes)


def test_folders_and_files_that_are_no_repository(folder, tmp_path):
    (folder / repository.CHECKPOINT).rename(folder / "other.pth")
    with pytest.raises(GenesisError, match=r"expected a folder with checkpoint_final.pth, .*found README.md, adapt"):
        importers.convert(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenesisError, match="found nothing"):
        importers.convert(tmp_path / "empty")
    (folder / repository.CHECKPOINT).write_bytes((folder / "other.pth").read_bytes()[:5000])
    with pytest.raises(GenesisError, match="damaged, truncated"):
        importers.convert(folder)
    (folder / repository.CHECKPOINT).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(GenesisError, match="git lfs pull"):
        importers.convert(folder)


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "genesis 1.safetensors"
    command = ["nnUNetv2_genesis_import", str(folder), "-o", str(output), "--source", "a stick"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        cli.import_()
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    for text in ("licence:     cc-by-sa-4.0", "source a stick", "@inproceedings{b, title={Two}}"):
        assert text in printed
    again = importers.convert(output).record
    assert (again["licence"], again["imported"]["source"]) == ("cc-by-sa-4.0", "a stick")


@pytest.mark.parametrize(
    ("licences", "found"),
    [
        ([], "not stated"),
        (["Apache-2.0", "cc-by-sa-4.0", "mit"], "cc-by-sa-4.0"),
        (["cc-by-sa-4.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["cc-by-nc-4.0", "cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0"),
        (["cc-by-nc-sa-4.0", "cc-by-nd-4.0"], "cc-by-nd-4.0"),
        (["non-commercial, as given by the authors", "CC BY 4.0"], "non-commercial, as given by the authors"),
        (["cc-by-nc-nd-4.0", "not stated in the file"], "not stated in the file"),
        (["mit", "our own words"], "our own words"),
    ],
)
def test_the_strictest_licence(licences, found):
    for order in (licences, licences[::-1]):
        assert Origin([{"licence": text} for text in order]).licence == found
