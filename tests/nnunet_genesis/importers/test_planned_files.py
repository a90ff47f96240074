"""nnssl and supervised nnU-Net checkpoints: the record from their plans, nothing built from their words."""

import copy
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_genesis import checkpoint, cli, importers
from nnunet_genesis.checkpoint.architecture import GENESIS, PLAIN, RES_ENC_L, RESIDUAL
from nnunet_genesis.checkpoint.lineage import texts
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers import genesis_unet3d, nnssl, nnunet_v2
from nnunet_genesis.importers.base import Source
from nnunet_genesis.transfer.network import source_network

SMALL = {"features_per_stage": [4, 6, 8, 10]}
HU = {"mean": np.float32(80), "std": 50.0, "percentile_00_5": -20.0, "percentile_99_5": 180.0}
IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]


def arguments(kind: str, dim: int = 3) -> dict[str, Any]:
    """A small network as nnU-Net's planner describes it."""
    blocks = {"n_conv_per_stage": [2, 2, 2]} if kind == PLAIN else {"n_blocks_per_stage": [1, 2, 2]}
    return {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": [[1, 3, 3][-dim:], [3] * dim, [3] * dim],
        "strides": [[1] * dim, [1, 2, 2][-dim:], [2] * dim],
        **blocks,
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def network(kind: str, inputs: int = 1, outputs: int = 3, dim: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == GENESIS:
        return get_network_from_plans(kind, SMALL, [], inputs, outputs)
    return get_network_from_plans(kind, arguments(kind, dim), IMPORTED, inputs, outputs, deep_supervision=True)


def v2_content(kind: str = PLAIN, dim: int = 3, inputs: int = 1, **changes: Any) -> dict[str, Any]:
    """A supervised checkpoint as nnU-Net writes it."""
    kwargs = genesis_unet3d.architecture()["arch_kwargs"] | SMALL if kind == GENESIS else arguments(kind, dim)
    required = [] if kind == GENESIS else IMPORTED
    configuration = {
        "patch_size": [16, 24, 24][-dim:],
        "spacing": [np.float64(1.5), 1.0, 1.0][-dim:],
        "normalization_schemes": ["CTNormalization"] * inputs,
        "use_mask_for_norm": [False] * inputs,
        "architecture": {"network_class_name": kind, "arch_kwargs": kwargs, "_kw_requires_import": required},
    }
    plans = {
        "dataset_name": "Dataset007_Pancreas",
        "plans_name": "nnUNetPlans",
        "configurations": {"3d_fullres": configuration, "big": {"inherits_from": "3d_fullres", "batch_size": 4}},
        "foreground_intensity_properties_per_channel": {"0": HU, "1": HU},
    }
    names = {str(channel): "CT" for channel in range(inputs)}
    dataset = {"channel_names": names, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 281}
    return {
        "network_weights": network(kind, inputs, dim=dim).state_dict(),
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainerNoMirroring",
        **changes,
    }


def from_v2(content: dict[str, Any]) -> importers.Imported:
    return nnunet_v2.convert(Source(Path("f.pth"), content))


def test_a_fine_tuned_network_keeps_lineage_citations_and_the_strictest_licence():
    content = v2_content()
    parent = {"file": "genesis.pth", "sha256": "0", "method": "restoration", "licence": "cc-by-nc-4.0"}
    content["init_args"]["genesis"] = {"seed": 1, "lineage": [parent, 7], "citations": ["Somebody (2026)"]}
    content["init_args"]["dataset_json"]["licence"] = "cc-by-4.0"
    record = importers.convert(Source(Path("f.pth"), content)).record
    assert record["lineage"] == [parent]
    assert record["licence"] == "cc-by-nc-4.0"
    assert record["citations"][-1] == "Somebody (2026)"
    assert importers.convert(Source(Path("f.pth"), content), licence="MIT").record["licence"] == "MIT"
    content["init_args"]["dataset_json"]["licence"] = "CC-BY-NC-ND 4.0"
    assert importers.convert(Source(Path("f.pth"), content)).record["licence"] == "CC-BY-NC-ND 4.0"
    del content["init_args"]["dataset_json"]["licence"]
    assert importers.convert(Source(Path("f.pth"), content)).record["licence"] == "cc-by-nc-4.0"
    content["init_args"]["dataset_json"]["licence"] = "cc-by-4.0"
    content["init_args"]["genesis"]["lineage"] = 7
    assert importers.convert(Source(Path("f.pth"), content)).record["licence"] == "cc-by-4.0"


@pytest.mark.parametrize(
    ("fold", "data"),
    [
        (3, {"fold": 3}),
        ("all", {"fold": "all", "number_of_cases": {"training": 281}}),
        (None, {}),
        ({"a": 1}, {}),
        ("x" * 9999, {}),
    ],
)
def test_the_number_of_cases_is_that_of_all_of_them(fold, data):
    content = v2_content()
    content["init_args"]["fold"] = fold
    assert from_v2(content).record["data"] == {
        "dataset_name": "Dataset007_Pancreas",
        "channel_names": {"0": "CT"},
        **data,
    }


def set_in(content: dict[str, Any], value: Any, *path: str) -> dict[str, Any]:
    """``content`` with the architecture's entry at ``path`` replaced."""
    content = copy.deepcopy(content)
    entry = content["init_args"]["plans"]["configurations"]["3d_fullres"]["architecture"]
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    return content


def of_plain_types(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and of_plain_types(entry) for key, entry in value.items())
    if isinstance(value, list):
        return all(map(of_plain_types, value))
    return value is None or type(value) in (str, int, float, bool)


@pytest.mark.parametrize("kind", [PLAIN, RESIDUAL, GENESIS])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_supervised_network_stays_as_it_is(kind, prefix):
    content = v2_content(kind)
    state = content["network_weights"]
    content["network_weights"] = {f"{prefix}{name}": value.clone() for name, value in state.items()}
    imported = from_v2(content)
    weights, record = imported.checkpoint["network_weights"], imported.record
    assert weights.keys() == state.keys()
    assert all(torch.equal(value, weights[name]) for name, value in state.items())
    assert len(imported.placed) == len(dict(network(kind).named_parameters())) + sum(1 for _ in network(kind).buffers())
    assert of_plain_types(record)
    assert record["spacing"] == [1.5, 1.0, 1.0]
    assert record["normalization"]["foreground_intensity_properties_per_channel"]["0"]["mean"] == 80
    assert record["data"] == {
        "dataset_name": "Dataset007_Pancreas",
        "channel_names": {"0": "CT"},
        "fold": 0,
    }
    assert "nnUNetTrainerNoMirroring" in record["method"]
    source_network(checkpoint.check(imported.checkpoint, "f"))


def test_only_the_trained_configuration_is_kept():
    content = v2_content()
    content["init_args"]["configuration"] = "big"
    plans = from_v2(content).record["plans"]
    assert list(plans["configurations"]) == ["big"]
    assert plans["configurations"]["big"]["batch_size"] == 4
    assert plans["configurations"]["big"]["patch_size"] == [16, 24, 24]


def test_transposed_axes_are_recorded():
    content = v2_content()
    content["init_args"]["plans"]["transpose_forward"] = [1, 0, 2]
    assert from_v2(content).record["axis_order"] == "yzx"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transpose_forward", [7, 0, 1]),
        ("transpose_forward", 3),
        ("foreground_intensity_properties_per_channel", {}),
        ("foreground_intensity_properties_per_channel", {"0": {**HU, "mean": "os.system"}}),
        ("configurations", {"3d_fullres": {"inherits_from": "3d_fullres"}}),
        ("configurations", []),
    ],
)
def test_plans_that_make_no_sense(key, value):
    content = v2_content()
    content["init_args"]["plans"][key] = value
    with pytest.raises(GenesisError, match=r"f\.pth: the plans inside it can't be read for configuration '3d_fullres'"):
        from_v2(content)


def test_plans_from_before_nnunet_2_3():
    content = v2_content()
    plans = content["init_args"]["plans"]
    configuration = plans["configurations"]["3d_fullres"]
    new = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": new["n_conv_per_stage"],
        "n_conv_per_stage_decoder": new["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": new["strides"],
        "conv_kernel_sizes": new["kernel_sizes"],
    }
    new["features_per_stage"] = [4, 8, 8]
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    old = get_network_from_plans(PLAIN, new, IMPORTED, 1, 3, deep_supervision=True)
    imported = from_v2(content | {"network_weights": old.state_dict()})
    architecture = imported.record["plans"]["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"] == PLAIN
    assert architecture["arch_kwargs"]["features_per_stage"] == [4, 8, 8]
    assert imported.record["plans"]["foreground_intensity_properties_per_channel"]["0"]["std"] == 50


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ("os.system", ["network_class_name"], r"expected weights of one of PlainConvUNet, .*found 'os.system'"),
        ("evil.PlainConvUNet", ["network_class_name"], "found 'evil.PlainConvUNet'"),
        ("dynamic_network_architectures.architectures.primus.Primus", ["network_class_name"], "Primus"),
        (7, ["network_class_name"], "found '7'"),
        ("os.system", ["arch_kwargs", "nonlin"], "nonlin: expected one of .*found 'os.system'"),
        ("evil.Conv3d", ["arch_kwargs", "conv_op"], "conv_op: expected one of .*found 'evil.Conv3d'"),
        ("torch.nn.Conv2d", ["arch_kwargs", "conv_op"], "It is a 2D network"),
        ("text", ["arch_kwargs", "n_stages"], "n_stages: expected numbers"),
        (10**9, ["arch_kwargs", "n_stages"], "n_stages: expected numbers"),
        ([10**9] * 3, ["arch_kwargs", "n_conv_per_stage"], "n_conv_per_stage: expected numbers"),
        ([4] * 1000, ["arch_kwargs", "features_per_stage"], "features_per_stage: expected numbers"),
        ([4, 6], ["arch_kwargs", "features_per_stage"], "describe no PlainConvUNet that can be built"),
        ([4, 6, 9], ["arch_kwargs", "features_per_stage"], r"of shape \[9, 6, 3, 3, 3\], found \[8, 6"),
        (None, ["arch_kwargs"], "expected the arguments of"),
        (torch.zeros(3), ["arch_kwargs", "n_stages"], "expected plain data in its record and plans, found a Tensor"),
    ],
)
def test_words_of_the_file_are_not_believed(value, path, message):
    with pytest.raises(GenesisError, match=message):
        from_v2(set_in(v2_content(), value, *path))


@pytest.mark.parametrize("value", [[None, 16, 16], ["a", 16, 16], [0, 16, 16], [16, 16]])
@pytest.mark.parametrize("key", ["patch_size", "spacing"])
def test_sizes_that_cannot_be_are_refused(key, value):
    content = v2_content()
    content["init_args"]["plans"]["configurations"]["3d_fullres"][key] = value
    with pytest.raises(GenesisError, match="can't be read for configuration '3d_fullres'"):
        from_v2(content)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_args": None}, "expected init_args with 'plans', 'configuration' and 'dataset_json', found none"),
        ({"init_args": {"plans": {}, "configuration": "a", "dataset_json": {}}}, "can't be read for configuration 'a'"),
        (
            {"init_args": {"plans": {"a": nested(9999)}, "configuration": "a", "dataset_json": {}}},
            "more than 32 levels",
        ),
        ({"network_weights": network(PLAIN, inputs=3).state_dict()}, "the second stage of a cascade"),
        ({"network_weights": None}, "expected a state dict under 'network_weights', found NoneType"),
        ({"network_weights": {}}, "expected a state dict under 'network_weights', found dict"),
        ({"network_weights": {3: torch.zeros(3)}}, "has a name that is no text"),
        ({"network_weights": {"x": torch.zeros(3)}}, "expected the encoder's first convolution"),
    ],
)
def test_an_incomplete_file_is_named(change, message):
    with pytest.raises(GenesisError, match=message):
        from_v2(v2_content() | change)


@pytest.mark.parametrize("name", ["encoder.stages.1.0.convs.1.norm.bias", "decoder.transpconvs.1.weight"])
def test_a_missing_tensor_is_named(name):
    content = v2_content()
    content["network_weights"] = {key: value for key, value in content["network_weights"].items() if name not in key}
    left = {key for key in content["network_weights"] if "stages.1.0.convs.1" in key and "all_modules.1.bias" in key}
    for key in left:
        del content["network_weights"][key]
    with pytest.raises(GenesisError, match=f"f.pth: expected a tensor '{name}'"):
        from_v2(content)


def test_two_values_for_one_tensor_are_refused():
    content = v2_content()
    state = {name: value.clone() for name, value in content["network_weights"].items()}
    state["decoder.encoder.stages.0.0.convs.0.conv.weight"] += 1
    with pytest.raises(GenesisError, match=r"are one tensor of the network; expected equal values"):
        from_v2(content | {"network_weights": state})


def test_2d_is_refused(tmp_path):
    torch.save(v2_content(dim=2), tmp_path / "f.pth")
    with pytest.raises(GenesisError, match=r"f\.pth: .*It is a 2D network; Genesis weights are 3D"):
        importers.convert(tmp_path / "f.pth")


def test_a_classifier_is_refused_in_a_sentence():
    content = v2_content()
    encoder = {name: value for name, value in content["network_weights"].items() if name.startswith("encoder.")}
    content["network_weights"] = encoder | {"head.weight": torch.zeros(2, 8), "head.bias": torch.zeros(2)}
    with pytest.raises(GenesisError, match=r"f\.pth: expected a network that segments, found a classifier's"):
        from_v2(content)


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerGenesisScratch"])
def test_a_checkpoint_of_a_real_trainer(name, nnunet_folders, tmp_path, monkeypatch):
    from nnunet_genesis import trainer as ours

    content = v2_content()["init_args"]
    content["plans"]["configurations"]["3d_fullres"] |= {"batch_size": 2, "batch_dice": False, "data_identifier": "x"}
    data = nnunet_folders["nnUNet_preprocessed"] / "Dataset007_Pancreas" / "x"
    data.mkdir(parents=True, exist_ok=True)
    (data / "case.b2nd").touch()  # by it nnU-Net tells the data's format
    content["plans"] |= {"label_manager": "LabelManager", "continue_training": False}
    kind = nnUNetTrainer if name == "nnUNetTrainer" else getattr(ours, name)
    trainer = kind(content["plans"], "3d_fullres", 0, content["dataset_json"], torch.device("cpu"))
    trainer.initialize()
    trainer.logger.log("train_losses", np.float32(0.5), 0)
    trainer._best_ema = np.float64(0.25)
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    imported = importers.convert(tmp_path / "checkpoint_final.pth")
    state = trainer.network.state_dict()
    assert imported.record["imported"]["format"] == "nnunet_v2"
    assert all(torch.equal(value, state[key]) for key, value in imported.checkpoint["network_weights"].items())
    assert name in imported.record["method"]


def nnssl_content(**changes: Any) -> dict[str, Any]:
    """A self-supervised checkpoint as nnssl writes it (reference/RESTORATION.md)."""
    plan = {
        "architecture_plans": {
            "arch_class_name": "ResidualEncoderUNet",
            "arch_kwargs": arguments(RESIDUAL),
            "arch_kwargs_requiring_import": IMPORTED,
        },
        "pretrain_plan": {
            "configurations": {
                "noresample": {"spacing": None, "patch_size": [8, 8, 8], "spacing_style": "noresample"},
                "onemmiso": {"spacing": [1, 1, 1], "patch_size": [16, 16, 16], "spacing_style": "onemmiso"},
            }
        },
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [24, 24, 24],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv"],
        "key_to_lpe": None,
    }
    return {
        "network_weights": network(RESIDUAL, outputs=1).state_dict(),
        "nnssl_adaptation_plan": plan,
        "trainer_name": "SomeTrainer",
        "init_args": {"configuration_name": "onemmiso", "fold": 0},
        "citations": [{"type": "Pretraining Method", "name": "X", "apa_citations": ["A. (2024)", "B. (2025)"]}, "C."],
        **changes,
    }


def from_nnssl(content: dict[str, Any]) -> importers.Imported:
    return nnssl.convert(Source(Path("f.pth"), content))


def test_nnssl_without_a_patch_size_says_what_is_recorded():
    content = nnssl_content()
    plan = content["nnssl_adaptation_plan"]
    assert not from_nnssl(content).notes
    plan |= {"recommended_downstream_patchsize": None, "pretrain_plan": {"configurations": {"onemmiso": {}}}}
    imported = from_nnssl(content)
    assert imported.record["patch_size"] == [160, 160, 160]
    assert "states no patch size; [160, 160, 160] is recorded" in imported.notes[0]


def test_nnssl_with_a_decoder():
    content = nnssl_content()
    imported = from_nnssl(content)
    weights, record = imported.checkpoint["network_weights"], imported.record
    assert weights.keys() == content["network_weights"].keys()
    assert all(torch.equal(value, weights[name]) for name, value in content["network_weights"].items())
    assert record["spacing"] == [1, 1, 1]
    assert record["patch_size"] == [24, 24, 24]
    assert record["normalization"]["schemes"] == ["ZScoreNormalization"]
    assert any("A. (2024)" in text for text in record["citations"])
    assert any("B. (2025)" in text for text in record["citations"])
    assert "C." in record["citations"]
    assert of_plain_types(record)
    source_network(checkpoint.check(imported.checkpoint, "f"))


def test_nnssl_encoder_somewhere_else_and_alone():
    content = nnssl_content()
    full = content["network_weights"]
    content["network_weights"] = {
        f"module.online_{name}": value for name, value in full.items() if name.startswith("encoder.")
    } | {"module.projector.weight": torch.zeros(3, 3), "module.decoder.transpconvs.0.weight": torch.zeros(1)}
    content["nnssl_adaptation_plan"] |= {
        "key_to_encoder": "online_encoder.stages",
        "key_to_stem": "online_encoder.stem",
    }
    content["init_args"] = {"configuration_name": "noresample"}
    imported = from_nnssl(content)
    weights = imported.checkpoint["network_weights"]
    assert set(weights) == {name for name in full if name.startswith("encoder.")}
    assert all(torch.equal(value, full[name]) for name, value in weights.items())
    assert set(imported.not_placed) == {"projector.weight", "decoder.transpconvs.0.weight"}
    assert imported.record["spacing"] is None
    assert "no decoder" in imported.notes[0]
    source_network(checkpoint.check(imported.checkpoint, "f"))


def test_nnssl_res_enc_l_without_arguments():
    with torch.device("meta"):
        shapes = get_network_from_plans(RESIDUAL, RES_ENC_L, IMPORTED, 1, 1).state_dict()
    state = {name: torch.zeros(value.shape) for name, value in shapes.items() if name.startswith("encoder.stem")}
    state |= {name: torch.zeros(value.shape) for name, value in shapes.items() if name.startswith("encoder.stages.")}
    content = nnssl_content(network_weights=state, citations=None)
    content["nnssl_adaptation_plan"]["architecture_plans"] = {"arch_class_name": "ResEncL", "arch_kwargs": None}
    imported = from_nnssl(content)
    plan = imported.checkpoint["nnssl_adaptation_plan"]
    assert plan["architecture_plans"]["arch_class_name"] == "ResEncL"
    assert plan["architecture_plans"]["arch_kwargs"]["n_blocks_per_stage"] == [1, 3, 4, 6, 6, 6]
    assert imported.record["citations"] == []


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            {"arch_class_name": "PrimusM", "arch_kwargs": None},
            "found 'PrimusM'. Other architectures can't be transferred",
        ),
        ({"arch_class_name": "NoSkipResEncL", "arch_kwargs": None}, "found 'NoSkipResEncL'"),
        (
            {"arch_class_name": "ResidualEncoderUNet", "arch_kwargs": None},
            "expected the arguments of ResidualEncoderUNet",
        ),
        ({"arch_class_name": "ResEncL", "arch_kwargs": None}, r"of shape \[.*\], found \["),
        (None, "expected nnssl_adaptation_plan with 'architecture_plans', found NoneType"),
    ],
)
def test_nnssl_of_another_network(architecture, message):
    content = nnssl_content()
    content["nnssl_adaptation_plan"]["architecture_plans"] = architecture
    with pytest.raises(GenesisError, match=f"f.pth: .*{message}"):
        from_nnssl(content)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("A", ["A"]),
        (["A", "B"], ["A", "B"]),
        ([{"name": "N", "apa": "A", "none": None}], ["name: N, apa: A"]),
        ({"method": ["A", "B"]}, ["method: A", "method: B"]),
        ([{"type": "T", "name": "N", "apa_citations": ["A", "B"]}, "C"], ["A", "B", "C"]),
        ([7], ["7"]),
    ],
)
def test_citations_of_any_shape(value, expected):
    assert texts(value) == expected


@pytest.mark.parametrize("kind", [PLAIN, RESIDUAL, GENESIS])
def test_the_adaptation_plan_names_what_is_there(kind, tmp_path):
    content = from_v2(v2_content(kind, inputs=2)).checkpoint
    checkpoint.save(content, tmp_path / "c.pth")
    found = torch.load(tmp_path / "c.pth", weights_only=True)
    plan, built = found["nnssl_adaptation_plan"], network(kind)
    assert plan["key_to_encoder"] == built.key_to_encoder
    assert plan["key_to_stem"] == built.key_to_stem
    assert set(plan["keys_to_in_proj"]) == set(built.keys_to_in_proj)
    assert plan["pretrain_num_input_channels"] == 2
    for key in plan["keys_to_in_proj"]:
        assert found["network_weights"][f"{key}.weight"].shape[1] == 2
    for key in (plan["key_to_encoder"], plan["key_to_stem"]):
        assert any(name.startswith(f"{key}.") for name in found["network_weights"])
    assert plan["architecture_plans"]["arch_class_name"] == kind.rpartition(".")[2]
    assert plan["pretrain_plan"]["configurations"]["3d_fullres"]["spacing"] == [1.5, 1, 1]
    assert plan["recommended_downstream_patchsize"] == [16, 24, 24]


def test_a_network_that_the_plan_does_not_know_has_no_keys():
    record = from_v2(v2_content()).record
    record["plans"]["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "my.Network"
    assert checkpoint.Record.from_plain(record, Path("f.pth")).adaptation_plan(1)["keys_to_in_proj"] == []


def run_import(monkeypatch, *command: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_genesis_import", *command])
    with pytest.raises(SystemExit) as stop:
        cli.import_()
    return stop.value.code


def test_the_command_says_what_was_placed_whom_to_cite_and_what_is_next(tmp_path, monkeypatch, capsys):
    torch.save(nnssl_content(), tmp_path / "f.pth")
    output = tmp_path / "genesis.pth"
    assert run_import(monkeypatch, str(tmp_path / "f.pth"), "-o", str(output)) == 0
    printed = capsys.readouterr().out
    for text in (
        "residual, 3 stages",
        "format nnssl, file f.pth",
        "placed: ",
        "A. (2024)",
        f"nnUNet_genesis_weights={output}",
    ):
        assert text in printed
    checkpoint.load_weights(output)
    before = output.read_bytes()
    assert "exists already" in str(run_import(monkeypatch, str(tmp_path / "f.pth"), "-o", str(output)))
    assert output.read_bytes() == before
    shared = tmp_path / "shared.safetensors"
    assert run_import(monkeypatch, str(output), "-o", str(shared)) == 0
    one, other = checkpoint.load_weights(output), checkpoint.load_weights(shared)
    assert one.record == other.record
    assert one.network_weights.keys() == other.network_weights.keys()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["f.pth", "-o", "g.pth", "--format", "nnunet_v1"], "f.pth: expected a state dict under 'state_dict'"),
        (["f.pth", "-o", "g.pth", "--keep_axes"], "f.pth: --keep_axes is for the Models Genesis authors'"),
        (["f.pth", "-o", "no/g.pth"], "no/g.pth: expected an existing folder"),
        (["no.pth", "-o", "g.pth"], "no.pth: no such file"),
    ],
)
def test_the_command_refuses_with_one_message(tmp_path, monkeypatch, command, message):
    torch.save(nnssl_content(), tmp_path / "f.pth")
    monkeypatch.chdir(tmp_path)
    assert str(run_import(monkeypatch, *command)).startswith(f"ERROR: {message}")
    assert os.listdir(tmp_path) == ["f.pth"]


def test_a_full_disk_is_one_message(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    torch.save(nnssl_content(), tmp_path / "f.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "save", full)
    said = str(run_import(monkeypatch, "f.pth", "-o", "g.pth"))
    assert said.startswith("ERROR: g.pth: not written: No space left on device")


def test_the_commands_choices_are_the_formats_and_help_does_not_import_torch():
    assert cli.WEIGHT_FORMATS == importers.FORMATS
    script = (
        "import atexit, sys; from nnunet_genesis.cli import import_; sys.argv = ['x', '--help'];"
        "atexit.register(lambda: print('torch' in sys.modules or 'numpy' in sys.modules)); import_()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.endswith("False\n")


def test_the_record_survives_json():
    record = from_v2(v2_content()).record
    assert json.loads(json.dumps(record)) == record
