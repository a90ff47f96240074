"""Stock export: a copy that names nnU-Net's own trainer, and an original that stays as it was."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_genesis import checkpoint
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.sharing.stock_export import export_stock

NAME = "nnUNetTrainerGenesis__nnUNetPlans__3d_fullres"


@pytest.fixture
def model(tmp_path) -> Path:
    """A results folder as nnU-Net leaves it, two folds."""
    folder = tmp_path / "Dataset004_Hippocampus" / NAME
    for fold in ("fold_0", "fold_1"):
        (folder / fold / "validation").mkdir(parents=True)
        (folder / fold / "debug.json").write_text("{}")
        (folder / fold / "validation" / "case.nii.gz").write_bytes(b"voxels")
        for kind in ("best", "final"):
            content = {
                "network_weights": {"w": torch.arange(4.0)},
                "logging": {"ema_fg_dice": [np.float64(0.5)]},
                "_best_ema": np.float64(0.5),
                "trainer_name": "nnUNetTrainerGenesis",
                "init_args": {"configuration": "3d_fullres", "fold": fold},
                "inference_allowed_mirroring_axes": (0, 1, 2),
            }
            torch.save(content, folder / fold / f"checkpoint_{kind}.pth")
    for name in ("plans", "dataset", "dataset_fingerprint"):
        (folder / f"{name}.json").write_text(f'{{"is": "{name}"}}')
    return folder


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_the_trainer_name_is_rewritten(model):
    output = export_stock(model)
    assert output == model.parent / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for path in model.glob("fold_*/checkpoint_*.pth"):
        original, copy = checkpoint.load(path), checkpoint.load(output / path.relative_to(model))
        assert copy.pop("trainer_name") == "nnUNetTrainer"
        assert original.pop("trainer_name") == "nnUNetTrainerGenesis"
        assert torch.equal(copy.pop("network_weights")["w"], original.pop("network_weights")["w"])
        assert copy == original


def test_all_that_prediction_needs_is_copied(model):
    output = export_stock(model)
    copied = snapshot(output)
    whole = ("plans.json", "dataset.json", "dataset_fingerprint.json")
    for name in whole:
        assert copied[Path(name)] == (model / name).read_bytes()
    checkpoints = {f"fold_{fold}/checkpoint_{kind}.pth" for fold in (0, 1) for kind in ("best", "final")}
    assert {str(path) for path in copied} == {*whole, *checkpoints}  # no debug.json, which names host and folders


def test_a_fold_that_is_not_finished_is_left_out_and_named(model, capsys):
    fold = model / "fold_1"
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    (model / "fold_0" / "checkpoint_best.pth").rename(model / "fold_0" / "checkpoint_earlier_best.pth")
    output = export_stock(model)
    assert [str(path.relative_to(output)) for path in output.rglob("*.pth")] == ["fold_0/checkpoint_final.pth"]
    said = capsys.readouterr()
    assert f"WARNING: {fold}: no checkpoint_final.pth, left out" in said.err
    assert said.out == ""


def test_original_stays_as_it_was(model):
    before = snapshot(model)
    export_stock(model)
    assert snapshot(model) == before


def test_fingerprint_is_not_needed(model):
    (model / "dataset_fingerprint.json").unlink()
    assert not (export_stock(model) / "dataset_fingerprint.json").exists()


def test_output_folder_of_choice(model, tmp_path):
    output = tmp_path / "new" / "copy"
    assert export_stock(model, output) == output
    assert (output / "fold_0" / "checkpoint_final.pth").is_file()


def test_relative_folder_gets_its_full_name(model, monkeypatch):
    monkeypatch.chdir(model)
    assert export_stock(Path(".")) == model.parent / "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.mark.parametrize("missing", ["plans.json", "dataset.json", "fold_X/checkpoint_final.pth"])
def test_folder_that_is_no_model(model, missing):
    for path in model.glob(missing.replace("fold_X", "fold_*")):
        path.unlink()
    with pytest.raises(GenesisError) as error:
        export_stock(model)
    assert str(error.value).startswith(f"{model}: expected a trained model")
    assert f"missing {missing}. Give the folder in nnUNet_results" in str(error.value)
    assert not (model.parent / "nnUNetTrainer__nnUNetPlans__3d_fullres").exists()


def test_missing_folder(tmp_path):
    with pytest.raises(GenesisError, match=r"missing plans\.json, dataset\.json, fold_X/checkpoint"):
        export_stock(tmp_path / "nothing")


def test_output_that_exists_is_not_touched(model, tmp_path):
    output = tmp_path / "mine"
    output.mkdir()
    (output / "precious").write_text("x")
    with pytest.raises(GenesisError, match=r"mine: exists already\. Move it away, or choose another folder with -o"):
        export_stock(model, output)
    assert snapshot(output) == {Path("precious"): b"x"}


def test_stock_model_has_no_other_place_to_go(model):
    stock = model.rename(model.parent / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    with pytest.raises(GenesisError, match="exists already"):
        export_stock(stock)


def test_odd_name_needs_an_output(model, tmp_path):
    odd = model.rename(model.parent / "mymodel")
    with pytest.raises(GenesisError, match=r"mymodel: the name isn't TRAINER__PLANS__CONFIG.*-o"):
        export_stock(odd)
    assert export_stock(odd, tmp_path / "copy").is_dir()


def test_damaged_checkpoint_leaves_no_half_copy(model):
    (model / "fold_1" / "checkpoint_final.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(GenesisError, match=r"fold_1/checkpoint_final\.pth"):
        export_stock(model)
    assert [path.name for path in model.parent.iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("what", "changes"), [("a pretraining", {"genesis": {}}), ("a classifier", {"init_args": {"classification": {}}})]
)
def test_what_does_not_segment_is_refused(model, what, changes):
    file = model / "fold_1" / "checkpoint_final.pth"
    torch.save(checkpoint.load(file) | changes, file)
    with pytest.raises(GenesisError, match=rf"_final\.pth: expected a network that segments, found {what}"):
        export_stock(model)
    assert [path.name for path in model.parent.iterdir()] == [NAME]


def test_a_full_disk_is_named_and_leaves_no_half_copy(model, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(GenesisError, match="not written: No space left on device"):
        export_stock(model)
    assert [path.name for path in model.parent.iterdir()] == [NAME]


def test_network_of_this_package_is_refused(model):
    name = "nnunet_genesis.architectures.GenesisUNet3D"
    plans = {"configurations": {"3d_fullres": {"architecture": {"network_class_name": name}}}}
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(GenesisError, match=rf"plans\.json: its network is {name}.*needs nnunet-genesis"):
        export_stock(model)
    assert [path.name for path in model.parent.iterdir()] == [NAME]
