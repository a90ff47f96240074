"""``make gpu`` is ready: its parts run on a CPU, and what fails, hangs or isn't available is said."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks.gpu import __main__ as gpu
from tests.benchmarks.gpu import beside, busy, learning, numbers, part, steps, world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, nnunet_folders: dict[str, Path]) -> Path:
    """Work folder with both data sets, which nnU-Net's variables name."""
    folder = tmp_path_factory.mktemp("gpu")
    world.main(make_part(folder, "world"))
    for file in (folder / "nnUNet_preprocessed").iterdir():
        (nnunet_folders["nnUNet_preprocessed"] / file.name).symlink_to(file)
    return folder


def make_part(folder: Path, name: str) -> part.Part:
    return part.Part(name, torch.device("cpu"), True, folder, folder / "rows.jsonl", 60)


@pytest.mark.parametrize("module", [steps, numbers, beside, busy, learning])
def test_parts_report_rows(folder, module):
    name = module.__name__.rpartition(".")[2]
    module.main(make_part(folder, name))
    assert make_part(folder, name).rows(name)


def test_best_setting_is_the_fastest_row(folder):
    one = make_part(folder, "steps:best")
    for speed, number in ((1e6, "fp16"), (1e5, "fp32")):
        one.row("pretraining", network="3d_fullres", precision=number, **{"patches/s": speed})
    assert steps.best(one)["precision"] == "fp16"


def test_failures_and_hangs_are_reported_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "WAVES", ((("nccl", 60),), (("nothing-like-it", 60),), (("world", 0),)))
    options = argparse.Namespace(
        o=tmp_path, data=None, budget=120, device="cpu", tiny=True, parts=["nothing-like-it", "nccl"]
    )
    (tmp_path / "work").mkdir()
    assert gpu.run(options, tmp_path / "work") == 1
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert [one["status"] for one in content["parts"]] == ["not available", "FAILED", "OUT OF TIME"]
    assert "No module named" in content["parts"][1]["error"]
    assert "NCCL needs a GPU" in (tmp_path / "table.txt").read_text()
