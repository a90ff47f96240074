"""Weights of every origin into the networks that nnU-Net plans for real scans, tensor by tensor; training starts."""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_genesis import checkpoint
from nnunet_genesis.architectures.planner import PLANS_NAME
from nnunet_genesis.architectures.planning import plan_network
from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers import convert
from pretraining.run import pretrain
from tests.integration.real_plans import CASES, PLANNERS, plan, preprocess_few, random_values, read
from tests.nnunet_genesis.importers.foreign_files import keras_shapes, random_state, unet3d_shapes, v1_shapes

CPU = torch.device("cpu")
PLAIN, RESIDUAL = PLANNERS
PATCH = [16, 64, 64]  # in place of the planned one, which takes a GPU; the network stays as planned
SMALL = "Dataset004_Hippocampus"
ORIGINS = [("nnunet_v1", PLAIN), ("nnunet_v2", PLAIN), ("nnssl", RESIDUAL)]
TARGETS = [(name, plans) for name in CASES for plans in PLANNERS]
STARTED = [("Dataset027_ACDC", PLAIN), (SMALL, RESIDUAL)]  # one of each kind, with flat kernels and without


def quick(every: list, few: list) -> list:
    """All of them with ``make soak``, ``few`` with ``make test``: the networks are large."""
    return [pytest.param(*one, marks=[pytest.mark.soak] * (one not in few)) for one in every]


RELEASED = [(name, *origin) for name in CASES for origin in ORIGINS]
ORIGINAL = [(name, origin) for name in CASES for origin in ("genesis_unet3d", "keras")]


@pytest.fixture(scope="module")
def planned(data: Path, nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    """nnU-Net's default plans and ResEncM's for all data sets; one case each preprocessed, for both."""
    for name in CASES:
        folder = plan(data, nnunet_folders, name)
        for plans_name in PLANNERS:
            plans, _ = read(folder, plans_name)
            if not (folder / plans["configurations"]["3d_fullres"]["data_identifier"]).is_dir():  # both share theirs
                preprocess_few(data, nnunet_folders, name, plans_name)
            plans["configurations"]["3d_fullres"].update(patch_size=PATCH, batch_size=1)
            (folder / f"{plans_name}.json").write_text(json.dumps(plans))
    return nnunet_folders


@pytest.fixture(scope="module")
def own(planned: dict[str, Path]) -> dict[str, Path]:
    """Checkpoints of nnUNetv2_genesis_pretrain, by the plans that they can go into."""
    options = {"device": CPU, "epochs": 1, "iterations": 1, "precision": "fp32"}
    with pytest.MonkeyPatch.context() as patch:
        do_not_wait_for_the_disk(patch)
        return {
            PLAIN: pretrain("3", "3d_fullres", PLAIN, "all", **options),
            RESIDUAL: pretrain("8", "3d_fullres", RESIDUAL, "all", **options),
        }


def do_not_wait_for_the_disk(patch: pytest.MonkeyPatch) -> None:
    """The files are large."""
    patch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def environment(planned: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    do_not_wait_for_the_disk(monkeypatch)


def trainer_for(name: str, plans_name: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """nnU-Net's trainer for a data set, other values in all its tensors, and these weights to load."""
    for setting, value in {"weights": str(weights), "min_coverage": "0.1"}.items():
        monkeypatch.setenv(f"nnUNet_genesis_{setting}", value)
    number = str(int(name[7:10]))
    trainer = get_trainer_from_args(number, "3d_fullres", "all", "nnUNetTrainerGenesisFull", plans_name, device=CPU)
    trainer.initialize()
    random_values(trainer.network, seed=1)
    return trainer


@lru_cache(2)  # few: they are large
def content_of(weights: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and record of a checkpoint."""
    content = checkpoint.load(weights)
    return {key: value.numpy() for key, value in content["network_weights"].items()}, content["genesis"]


def expected(name: str, before: np.ndarray, source: dict[str, np.ndarray], record: dict, target: dict) -> np.ndarray:
    """What a tensor must be, worked out from the rules alone: stages from the top, sums, centres, CT's map."""
    if ".seg_layers." in name:
        return before
    origin, part, kind = name, *name.split(".")[:2]
    if part == "decoder":  # its index counts from the bottom
        index = int(name.split(".")[2]) + depth(source) - depth(target["names"])
        if index < 0:
            return before
        origin = ".".join([part, kind, str(index), *name.split(".")[3:]])
    if origin not in source:
        return before
    value = source[origin]
    if value.ndim == 5:
        value = spatial(value, before.shape, transposed=kind == "transpconvs")
    first = STEM if any(key.startswith(STEM) for key in target["names"]) else FIRST
    if name.startswith(first):
        value = at_the_input(value, source[f"{first}weight"], before.shape, record, target["ct"])
    return value


def depth(names: Any) -> int:
    return 1 + max(int(key.split(".")[2]) for key in names if key.startswith("encoder.stages."))


STEM = "encoder.stem.convs.0.conv."
ALIKE = {PLAIN: ["Dataset003_Liver"], RESIDUAL: ["Dataset008_BrainTumour", "Dataset004_Hippocampus"]}
FIRST = "encoder.stages.0.0.convs.0.conv."


def spatial(value: np.ndarray, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
    for axis in (2, 3, 4):
        there, here = value.shape[axis], shape[axis]
        if (there, here) == (3, 1):
            value = value.sum(axis, keepdims=True)
        elif (there, here) == (1, 3):
            value = np.pad(value, [(int(a == axis), int(a == axis)) for a in range(5)])
        elif there != here:
            assert transposed
            value = value.mean(axis, keepdims=True) if here == 1 else np.repeat(value, here, axis)
    return value


def at_the_input(value: np.ndarray, weight: np.ndarray, shape: tuple, record: dict, ct: dict | None) -> np.ndarray:
    """Channels 1 → 2 and 2 → 1 of other names, and the map between two CT normalisations."""
    scale, offset = 1.0, 0.0
    if ct and record["normalization"]["schemes"] == ["CTNormalization"]:
        there = record["normalization"]["foreground_intensity_properties_per_channel"]["0"]
        scale, offset = ct["std"] / there["std"], (ct["mean"] - there["mean"]) / there["std"]
    if value.ndim == 1:
        return value + offset * weight.sum((1, 2, 3, 4))
    if value.shape[1] < shape[1]:
        return np.repeat(value, 2, axis=1) / 2
    return scale * (value.sum(1, keepdims=True) if value.shape[1] > shape[1] else value)


def check(trainer: Any, weights: Path, planned: dict[str, Path], name: str, plans_name: str) -> dict[str, Any]:
    """Load them; every tensor of the network against :func:`expected`; the report."""
    source, record = content_of(weights)
    plans, _ = read(planned["nnUNet_preprocessed"] / name, plans_name)
    parameters = dict(trainer.network.named_parameters())
    before = {key: value.detach().clone().numpy() for key, value in parameters.items()}
    trainer._load_genesis_weights()
    maps_ct = name == "Dataset003_Liver" and plans_name != PLANS_NAME  # the original network maps its input itself
    properties = plans["foreground_intensity_properties_per_channel"]["0"]
    target = {"names": list(parameters), "ct": properties if maps_ct else None}
    changed = 0
    for key, value in parameters.items():
        wanted, found = expected(key, before[key], source, record, target), value.detach().numpy()
        if not np.array_equal(found, wanted):  # which is quick, and most tensors are copies
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=key)
        changed += key.startswith("encoder.") * (wanted is not before[key]) * value.numel()
    report = json.loads((Path(trainer.output_folder) / "genesis_load_report.json").read_text())
    encoder = sum(value.numel() for key, value in parameters.items() if key.startswith("encoder."))
    assert report["coverage"]["encoder"] == pytest.approx(changed / encoder)
    return report


@pytest.mark.parametrize(("name", "plans_name"), quick(TARGETS, [*STARTED, ("Dataset003_Liver", PLAIN)]))
def test_own_weights_fit_every_plan_of_their_kind(planned, own, monkeypatch, name, plans_name):
    trainer = trainer_for(name, plans_name, own[plans_name], monkeypatch)
    report = check(trainer, own[plans_name], planned, name, plans_name)
    assert report["coverage"] == {"encoder": 1, "decoder": 1}
    differences = [text for text in report["warnings"] if "restores no better" not in text]  # after one step
    assert bool(differences) == (name not in ALIKE[plans_name])


@pytest.mark.parametrize(("name", "plans_name"), quick(TARGETS, STARTED))
def test_training_starts_with_own_weights(own, monkeypatch, name, plans_name):
    trainer = trainer_for(name, plans_name, own[plans_name], monkeypatch)
    start_training(trainer)
    assert str(own[plans_name]) in Path(trainer.log_file).read_text()


def start_training(trainer: Any) -> None:
    """nnU-Net's own loader and one of its training steps."""
    trainer.on_train_start()
    loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
    assert np.isfinite(loss)


@pytest.mark.parametrize(("name", "plans_name"), quick(TARGETS, [(SMALL, PLAIN), (SMALL, RESIDUAL)]))
def test_the_other_kind_is_refused_and_nothing_is_changed(own, monkeypatch, name, plans_name):
    trainer = trainer_for(name, plans_name, own[RESIDUAL if plans_name == PLAIN else PLAIN], monkeypatch)
    before = [value.clone() for value in trainer.network.parameters()]
    with pytest.raises(GenesisError, match=r"cover 0\.0% of this network's encoder.*the pretrained network is"):
        trainer._load_genesis_weights()
    assert all(torch.equal(*pair) for pair in zip(trainer.network.parameters(), before, strict=True))


@pytest.fixture(scope="module")
def released(planned: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of every foreign format, imported."""
    folder = tmp_path_factory.mktemp("released")
    torch.save({"state_dict": random_state(v1_shapes())}, folder / "nnunet_v1.model")
    unet = {f"module.{key}": value for key, value in random_state(unet3d_shapes()).items()}
    torch.save({"state_dict": unet}, folder / "genesis_unet3d.pt")
    with h5py.File(folder / "keras.h5", "w") as file:
        for key, value in random_state(keras_shapes()).items():
            layer, kind = key.split("/")
            file[f"model_weights/{layer}/{layer}/{kind}:0"] = value.numpy()
    torch.save(nnssl_checkpoint(), folder / "nnssl.pth")
    supervised = get_trainer_from_args("4", "3d_fullres", "all", "nnUNetTrainer", PLAIN, device=CPU)
    supervised.initialize()
    random_values(supervised.network, seed=3)
    supervised.save_checkpoint(str(folder / "nnunet_v2.pth"))
    files = {}
    for file in sorted(folder.iterdir()):
        files[file.stem] = folder / f"{file.stem} imported.pth"
        checkpoint.save(convert(file).checkpoint, files[file.stem])
    return files


def nnssl_checkpoint() -> dict[str, Any]:
    """ResEncL as OpenMind's files have it: no arguments, no spacing."""
    network = ResidualEncoderUNet(
        1, 6, [32, 64, 128, 256, 320, 320], torch.nn.Conv3d, 3, [1, 2, 2, 2, 2, 2], [1, 3, 4, 6, 6, 6], 1, [1] * 5,
        conv_bias=True, norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip
    plan = {
        "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None},
        "pretrain_plan": {"configurations": {"noresample": {"spacing": None, "patch_size": [160, 160, 160]}}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [160, 160, 160],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }
    weights = random_values(network, seed=2).state_dict()
    return {"network_weights": weights, "nnssl_adaptation_plan": plan, "citations": ["A paper"], "trainer_name": "MAE"}


@pytest.mark.parametrize(
    ("name", "origin", "plans_name"),
    quick(RELEASED, [("Dataset003_Liver", *ORIGINS[0]), (SMALL, *ORIGINS[1]), ("Dataset008_BrainTumour", *ORIGINS[2])]),
)
def test_released_weights_fit_every_plan_of_their_kind(planned, released, monkeypatch, name, origin, plans_name):
    trainer = trainer_for(name, plans_name, released[origin], monkeypatch)
    coverage = check(trainer, released[origin], planned, name, plans_name)["coverage"]
    shallow = origin == "nnunet_v2" and name != "Dataset004_Hippocampus"  # 4 stages into 6, whose last two are large
    assert (0.24 < coverage["encoder"] < 0.26) if shallow else coverage == {"encoder": 1, "decoder": 1}


@pytest.mark.parametrize(
    ("name", "origin"), quick(ORIGINAL, [("Dataset003_Liver", "keras"), ("Dataset027_ACDC", "genesis_unet3d")])
)
def test_the_original_network_is_planned_and_filled(planned, released, monkeypatch, name, origin):
    plan_network(str(int(name[7:10])), released[origin])
    trainer = trainer_for(name, PLANS_NAME, released[origin], monkeypatch)
    assert check(trainer, released[origin], planned, name, PLANS_NAME)["coverage"] == {"encoder": 1, "decoder": 1}


def test_the_original_network_starts_to_train_with_the_weights_of_its_plans(planned, released, monkeypatch):
    file = plan_network("4", released["genesis_unet3d"])
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"].update(patch_size=[16, 32, 32], batch_size=1)
    file.write_text(json.dumps(plans))
    monkeypatch.delenv("nnUNet_genesis_weights", raising=False)
    trainer = get_trainer_from_args("4", "3d_fullres", "all", "nnUNetTrainerGenesisFull", PLANS_NAME, device=CPU)
    start_training(trainer)
    assert str(released["genesis_unet3d"]) in Path(trainer.log_file).read_text()


def test_the_original_network_does_not_mix_with_nnunets(released, monkeypatch):
    with pytest.raises(GenesisError, match="nnUNetv2_genesis_plan -d DATASET --for "):
        trainer_for(SMALL, PLAIN, released["genesis_unet3d"], monkeypatch)._load_genesis_weights()
