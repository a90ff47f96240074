"""The original Genesis 3D U-Net: shapes, arithmetic against a plain reference, names, input map."""

import copy
import json
import pydoc
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.abstract_arch import test_submodules_loadable as submodules_loadable
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch.nn import functional

from nnunet_genesis.architectures import GenesisUNet3D
from nnunet_genesis.architectures.genesis_unet3d import KERNEL_SIZES, STRIDES, planned_map
from nnunet_genesis.errors import GenesisError

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference" / "genesis_unet3d_keys.json"
PUBLISHED_PARAMETERS = 19_073_665
NARROW = (4, 8, 16, 32)


def narrow(seed: int = 0, channels: int = 1, classes: int = 2, **kwargs) -> GenesisUNet3D:
    """A narrow network; norms and biases are random too, so that the reference is tested on them."""
    torch.manual_seed(seed)
    network = GenesisUNet3D(channels, classes, NARROW, **kwargs)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, -1, 1)
    return network


@pytest.fixture(scope="module")
def published() -> GenesisUNet3D:
    with torch.device("meta"):
        return GenesisUNet3D(1, 1)


def reference_forward(state: dict[str, torch.Tensor], x: torch.Tensor, eps: float) -> list[torch.Tensor]:
    """The published network from its description alone; outputs of the decoder's levels, highest resolution first."""

    def pair(x: torch.Tensor, prefix: str) -> torch.Tensor:
        for index in (0, 1):
            name = f"{prefix}.convs.{index}"
            x = functional.conv3d(x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], padding=1)
            norm = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
            x = functional.relu(functional.batch_norm(x, None, None, *norm, training=True, eps=eps))
        return x

    levels = [pair(x, "encoder.stages.0.0")]
    for stage in (1, 2, 3):
        levels.append(pair(functional.max_pool3d(levels[-1], 2), f"encoder.stages.{stage}.0"))
    x, outputs = levels.pop(), []
    for level in (0, 1, 2):
        up = (state[f"decoder.transpconvs.{level}.{kind}"] for kind in ("weight", "bias"))
        x = pair(torch.cat([functional.conv_transpose3d(x, *up, stride=2), levels.pop()], 1), f"decoder.stages.{level}")
        head = (state[f"decoder.seg_layers.{level}.{kind}"] for kind in ("weight", "bias"))
        outputs.insert(0, functional.conv3d(x, *head))
    return outputs


def test_as_many_parameters_as_published(published):
    unused_heads = published.decoder.seg_layers[:-1].parameters()
    count = sum(p.numel() for p in published.parameters()) - sum(p.numel() for p in unused_heads)
    assert count == PUBLISHED_PARAMETERS


def our_name(key: str) -> str:
    """Our name of a tensor in the published file (the prefix ``module.`` removed)."""
    block, rest = key.split(".", 1)
    stages = {f"down_tr{64 * 2**s}": f"encoder.stages.{s}.0." for s in range(4)}
    stages |= {f"up_tr{256 // 2**d}": f"decoder.stages.{d}." for d in range(3)}
    rest = rest.replace("ops.", "convs.").replace("conv1", "conv").replace("bn1", "norm")
    if rest.startswith("up_conv."):
        return stages[block].replace("stages", "transpconvs") + rest.removeprefix("up_conv.")
    return rest.replace("final_conv", "decoder.seg_layers.2") if block == "out_tr" else stages[block] + rest


def test_every_tensor_of_the_published_file_has_a_place(published):
    if not REFERENCE.is_file():
        pytest.skip(f"no list of the published file's tensors at {REFERENCE}")
    shapes = {our_name(key): tuple(shape) for key, shape in json.loads(REFERENCE.read_text()).items()}
    state = {name: tuple(value.shape) for name, value in published.state_dict().items()}
    assert len(shapes) == 106
    assert {name: state.get(name) for name in shapes} == shapes
    parameters = set(dict(published.named_parameters()))
    assert parameters - set(shapes) == {f"decoder.seg_layers.{d}.{k}" for d in (0, 1) for k in ("weight", "bias")}


@pytest.mark.parametrize(("eps", "shape"), [(1e-5, (2, 1, 16, 24, 8)), (1e-3, (1, 2, 16, 16, 16))])
def test_forward_is_the_published_description(eps, shape):
    network, x = narrow(channels=shape[1], norm_eps=eps), torch.randn(shape)
    expected = reference_forward(network.state_dict(), x, eps)
    torch.testing.assert_close(network(x), expected[0], rtol=1e-4, atol=1e-4)
    network.decoder.deep_supervision = True  # as nnU-Net's trainer switches it
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_evaluation_uses_the_statistics_of_the_batch():
    network, x = narrow(), 5 + 3 * torch.randn(2, 1, 8, 8, 16)
    training = network.train()(x)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    torch.testing.assert_close(network.eval()(x), training)
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())


def test_ddp_does_not_bring_running_statistics_in():
    network, x = narrow(), torch.randn(2, 1, 8, 8, 16)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    torch.testing.assert_close(converted.eval()(x), network(x))


def test_deep_supervision_gives_highest_resolution_first():
    outputs = narrow(classes=3, deep_supervision=True)(torch.randn(2, 1, 16, 24, 8))
    assert [tuple(output.shape[:2]) for output in outputs] == [(2, 3)] * 3
    assert [tuple(output.shape[2:]) for output in outputs] == [(16, 24, 8), (8, 12, 4), (4, 6, 2)]


@pytest.mark.parametrize("shape", [(16, 16, 12), (4, 8, 8)])
def test_patch_that_is_not_divisible_by_8(shape):
    with pytest.raises(GenesisError, match=rf"patch size \[{', '.join(map(str, shape))}\].*divisible by 8"):
        narrow()(torch.randn(1, 1, *shape))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n_stages", 5),
        ("strides", [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]),
        ("kernel_sizes", [[1, 3, 3]] * 4),
        ("features_per_stage", [64, 128, 256]),
        ("features_per_stage", [63, 128, 256, 512]),
    ],
)
def test_another_network_is_refused(argument, value):
    with pytest.raises(GenesisError, match=f"architecture argument {argument} is .* expected"):
        GenesisUNet3D(1, 1, **{argument: value})


def test_nnunet_builds_it_from_json():
    kwargs = {"features_per_stage": NARROW, "strides": STRIDES, "kernel_sizes": KERNEL_SIZES, "n_stages": 4}
    kwargs |= {"norm_eps": 1e-3, "input_scale": [0.5], "input_shift": [0.25]}
    name = "nnunet_genesis.architectures.GenesisUNet3D"
    network = get_network_from_plans(name, json.loads(json.dumps(kwargs)), [], 1, 3, deep_supervision=True)
    assert type(network) is pydoc.locate(name)
    assert network.encoder.stages[0][0].convs[0].norm.eps == 1e-3
    assert torch.equal(network.encoder.stages[0][0].convs[0].conv.bias, torch.zeros(2))  # nnU-Net's initialisation
    submodules_loadable(network)


def test_feature_map_size_counts_every_convolutions_output(published):
    network, elements = narrow(), []
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv3d, torch.nn.ConvTranspose3d)):
            module.register_forward_hook(lambda _m, _i, output: elements.append(output.numel()))
    network(torch.randn(1, 1, 16, 8, 24))
    assert network.compute_conv_feature_map_size((16, 8, 24)) == sum(elements)
    assert published.compute_conv_feature_map_size((128, 64, 64)) == 464.5 * 128 * 64 * 64


def test_hounsfield_units_reach_the_network_in_0_1():
    properties = {"mean": 99.4, "std": 35.3, "percentile_00_5": -990.0, "percentile_99_5": 1200.0}
    hu = torch.linspace(-1024, 1500, 512).reshape(1, 8, 8, 8)
    normalised = torch.from_numpy(CTNormalization(False, properties).run(hu.numpy().copy()))
    scale, shift = planned_map("CTNormalization", properties)
    seen = narrow(input_scale=[scale], input_shift=[shift]).input_map(normalised[None])
    expected = (hu.clamp(-990, 1000) + 1000) / 2000
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-6)


def test_channels_are_mapped_each_by_itself_and_further_ones_left_alone():
    network = narrow(channels=3, input_scale=[0.5, 2.0], input_shift=[0.5, 0.0])
    x = torch.tensor([0.5, 0.25, 1.0]).reshape(1, 3, 1, 1, 1)
    np.testing.assert_allclose(network.input_map(x).flatten(), [0.75, 0.5, 1.0])


def test_without_a_map_nothing_is_clipped():
    x = torch.tensor([-3.0, 5.0]).reshape(1, 1, 1, 1, 2)
    assert network_input_is(narrow(), x, x)


def test_the_map_is_not_in_the_state_dict():
    plain, mapped = narrow(0), narrow(1, input_scale=[0.5], input_shift=[0.5])
    mapped.load_state_dict(plain.state_dict())  # strict: the names are the same
    x = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(mapped(x), plain((0.5 * x + 0.5).clamp(0, 1)))
    assert network_input_is(copy.deepcopy(mapped), torch.full((1, 1, 1, 1, 1), 0.5), torch.tensor(0.75))


def network_input_is(network: GenesisUNet3D, x: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(network.input_map(x), expected.expand_as(x))


@pytest.mark.parametrize(("scale", "shift"), [([1.0], None), ([1.0, 1.0], [0.0]), ([1.0] * 3, [0.0] * 3)])
def test_a_map_that_fits_no_channels(scale, shift):
    with pytest.raises(GenesisError, match="input_scale and input_shift for each of the 2 input channels"):
        narrow(channels=2, input_scale=scale, input_shift=shift)


@pytest.mark.parametrize(
    ("scheme", "values", "expected"),
    [
        ("ZScoreNormalization", (-3.0, 6.0), (0.0, 1.0)),
        ("RescaleTo01Normalization", (0.0, 1.0), (0.0, 1.0)),
        ("RGBTo01Normalization", (0.0, 1.0), (0.0, 1.0)),
    ],
)
def test_planned_maps_reach_0_1(scheme, values, expected):
    scale, shift = planned_map(scheme, {})
    np.testing.assert_allclose([value * scale + shift for value in values], expected, atol=1e-12)


def test_unknown_range_is_refused():
    with pytest.raises(GenesisError, match=r"NoNormalization, of which the range is unknown.*rescale_to_0_1"):
        planned_map("NoNormalization", {})


@pytest.mark.parametrize("dynamic", [False, None])
def test_it_compiles(dynamic):
    network, x = narrow(input_scale=[0.5], input_shift=[0.5], deep_supervision=True), torch.randn(1, 1, 16, 16, 16)
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=dynamic)
    torch.testing.assert_close(compiled(x), network(x))
    torch.testing.assert_close(compiled(x[..., :8]), network(x[..., :8]))


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_gradients_reach_every_parameter_in_use(deep_supervision):
    network = narrow(deep_supervision=deep_supervision)
    outputs = network(torch.randn(2, 1, 16, 16, 16))
    sum(output.square().mean() for output in (outputs if deep_supervision else [outputs])).backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    heads = {f"decoder.seg_layers.{d}.{kind}" for d in (0, 1) for kind in ("weight", "bias")}
    assert without == (set() if deep_supervision else heads)
