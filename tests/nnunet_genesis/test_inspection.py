"""nnUNetv2_genesis_inspect: what it says, as text and as JSON, and its exit status."""

import json
import sys
from pathlib import Path

import pytest
import torch

from nnunet_genesis import cli
from tests.nnunet_genesis.importers.foreign_files import random_state, v1_shapes
from tests.nnunet_genesis.networks import network, plans_of, record_of, save

ARGUMENTS = {
    "n_stages": 4,
    "features_per_stage": [2, 4, 8, 16],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 3],
    "n_conv_per_stage": [2] * 4,
    "n_conv_per_stage_decoder": [1] * 3,
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"affine": True},
    "dropout_op": None,
    "nonlin": "torch.nn.LeakyReLU",
}


@pytest.fixture(scope="module", autouse=True)
def planned(nnunet_folders: dict[str, Path]) -> None:
    """Data set 901 with a plain network of 4 stages, and with one of 6 (deepPlans)."""
    folder = nnunet_folders["nnUNet_preprocessed"] / "Dataset901_Test"
    folder.mkdir()
    description = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    for name, depth in (("nnUNetPlans", 4), ("deepPlans", 6)):
        plans = plans_of(network(4))
        arguments = ARGUMENTS | {"n_stages": depth}
        for key, value in ARGUMENTS.items():
            if isinstance(value, list):
                arguments[key] = (value + [value[-1]] * 2)[: len(value) + depth - 4]
        plans["configurations"]["3d_fullres"]["architecture"] = {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
        plans["configurations"]["2d"] = {**plans["configurations"]["3d_fullres"], "patch_size": [16, 16]}
        (folder / f"{name}.json").write_text(json.dumps(plans))


@pytest.fixture
def file(tmp_path) -> Path:
    described = {"data": {"channel_names": {"0": "MR"}, "dataset_name": "Dataset700_Scans"}, "licence": "CC-BY-4.0"}
    return save(network(4), tmp_path / "my weights.pth", citations=["A paper"], **described)


def inspect(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, and what was printed on stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_genesis_inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.inspect()
    printed = capsys.readouterr()
    error = stop.value.code if isinstance(stop.value.code, str) else printed.err
    return (1 if isinstance(stop.value.code, str) else int(stop.value.code or 0)), printed.out, error


def test_weights_alone(file, monkeypatch, capsys):
    status, text, _ = inspect(monkeypatch, capsys, file)
    assert status == 0
    for part in ("plain, 4 stages, features 2-4-8-16", "1 x 1 x 1 mm", "Dataset700_Scans", "CC-BY-4.0", "A paper"):
        assert part in text
    assert "encoder:" not in text


def test_a_data_set_that_fits(file, monkeypatch, capsys):
    status, text, _ = inspect(monkeypatch, capsys, file, "-d", "901")
    assert status == 0
    assert "encoder: 100.0% of the parameters, 32 of 32 tensors" in text
    assert f"export nnUNet_genesis_weights='{file}'\nnnUNetv2_train 901 3d_fullres 0 -tr nnUNetTrainerGenesis" in text


def test_the_decoders_trainer_is_named_where_there_is_a_decoder(file, monkeypatch, capsys):
    assert "nnUNetTrainerGenesisFull" in inspect(monkeypatch, capsys, file, "-d", "901")[1]
    content = torch.load(file, weights_only=True)
    content["network_weights"] = {n: v for n, v in content["network_weights"].items() if n.startswith("encoder.")}
    torch.save(content, file)
    status, text, _ = inspect(monkeypatch, capsys, file, "-d", "901")
    assert (status, "nnUNetTrainerGenesisFull" in text) == (0, False)


def test_of_a_repository_the_command_names_the_file(file, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a model"
    folder.mkdir()
    file.rename(folder / "checkpoint_final.pth")
    _, text, _ = inspect(monkeypatch, capsys, folder, "-d", "901")
    assert f"export nnUNet_genesis_weights='{folder}/checkpoint_final.pth'\n" in text


def test_a_data_set_that_the_trainer_would_refuse(file, monkeypatch, capsys):
    status, text, _ = inspect(monkeypatch, capsys, file, "-d", "Dataset901_Test", "-p", "deepPlans")
    assert status == 1
    assert "REFUSED" in text
    assert "nnUNetv2_train" not in text
    monkeypatch.setenv("nnUNet_genesis_min_coverage", "0.1")
    assert inspect(monkeypatch, capsys, file, "-d", "901", "-p", "deepPlans")[0] == 0


def test_json(file, monkeypatch, capsys):
    status, text, _ = inspect(monkeypatch, capsys, file, "-d", "901", "-p", "deepPlans", "--json")
    found = json.loads(text)
    assert status == 1
    assert found["weights"]["network"]["parameters"] == sum(value.numel() for value in network(4).parameters())
    assert found["weights"]["citations"] == ["A paper"]
    assert found["refused"].startswith(f"{file}: these weights cover")
    assert found["command"] is None
    assert {move["operation"] for move in found["transfer"]["moves"]} == {"copy", "skip"}


def test_a_released_file_is_described_and_the_import_named(tmp_path, monkeypatch, capsys):
    torch.save({"state_dict": random_state(v1_shapes())}, tmp_path / "v1.model")
    status, text, _ = inspect(monkeypatch, capsys, tmp_path / "v1.model")
    assert status == 0
    assert f"nnUNetv2_genesis_import {tmp_path / 'v1.model'} -o genesis.pth" in text
    assert "30.8 million parameters" in text
    assert "HU clipped to -1000 … 1000, mean -775.8, sd 251.9" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "999"], "Data set '999'"),
        (["-d", "901", "-p", "noPlans"], "noPlans.json: no such plans; found deepPlans, nnUNetPlans"),
        (["-d", "901", "-c", "3d_lowres"], "nnUNetPlans.json: no configuration '3d_lowres'; found 3d_fullres, 2d"),
        (["-d", "901", "-c", "2d"], "Configuration '2d' is 2D"),
    ],
)
def test_what_cannot_be_planned_for_is_named(file, monkeypatch, capsys, arguments, message):
    status, _, error = inspect(monkeypatch, capsys, file, *arguments)
    assert status == 1
    assert message in error


def test_a_damaged_record_is_named(tmp_path, monkeypatch, capsys):
    record = record_of(network(4)) | {"axis_order": "up"}
    path = save(network(4), tmp_path / "w.pth", **record)
    status, _, error = inspect(monkeypatch, capsys, path)
    assert status == 1
    assert f"{path}: its Genesis record is damaged or incomplete" in error
