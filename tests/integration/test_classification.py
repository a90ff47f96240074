"""Classification through nnU-Net's own training command: scans, regions and candidates."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args, run_training

from nnunet_genesis.architectures.genesis_unet3d import architecture
from nnunet_genesis.cli import trainers_folder
from pretraining.classification.models import trained_model
from pretraining.run import pretrain
from tests.integration.tiny_world import make_case, plan_and_preprocess, write_image

CPU = torch.device("cpu")
TRAINER, SCRATCH = "nnUNetTrainerGenesisClassifier", "nnUNetTrainerGenesisClassifierScratch"
CASES = 10


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    """821: a mask around the middle, a bright ball in every second case; and weights pretrained on it."""
    raw = nnunet_folders["nnUNet_raw"] / "Dataset821_Balls"
    rows = ["case,label,group"]
    for index in range(CASES):
        image, labels = make_case(index)
        if index % 2:
            image[0, 10:15, 14:19, 14:19] += 400
        write_image(image[0], raw / "imagesTr" / f"case{index:02}_0000.nii.gz")
        write_image((labels > 0).astype(np.uint8), raw / "labelsTr" / f"case{index:02}.nii.gz")
        rows.append(f"case{index:02},{'ball' if index % 2 else 'none'},p{index // 2}")
    (raw / "labelsTr.csv").write_text("\n".join(rows))
    description = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "body": 1}, "numTraining": CASES,
                   "file_ending": ".nii.gz"}  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(description))
    plan_and_preprocess(nnunet_folders["nnUNet_preprocessed"], 821)
    weights = pretrain("821", "3d_fullres", fold="all", device=CPU, epochs=1, iterations=1)
    return nnunet_folders | {"weights": weights}


@pytest.fixture(autouse=True)
def environment(world: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user exports before nnUNetv2_train."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    monkeypatch.setenv("nnUNet_genesis_weights", str(world["weights"]))
    for name, value in {"epochs": "2", "iterations": "2", "seed": "1"}.items():
        monkeypatch.setenv(f"nnUNet_genesis_{name}", value)


def train(trainer: str, fold: int | str = 0, **options) -> None:
    run_training("821", "3d_fullres", fold, trainer, device=CPU, **options)


def folder(world: dict[str, Path], trainer: str, fold: int | str = 0) -> Path:
    return world["nnUNet_results"] / "Dataset821_Balls" / f"{trainer}__nnUNetPlans__3d_fullres" / f"fold_{fold}"


def predictions(world: dict[str, Path], trainer: str, fold: int = 0) -> pd.DataFrame:
    return pd.read_csv(folder(world, trainer, fold) / "validation" / "classification.csv")


def weights_of(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=False)["network_weights"]


def test_train_resume_and_validate_from_pretrained_weights(world, monkeypatch):
    train(TRAINER)
    report = json.loads((folder(world, TRAINER) / "genesis_load_report.json").read_text())
    assert report["coverage"]["encoder"] == 1
    splits = json.loads((world["nnUNet_preprocessed"] / "Dataset821_Balls" / "splits_final.json").read_text())
    first = predictions(world, TRAINER)
    assert list(first["case"]) == splits[0]["val"]
    np.testing.assert_allclose(first["p:ball"] + first["p:none"], 1, atol=1e-5)
    assert first["volume"].between(1000, 20000).all()
    monkeypatch.delenv("nnUNet_genesis_weights")
    monkeypatch.setenv("nnUNet_genesis_epochs", "3")
    train(TRAINER, continue_training=True)
    assert torch.load(folder(world, TRAINER) / "checkpoint_final.pth", weights_only=False)["current_epoch"] == 3
    second = predictions(world, TRAINER)
    assert not np.allclose(first["p:ball"], second["p:ball"])
    train(TRAINER, only_run_validation=True)
    pd.testing.assert_frame_equal(second, predictions(world, TRAINER))


def test_scratch_learns_what_is_easy(world, monkeypatch):
    monkeypatch.setenv("nnUNet_genesis_weights", "/not/looked/at.pth")
    for name, value in {"epochs": "4", "iterations": "20", "peak_lr": "2e-3"}.items():
        monkeypatch.setenv(f"nnUNet_genesis_{name}", value)
    train(SCRATCH)
    found = predictions(world, SCRATCH)
    assert found.loc[found["label"] == "ball", "p:ball"].min() > found.loc[found["label"] == "none", "p:ball"].max()
    assert "moving average of AUC" in next(folder(world, SCRATCH).glob("training_log*")).read_text()


def test_a_linear_probe_leaves_the_encoder_and_learns_from_features_that_hardly_differ(world, monkeypatch):
    for name, value in {"freeze": "encoder", "epochs": "4", "iterations": "10"}.items():
        monkeypatch.setenv(f"nnUNet_genesis_{name}", value)
    train(TRAINER, 1)
    found = predictions(world, TRAINER, 1).groupby("label")["p:ball"].mean()
    assert found["ball"] > found["none"] + 0.05  # 0.001 and the other way round without standardised features
    final = folder(world, TRAINER, 1) / "checkpoint_final.pth"
    assert_encoder_of(world["weights"], final)
    for name in ("freeze", "epochs", "iterations"):  # a fresh shell
        monkeypatch.delenv(f"nnUNet_genesis_{name}")
    train(TRAINER, 1, only_run_validation=True)
    monkeypatch.setenv("nnUNet_genesis_epochs", "5")
    train(TRAINER, 1, continue_training=True)
    assert torch.load(final, weights_only=False)["current_epoch"] == 5
    assert_encoder_of(world["weights"], final)


def assert_encoder_of(pretrained: Path, trained: Path) -> None:
    before = torch.load(pretrained, weights_only=True)["network_weights"]
    encoder = {name: value for name, value in weights_of(trained).items() if name.startswith("encoder.")}
    assert encoder
    assert all(torch.equal(value, before[name]) for name, value in encoder.items())


def residual() -> dict:
    keys = {"n_stages": 3, "features_per_stage": [4, 8, 12], "kernel_sizes": [[3] * 3] * 3,
            "strides": [[1] * 3, [2] * 3, [2] * 3], "n_blocks_per_stage": [1, 2, 2], "n_conv_per_stage_decoder": [1, 1],
            "conv_op": "torch.nn.modules.conv.Conv3d", "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"affine": True},
            "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}}  # fmt: skip
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": keys,
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }


@pytest.mark.parametrize("network", [residual(), architecture([4, 8, 12, 16])], ids=["residual", "original"])
def test_other_encoders_classify_from_their_own_pretraining(world, monkeypatch, network):
    preprocessed = world["nnUNet_preprocessed"] / "Dataset821_Balls"
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["plans_name"] = name = f"{network['network_class_name'].rpartition('.')[2]}Plans"
    plans["configurations"] = {"3d_fullres": plans["configurations"]["3d_fullres"] | {"architecture": network}}
    (preprocessed / f"{name}.json").write_text(json.dumps(plans))
    weights = pretrain("821", "3d_fullres", name, fold="all", device=CPU, epochs=1, iterations=1)
    monkeypatch.setenv("nnUNet_genesis_weights", str(weights))
    run_training("821", "3d_fullres", 0, TRAINER, name, device=CPU)
    fold = world["nnUNet_results"] / "Dataset821_Balls" / f"{TRAINER}__{name}__3d_fullres" / "fold_0"
    report = json.loads((fold / "genesis_load_report.json").read_text())
    assert report["coverage"]["encoder"] == 1
    model = trained_model(fold, CPU)
    assert model.network(torch.zeros(2, 1, 16, 24, 24)).shape == (2, 2)
    assert model.network.norm.running_var.ne(1).all()


def test_a_seed_and_an_interruption_change_nothing(world, monkeypatch):
    monkeypatch.setenv("nnUNet_genesis_stage", "1")
    train(SCRATCH, 1)
    whole = weights_of(folder(world, SCRATCH, 1) / "checkpoint_final.pth")
    assert not any(name.startswith("encoder.stages.2") for name in whole)
    shutil.rmtree(folder(world, SCRATCH, 1))
    trainer = get_trainer_from_args("821", "3d_fullres", 1, SCRATCH, device=CPU)
    end = type(trainer).on_epoch_end

    def stop(self):
        end(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(trainer), "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            trainer.run_training()
    train(SCRATCH, 1, continue_training=True)
    resumed = weights_of(folder(world, SCRATCH, 1) / "checkpoint_final.pth")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_candidates_in_mm(world, monkeypatch):
    file = world["nnUNet_preprocessed"] / "Dataset821_Balls" / "genesis_labels.csv"
    rows = [
        f"case{index:02},16,16,12,1\ncase{index:02},3,3,3,0\ncase{index:02},28,4,18,0" for index in range(1, CASES, 2)
    ]
    file.write_text("case,x,y,z,label\n" + "\n".join(rows))
    try:
        train(SCRATCH, "all")
    finally:
        file.unlink()
    found = pd.read_csv(folder(world, SCRATCH, "all") / "validation" / "classification.csv")
    assert len(found) == 15
    assert list(found.columns[:7]) == ["case", "group", "x", "y", "z", "label", "rank"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optimizer", "adamw", "nnUNet_genesis_optimizer: nnUNetTrainerGenesisClassifier doesn't use it"),
        ("stage", "9", "this encoder has stages 0 to 2"),
        ("freeze", "everything", "expected encoder"),
    ],
)
def test_wrong_settings_stop_with_a_message(world, monkeypatch, name, value, message):
    monkeypatch.setenv(f"nnUNet_genesis_{name}", value)
    with pytest.raises(SystemExit, match=message):
        train(TRAINER)


def test_wrong_folds_and_labels_stop_with_a_message(world):
    with pytest.raises(SystemExit, match=r"fold 7: expected one of .*splits_final.json's folds, 0 to"):
        train(SCRATCH, 7)
    labels = world["nnUNet_raw"] / "Dataset821_Balls" / "labelsTr.csv"
    content = labels.read_text()
    labels.unlink()
    with pytest.raises(SystemExit, match=r"has no labels: expected .*labelsTr.csv"):
        train(SCRATCH)
    labels.write_text(content)
