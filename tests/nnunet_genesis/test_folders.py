"""A planned data set, or a sentence that says what there is instead."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from nnunet_genesis import cli
from nnunet_genesis.architectures.planning import plan_network
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import channel_names, planned_dataset
from nnunet_genesis.inspection import planned_network
from nnunet_genesis.trainer import nnUNetTrainerGenesisScratch
from pretraining.run import pretrain
from tests.nnunet_genesis.networks import network, plans_of

NAME, CPU = "Dataset905_Planned", torch.device("cpu")
LABELLED = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "a": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
GOOD = json.loads(json.dumps(plans_of(network(4))))
FULL = GOOD["configurations"]["3d_fullres"]

DAMAGED_PLANS = {
    "cut": (json.dumps(GOOD)[:-30], "expected JSON"),
    "empty": ("", "expected JSON"),
    "list": ("[]", "expected nnU-Net's plans, found a list"),
    "text": ('"configurations"', "expected nnU-Net's plans, found a str"),
    "no configurations": ("{}", "expected nnU-Net's plans, found a dict"),
    "configurations as a list": (json.dumps(GOOD | {"configurations": ["3d_fullres"]}), "expected nnU-Net's plans"),
    "configuration as text": (json.dumps(GOOD | {"configurations": {"3d_fullres": "x"}}), "can't be read"),
    "no patch size": (
        json.dumps(GOOD | {"configurations": {"3d_fullres": {k: FULL[k] for k in FULL if k != "patch_size"}}}),
        "can't be read",
    ),
    "patch size in words": (
        json.dumps(GOOD | {"configurations": {"3d_fullres": FULL | {"patch_size": ["a", "b", "c"]}}}),
        "can't be read",
    ),
    "a circle": (
        json.dumps(GOOD | {"configurations": {"3d_fullres": {"inherits_from": "3d_fullres"}}}),
        "can't be read",
    ),
}
DAMAGED_DATASETS = {
    "cut": ('{"labels": ', "expected JSON"),
    "list": ("[]", "expected nnU-Net's dataset.json"),
    "no labels": ('{"channel_names": {"0": "CT"}}', "expected nnU-Net's dataset.json"),
    "no channels": ('{"labels": {"background": 0}}', "expected nnU-Net's dataset.json"),
    "channels in a list": ('{"channel_names": ["CT"], "labels": {"background": 0}}', "expected nnU-Net's dataset.json"),
}


@pytest.fixture
def folder(nnunet_folders: dict[str, Path]):
    folder = nnunet_folders["nnUNet_preprocessed"] / NAME
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(GOOD))
    (folder / "dataset.json").write_text(json.dumps(LABELLED))
    yield folder
    shutil.rmtree(folder)


def test_a_planned_data_set_is_found_by_name_and_id(folder):
    for dataset in ("905", NAME):
        found = planned_dataset(dataset, "nnUNetPlans", "3d_fullres")
        assert (found.folder, found.plans, found.dataset_json) == (folder, GOOD, LABELLED)


READERS = {
    "folders": lambda: planned_dataset("905", "nnUNetPlans", "3d_fullres"),
    "inspect": lambda: planned_network("905", "3d_fullres", "nnUNetPlans"),
    "pretrain": lambda: pretrain("905", "3d_fullres", device=CPU),
}


@pytest.mark.parametrize("damage", DAMAGED_PLANS)
def test_damaged_plans_are_a_sentence_for_every_reader(folder, damage):
    content, message = DAMAGED_PLANS[damage]
    (folder / "nnUNetPlans.json").write_text(content)
    for read in READERS.values():
        with pytest.raises(GenesisError, match=message) as error:
            read()
        assert str(folder / "nnUNetPlans.json") in str(error.value)


@pytest.mark.parametrize("damage", DAMAGED_DATASETS)
def test_a_damaged_dataset_json_is_a_sentence_for_every_reader(folder, damage):
    content, message = DAMAGED_DATASETS[damage]
    (folder / "dataset.json").write_text(content)
    for read in READERS.values():
        with pytest.raises(GenesisError, match=message):
            read()


@pytest.mark.parametrize("content", ['{"experiment_planner_used": ', "[]", '"text"'])
def test_damaged_plans_are_a_sentence_for_plan(folder, nnunet_folders, content):
    raw = nnunet_folders["nnUNet_raw"] / NAME
    raw.mkdir(exist_ok=True)
    (raw / "dataset.json").write_text(json.dumps(LABELLED))
    (folder / "myPlans.json").write_text(content)
    with pytest.raises(GenesisError, match=r"myPlans.json: expected"):
        plan_network("905", plans_name="myPlans")


@pytest.mark.parametrize("plans", [{}, {"configurations": []}, {"configurations": {"3d_fullres": {}}}])
def test_damaged_plans_are_a_sentence_for_the_trainer(folder, plans):
    with pytest.raises(SystemExit, match="nnUNetTrainerGenesisScratch's plans: "):
        nnUNetTrainerGenesisScratch(plans, "3d_fullres", 0, LABELLED, CPU)


def test_older_data_sets_call_channels_modality():
    assert channel_names({"modality": {"1": "T2", "0": "T1", "10": "PD"}}) == {"0": "T1", "1": "T2", "10": "PD"}


def test_the_trainers_folder_is_joined_with_those_of_the_user(monkeypatch, capsys):
    def printed(variable: str) -> str:
        monkeypatch.setenv("nnUNet_extTrainer", variable)
        monkeypatch.setattr("sys.argv", ["nnUNetv2_genesis_trainers"])
        cli.trainers()
        return capsys.readouterr().out.strip()

    ours = str(cli.trainers_folder())
    assert printed("") == ours
    assert printed(ours) == ours
    assert printed("/a:/b c") == f"{ours}:/a:/b c"
    assert printed(f"/a:{ours}:/a: :/b") == f"{ours}:/a:/b"
    assert printed(printed("/a")) == printed("/a")
