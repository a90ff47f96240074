"""Checkpoints as the first layout of this package wrote them: they load, are described, go on and predict.

Both were written after the first of two epochs, of a network of three stages of two features, on the tiny world.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import run_training

from nnunet_genesis import checkpoint
from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.inspection import inspect_weights
from pretraining.run import pretrain
from tests.integration.predicting import predict
from tests.integration.tiny_world import LABELLED, prepare_labelled

CPU, OLD = torch.device("cpu"), Path(__file__).with_name("old_checkpoints")
TRAINER = "nnUNetTrainerGenesisFull"


def unpacked(name: str, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.decompress((OLD / f"{name}.pth.gz").read_bytes()))
    return file


def use_its_plans(content: dict, preprocessed: Path) -> None:
    file = next(preprocessed.glob(f"{content['init_args']['plans']['dataset_name'][:10]}*")) / "nnUNetPlans.json"
    file.write_text(json.dumps(content["init_args"]["plans"]))


@pytest.fixture(scope="module")
def world(world: dict[str, Path]) -> dict[str, Path]:
    prepare_labelled(world["nnUNet_raw"], world["nnUNet_preprocessed"])
    return world


def test_the_record_is_read_and_written_again_as_it_was(tmp_path):
    file = unpacked("pretraining", tmp_path / "old.pth")
    old = torch.load(file, weights_only=True)
    record = checkpoint.load_weights(file).record
    assert record.to_plain() == old["genesis"]
    assert record.adaptation_plan(1) == old["nnssl_adaptation_plan"]
    assert "3 stages, features 2-2-2" in inspect_weights(file, None, "", "")[0]


def test_a_new_record_has_the_keys_of_an_old_one(world, tmp_path):
    old = torch.load(unpacked("pretraining", tmp_path / "old.pth"), weights_only=True)["genesis"]
    final = pretrain("701", "3d_fullres", fold="all", device=CPU, epochs=1, iterations=1, precision="fp32")
    new = torch.load(final, weights_only=True)["genesis"]
    assert list(new) == list(old)
    for key in ("normalization", "corruption", "training", "data", "software"):
        assert new[key].keys() >= old[key].keys()


def pretraining(world: dict[str, Path]) -> Path:
    folder = world["nnUNet_results"] / "Dataset701_One" / "nnUNetTrainerRestoration__nnUNetPlans__3d_fullres" / "fold_0"
    return unpacked("pretraining", folder / "checkpoint_latest.pth")


def fine_tuning(world: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {"extTrainer": str(trainers_folder()), "genesis_epochs": "2", "genesis_iterations": "2"}.items():
        monkeypatch.setenv(f"nnUNet_{name}", value)
    model = world["nnUNet_results"] / LABELLED / f"{TRAINER}__nnUNetPlans__3d_fullres"
    return unpacked("fine_tuned", model / "fold_0" / "checkpoint_latest.pth")


def test_nothing_goes_on_where_the_plans_have_changed(world, monkeypatch):
    message = r"_latest\.pth: it doesn't fit this run's network \(Missing key\(s\) in state_dict: .* \.\.\.\)"
    pretraining(world)
    with pytest.raises(GenesisError, match=message):
        pretrain("701", "3d_fullres", device=CPU, continue_training=True)
    fine_tuning(world, monkeypatch)
    with pytest.raises(SystemExit, match=message):
        run_training("702", "3d_fullres", 0, TRAINER, device=CPU, continue_training=True)


def test_a_pretraining_goes_on(world):
    old = torch.load(pretraining(world), weights_only=True)
    use_its_plans(old, world["nnUNet_preprocessed"])
    final = pretrain("701", "3d_fullres", device=CPU, continue_training=True)
    new = torch.load(final, weights_only=True)
    assert new["current_epoch"] == 2
    assert new["logging"]["train_losses"][:1] == old["logging"]["train_losses"]
    assert np.isfinite(new["logging"]["train_losses"]).all()


def test_a_fine_tuning_goes_on_and_predicts(world, tmp_path, monkeypatch):
    file = fine_tuning(world, monkeypatch)
    old, model = checkpoint.load(file), file.parent.parent
    use_its_plans(old, world["nnUNet_preprocessed"])
    run_training("702", "3d_fullres", 0, TRAINER, device=CPU, continue_training=True)
    new = checkpoint.load(model / "fold_0" / "checkpoint_final.pth")
    assert new["current_epoch"] == 2
    assert new["logging"]["train_losses"][:1] == old["logging"]["train_losses"]
    for name in ("plans.json", "dataset.json"):
        assert (model / name).is_file()
    unpacked("fine_tuned", model / "fold_0" / "checkpoint_final.pth")
    predict(world["nnUNet_raw"] / LABELLED / "imagesTr", tmp_path / "out", "-d", "702", "-c", "3d_fullres",
            "-f", "0", "-tr", TRAINER)  # fmt: skip
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 5
