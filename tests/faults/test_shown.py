"""Text of a stranger's, shown: it steers no terminal, fakes no line, and is no markup in the report."""

import json
import sys
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from nnunet_genesis import checkpoint, cli
from nnunet_genesis.comparison.report import write_report
from nnunet_genesis.errors import GenesisError, printable
from nnunet_genesis.trainer import nnUNetTrainerGenesis
from tests.faults.small_world import DATASET, NAME, small_plans, write_small_world
from tests.nnunet_genesis.comparison.synthetic_results import GENESIS, SCRATCH, write_run
from tests.nnunet_genesis.networks import network, record_of, save

# A cleared screen, a window title, a link, a text turned round, a line of its own, carriage return, a bell, C1, markup.
HOSTILE = (
    "\x1b[2J\x1b]0;title\x07\x1b]8;;https://example.org\x1b\\ \u202egnp.exe\nSHA-256: 0000\r\x08\x9b31m"
    "<script>alert(1)</script><img src=x onerror=alert(1)> [click](javascript:alert(1)) {{7*7}} $\\frac$ %s {0}"
)


@pytest.fixture(scope="module", autouse=True)
def world(nnunet_folders: dict[str, Path]) -> None:
    write_small_world(nnunet_folders["nnUNet_preprocessed"])


def assert_harmless(text: str, fakes: str = "SHA-256: 0000") -> None:
    hidden = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") and c != "\n"]
    assert hidden == []
    assert fakes not in [line.strip() for line in text.splitlines()]


def hostile_record() -> dict:
    record = record_of(network(3))
    record["plans"] |= {"dataset_name": HOSTILE, "plans_name": HOSTILE}
    return record | {
        "method": HOSTILE,
        "licence": HOSTILE * 500,
        "citations": [HOSTILE, HOSTILE],
        "patch_size": HOSTILE,
        "data": {"channel_names": {"0": HOSTILE}, HOSTILE: HOSTILE},
        "training": {HOSTILE: HOSTILE},
        "options": HOSTILE,
        "imported": {"file": HOSTILE, "format": HOSTILE, "sha256": HOSTILE},
        "software": [HOSTILE],
    }


@pytest.fixture
def file(tmp_path) -> Path:
    return save(network(3), tmp_path / "w.pth", **hostile_record())


def run(command, monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        command()
    printed = capsys.readouterr()
    return printed.out + printed.err + (stop.value.code if isinstance(stop.value.code, str) else "")


def test_inspect(file, monkeypatch, capsys):
    text = run(cli.inspect, monkeypatch, capsys, str(file), "-d", NAME)
    assert r"\x1b[2J" in text
    assert len(text) < 20_000
    assert_harmless(text)
    as_json = run(cli.inspect, monkeypatch, capsys, str(file), "--json")
    assert_harmless(as_json)
    assert json.loads(as_json)["weights"]["method"] == HOSTILE
    print("survived: inspect of a record of control characters")


@pytest.mark.parametrize(
    "key", ["data", "training", "normalization", "citations", "patch_size", "spacing", "axis_order"]
)
@pytest.mark.parametrize("value", [HOSTILE, [HOSTILE], {"0": HOSTILE}, 7, None, [[[]]], {"a": {"b": {}}}])
def test_a_record_of_other_types(tmp_path, monkeypatch, capsys, key, value):
    file = save(network(3), tmp_path / "w.pth", **{key: value})
    assert_harmless(run(cli.inspect, monkeypatch, capsys, str(file), "-d", NAME))
    print(f"survived: a record whose {key} is {type(value).__name__}")


def test_import(file, tmp_path, monkeypatch, capsys):
    content = checkpoint.load(file)
    init_args = {
        "plans": small_plans() | {"image_reader_writer": HOSTILE},
        "configuration": "3d_fullres",
        "dataset_json": DATASET | {"licence": HOSTILE, "reference": HOSTILE, "channel_names": {"0": HOSTILE}},
    }
    weights = content["network_weights"] | {HOSTILE: torch.zeros(1)}
    torch.save({"network_weights": weights, "init_args": init_args, "trainer_name": HOSTILE}, tmp_path / "n.pth")
    text = run(cli.import_, monkeypatch, capsys, str(tmp_path / "n.pth"), "-o", str(tmp_path / "o.pth"))
    assert "placed:" in text
    assert_harmless(text)
    print("survived: import of a checkpoint of control characters")


@pytest.mark.parametrize("content", [{HOSTILE: 1}, {"network_weights": {HOSTILE: 1}, "genesis": record_of(network(3))}])
def test_error_messages(tmp_path, monkeypatch, capsys, content):
    torch.save(content, tmp_path / "w.pth")
    for command, arguments in ((cli.inspect, []), (cli.import_, ["-o", str(tmp_path / "o.pth")])):
        text = run(command, monkeypatch, capsys, str(tmp_path / "w.pth"), *arguments)
        assert text.startswith("ERROR: ")
        assert_harmless(text)
    print("survived: messages about keys of control characters")


def test_the_name_of_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "a\x1b[31m.pth").write_bytes(b"PK")
    assert_harmless(run(cli.inspect, monkeypatch, capsys, str(tmp_path / "a\x1b[31m.pth")))
    print("survived: a file's name with control characters")


def test_the_trainers_log(file, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_genesis_weights", str(file))
    monkeypatch.setenv("nnUNet_genesis_unit_variance", "0")  # it would need images
    plans = small_plans() | {"continue_training": False}
    trainer = nnUNetTrainerGenesis(plans, "3d_fullres", 0, dict(DATASET), torch.device("cpu"))
    monkeypatch.setattr(nnUNetTrainerGenesis.__mro__[1], "on_train_start", lambda self: None)
    capsys.readouterr()
    trainer.on_train_start()
    assert_harmless(capsys.readouterr().out)
    log = Path(trainer.log_file).read_text()
    assert "SHA-256" in log
    assert_harmless(log)
    report = json.loads((Path(trainer.output_folder) / "genesis_load_report.json").read_text())
    assert f"SHA-256: {report['sha256']}" in log
    print("survived: the log and the report of weights with control characters")


def test_the_page(tmp_path):
    for trainer in (SCRATCH, GENESIS):
        case = HOSTILE.replace("/", "").replace("\\", "")
        model = write_run(
            tmp_path / "results" / NAME, trainer, 0, {case: (0.5, 0.6), "b": (0.7, 0.8)}, (0.1, 0.2)
        ).parent
        labels = {"background": 0, HOSTILE: 1, "=1+1": 2}
        (model / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    hostile_folder = tmp_path / "results" / NAME / r"<b>T$\frac{$__<i>P__3d_fullres"
    (tmp_path / "results" / NAME / f"{GENESIS}__nnUNetPlans__3d_fullres").rename(hostile_folder)
    page = write_report([], tmp_path / "report", tmp_path / "results").read_text()
    assert page.count("<script") == 1  # the page's own
    for markup in ("<img src=x", "<b>", "<i>", "\x1b", "\u202e"):
        assert markup not in page
    assert "{{7*7}}" in page
    for figure in (tmp_path / "report").glob("*.svg"):
        ElementTree.parse(figure)
    assert_harmless("".join(line for line in page.splitlines() if "base64" not in line))
    print("survived: classes, cases and trainers of markup in report.html")


def test_printable_keeps_what_people_write():
    text = "Größe 64×64×32 – „µm“ 図像 \u00a0"
    assert printable(text) == text
    assert printable("a\nb") == r"a\nb"
    assert printable("abcdef", 4) == "abc…"
    assert str(GenesisError("a\nb\x1b")) == "a\nb\\x1b"
