"""The Models Genesis authors' files: every tensor placed, the same output, the axes reversed, what is wrong named."""

import json
import math
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis import checkpoint, importers
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers import genesis_unet3d, nnunet_v1
from nnunet_genesis.importers.base import Source
from nnunet_genesis.transfer.network import source_network
from tests.nnunet_genesis.importers import foreign_files as foreign

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference"


def build(content: dict) -> torch.nn.Module:
    """The network that a Genesis checkpoint's record describes, with its weights."""
    record, weights = content["genesis"], content["network_weights"]
    configuration = PlansManager(record["plans"]).get_configuration(record["configuration"])
    heads = max(name for name in weights if name.startswith("decoder.seg_layers.") and name.endswith("weight"))
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        content["nnssl_adaptation_plan"]["pretrain_num_input_channels"],
        weights[heads].shape[0],
        deep_supervision=False,
    )
    network.load_state_dict(weights)
    return network.eval()


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference, in units of the output's spread."""
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.std())


def noise(*size: int) -> torch.Tensor:
    return torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def v1() -> dict[str, torch.Tensor]:
    return foreign.random_state(foreign.v1_shapes())


@pytest.fixture(scope="module")
def unet3d() -> dict[str, torch.Tensor]:
    return foreign.random_state(foreign.unet3d_shapes())


@pytest.mark.parametrize(("name", "shapes"), [("nnunet_v1", foreign.v1_shapes), ("unet3d", foreign.unet3d_shapes)])
def test_stand_ins_have_the_published_names_and_shapes(name, shapes):
    file = REFERENCE / f"genesis_{name}_keys.json"
    if not file.is_file():
        pytest.skip(f"no list of the published keys at {file}")
    assert shapes() == json.loads(file.read_text())


@torch.no_grad()
def test_v1_gives_the_same_output(v1):
    imported = nnunet_v1.convert(Source(Path("v1.model"), {"state_dict": v1}), keep_axes=True)
    assert (len(imported.placed), imported.not_placed, len(imported.filled)) == (98, {}, 10)
    assert sum(math.prod(shape) for shape in imported.placed.values()) == 30_785_184
    x = noise(32, 32, 64)
    assert difference(build(imported.checkpoint)(x), foreign.v1_output(v1, x)) < 1e-4
    assert imported.record["axis_order"] == "xyz"
    assert imported.record["patch_size"] == [64, 64, 32]


@torch.no_grad()
def test_unet3d_gives_the_same_output(unet3d):
    state = {f"module.{name}": value for name, value in unet3d.items()}
    imported = genesis_unet3d.convert(Source(Path("ct.pt"), {"state_dict": state}), keep_axes=True)
    assert (len(imported.placed), imported.not_placed, len(imported.filled)) == (106, {}, 4)
    x = noise(32, 32, 16)
    assert difference(build(imported.checkpoint)(x), foreign.unet3d_output(unet3d, x)) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", ["v1", "unet3d"])
def test_reversed_network_sees_the_same_in_a_reversed_image(name, request):
    state, module, output, size = {
        "v1": ("v1", nnunet_v1, foreign.v1_output, (32, 32, 64)),
        "unet3d": ("unet3d", genesis_unet3d, foreign.unet3d_output, (32, 16, 16)),
    }[name]
    state = request.getfixturevalue(state)
    content = module.convert(Source(Path("f"), {"state_dict": state})).checkpoint
    x = noise(*size)
    found = build(content)(x.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    assert difference(found, output(state, x)) < 1e-4
    assert content["genesis"]["axis_order"] == "zyx"
    assert content["genesis"]["patch_size"] == [32, 64, 64]


def test_v1_strides_are_reversed_with_the_axes(v1):
    content = nnunet_v1.convert(Source(Path("f"), {"state_dict": v1})).checkpoint
    configuration = PlansManager(content["genesis"]["plans"]).get_configuration("3d_fullres")
    assert configuration.network_arch_init_kwargs["strides"][-1] == [2, 2, 1]
    assert content["network_weights"]["decoder.transpconvs.0.weight"].shape == (320, 320, 2, 2, 1)


def test_names_that_share_a_tensor_still_do(v1):
    weights = nnunet_v1.convert(Source(Path("f"), {"state_dict": v1})).checkpoint["network_weights"]
    assert len(weights) > 2 * len({value.data_ptr() for value in weights.values()})
    one, other = (f"{prefix}encoder.stages.3.0.convs.1.conv.weight" for prefix in ("", "decoder."))
    assert weights[one].data_ptr() == weights[other].data_ptr()


def test_the_record_says_what_the_weights_saw(v1, unet3d):
    for state, module, mean, std in ((v1, nnunet_v1, -775.8457, 251.9326), (unet3d, genesis_unet3d, -1000, 2000)):
        content = module.convert(Source(Path("a/b.pt"), {"state_dict": state}, "abc")).checkpoint
        record = content["genesis"]
        assert record["normalization"]["schemes"] == ["CTNormalization"]
        expected = {"mean": mean, "std": std, "percentile_00_5": -1000, "percentile_99_5": 1000}
        assert record["normalization"]["foreground_intensity_properties_per_channel"]["0"] == expected
        assert record["spacing"] is None
        source_network(checkpoint.check(content, "f"))
        assert record["data"]["channel_names"] == {"0": "CT"}
        assert (record["imported"]["file"], record["imported"]["sha256"]) == ("b.pt", "abc")
        assert "non-commercial" in record["licence"]
        assert "10.1016/j.media.2020.101840" in record["citations"][0]


def broken(state: dict, name: str, value: object) -> dict:
    """``state`` with ``name`` replaced, or removed where ``value`` is None."""
    changed = {**state, name: value}
    return changed if value is not None else {key: entry for key, entry in state.items() if key != name}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, r"expected a tensor 'KEY' of shape \[.*\], found none"),
        (torch.zeros(2, 2, 3, 3, 3), r"'KEY' of shape \[.*\], found \[2, 2, 3, 3, 3\]"),
        (torch.zeros(2, 2), r"'KEY' of shape \[.*\], found \[2, 2\]"),
        (torch.full((1,), float("nan")), r"'KEY' holds values that are not finite"),
        (torch.full((1,), -float("inf")), r"'KEY' holds values that are not finite"),
        ("text", r"'KEY' is a str"),
        (torch.zeros(1).expand(10**6, 10**6), r"'KEY' claims the shape \[1000000, 1000000\] but holds 4 bytes"),
        (torch.zeros(3).to_sparse(), r"'KEY' is a sparse"),
        (torch.zeros(3, device="meta"), r"'KEY' is a tensor without values"),
    ],
)
@pytest.mark.parametrize("form", ["v1", "unet3d"])
def test_what_is_wrong_is_named(form, value, found, request, tmp_path):
    key, module = {
        "v1": ("conv_blocks_context.5.1.blocks.0.conv.weight", nnunet_v1),
        "unet3d": ("up_tr128.ops.1.conv1.weight", genesis_unet3d),
    }[form]
    state = broken(request.getfixturevalue(form), key, value)
    with pytest.raises(GenesisError, match=found.replace("KEY", key)) as error:
        module.convert(Source(tmp_path / "f.pt", {"state_dict": state}))
    assert str(error.value).startswith(f"{tmp_path / 'f.pt'}: ")


def test_the_message_names_the_files_own_key_and_shape(v1):
    for key in ("tu.0.weight", "seg_outputs.4.weight", "conv_blocks_localization.2.1.blocks.0.instnorm.bias"):
        with pytest.raises(GenesisError, match=f"expected a tensor '{key}'"):
            nnunet_v1.convert(Source(Path("f"), {"state_dict": broken(v1, key, None)}))
    assert nnunet_v1.v1_name("decoder.transpconvs.0.weight") == "tu.0.weight"


def test_unknown_tensors_are_reported_and_left_out(v1):
    imported = nnunet_v1.convert(Source(Path("f"), {"state_dict": {**v1, "extra.weight": torch.zeros(3)}}))
    assert imported.not_placed == {"extra.weight": "unknown to this format"}
    assert len(imported.placed) == 98


@pytest.mark.parametrize("legacy", [True, False])
def test_a_file_is_recognised_and_identified(legacy, unet3d, tmp_path):
    state = {f"module.{name}": value for name, value in unet3d.items()}
    content = {"epoch": 5, "state_dict": state, "optimizer_state_dict": {}}
    torch.save(content, tmp_path / "ct.pt", _use_new_zipfile_serialization=not legacy)
    found = importers.convert(tmp_path / "ct.pt").checkpoint
    assert found["genesis"]["imported"]["format"] == "genesis_unet3d"
    assert len(found["genesis"]["imported"]["sha256"]) == 64
    checkpoint.check(found, "f")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"network_weights": {}, "genesis": {}, "nnssl_adaptation_plan": {}, "init_args": {}}, "genesis"),
        ({"network_weights": {}, "nnssl_adaptation_plan": {}, "init_args": {}}, "nnssl"),
        ({"network_weights": {}, "init_args": {}}, "nnunet_v2"),
        ({"network_weights": {}}, None),
        ({"state_dict": {"module.conv_blocks_context.0.blocks.0.conv.weight": 0}}, "nnunet_v1"),
        ({"state_dict": {"module.down_tr64.ops.0.conv1.weight": 0}}, "genesis_unet3d"),
        ({"depth_0_conv/kernel": 0}, "keras"),
        ({"state_dict": {3: 0}}, None),
        ({"weights": {}}, None),
    ],
)
def test_detection(content, expected):
    assert importers.detect(content) == expected


def test_a_file_of_no_known_format(tmp_path):
    torch.save({"weights": {}, 3: 4}, tmp_path / "f.pth")
    with pytest.raises(GenesisError, match=r"f\.pth: expected weights in one of .*nnssl.*, found the keys weights, 3"):
        importers.convert(tmp_path / "f.pth")
