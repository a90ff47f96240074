"""The number format follows from the hardware, and on a CPU it is correct."""

import itertools

import pytest
import torch
from torch import nn

from nnunet_genesis.training import precision
from tests.nnunet_genesis import networks

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_the_hardware_decides(monkeypatch, has_bf16, chosen):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    assert {precision.choose_precision(CPU) for _ in range(20)} == {chosen}
    assert precision.choose_precision(torch.device("mps")) == "fp32"


@pytest.mark.parametrize("given", precision.PRECISIONS[1:])
def test_what_is_given_is_kept(given):
    assert precision.choose_precision(CPU, given) == given


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_a_network_computes_in_bf16_and_gives_fp32(deep_supervision):
    network, image, inside = networks.network(3), torch.rand(1, 1, 16, 16, 16), []
    network.decoder.deep_supervision = deep_supervision
    expected = network(image)
    network.encoder.stages[0].register_forward_hook(lambda *call: inside.append(call[2].dtype))
    before = list(network.state_dict())
    precision.forward_in(network, "bf16")
    found = network(image)
    assert inside[0] is torch.bfloat16
    assert list(network.state_dict()) == before
    for one, other in zip(*((o if deep_supervision else [o]) for o in (found, expected)), strict=True):
        assert one.dtype is torch.float32
        assert 0 < (one - other).abs().max() < 0.1 * other.abs().max()


def test_only_3d_kernels_have_a_memory_format():
    network = networks.network(2)
    network.register_buffer("map", torch.ones(1, 1, 1, 1))
    precision.move(network, CPU, "channels_last")
    kernel = network.encoder.stages[1][0].convs[1].conv.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)
    assert not kernel.is_contiguous()


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "small"),
    [
        ((3, 3, 3), 1, (2, 4, 4), True),  # wrong in torch 2.14.1
        ((3, 3, 3), 1, (3, 4, 4), False),
        ((3, 3, 3), 2, (8, 6, 2), True),  # output 4×3×1
        ((3, 3, 3), 2, (5, 5, 5), False),
        ((1, 3, 3), 1, (1, 4, 4), False),
        ((1, 3, 3), 1, (4, 4, 2), True),
        ((1, 1, 1), 1, (1, 1, 1), False),
    ],
)
def test_a_kernel_longer_than_its_output_is_a_small_map(kernel, stride, size, small):
    network = nn.Sequential(nn.Conv3d(2, 3, kernel, stride, [length // 2 for length in kernel]))
    assert precision.small_maps(network, (2, 2, *size)) == ["0"] * small


def test_a_transposed_convolution_of_one_voxel_is_a_small_map():
    network = nn.Sequential(nn.ConvTranspose3d(2, 3, (1, 2, 2), (1, 2, 2)))
    assert precision.small_maps(network, (2, 2, 1, 4, 1)) == ["0"]
    assert precision.small_maps(network, (2, 2, 1, 4, 4)) == []


def test_the_networks_own_maps_decide_and_it_stays_as_it_is():
    network = networks.network(3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert precision.small_maps(network, (2, 1, 16, 16, 16)) == []
    deepest = precision.small_maps(network, (2, 1, 8, 16, 16))  # strides 2, 2: depth 2 in the last stage
    assert deepest
    assert all(name.startswith("encoder.stages.2.") for name in deepest)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_small_maps_compute_in_fp32_and_others_in_bf16():
    network, dtypes, image = networks.network(3), {}, torch.rand(2, 1, 8, 16, 16)
    keys = list(network.state_dict())
    for _ in range(2):
        kept = precision.keep_small_maps_in_fp32(network, image.shape)
    kinds = (nn.Conv3d, nn.ConvTranspose3d)
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    for name, convolution in convolutions.items():
        convolution.register_forward_hook(lambda *call, name=name: dtypes.update({name: call[2].dtype}))
    precision.forward_in(network, "bf16")
    outputs = network(image)
    sum(output.mean() for output in outputs).backward()
    assert {name for name, dtype in dtypes.items() if dtype is torch.float32} == set(kept)
    assert {dtype for name, dtype in dtypes.items() if name not in kept} == {torch.bfloat16}
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())
    assert list(network.state_dict()) == keys


def test_the_log_names_what_is_kept_in_fp32():
    assert precision.in_words("bf16", []) == "Number format: bf16"
    assert "2 convolution(s), a.conv, b.conv" in precision.in_words("bf16", ["a.conv", "b.conv"])


def _worst(network: nn.Module, image: torch.Tensor) -> float:
    """Largest error of output and gradients in bf16, relative to fp32's largest value, of five tries."""
    of = [image.requires_grad_(), *network.parameters()]
    expected = network(image)
    towards = torch.randn_like(expected) * 1e-3
    expected_gradients = torch.autograd.grad(expected, of, towards)
    kept = precision.keep_small_maps_in_fp32(network, image.shape)  # the only convolution: tries don't differ then
    worst = 0.0
    for _ in range(1 if kept else 5):
        for exponent in range(12, 23):  # freed memory that is not overwritten shows as NaN
            torch.full((1 << exponent,), torch.nan)
        with precision.autocast(CPU, "bf16"):
            output = network(image)
        gradients = torch.autograd.grad(output, of, towards.to(output.dtype))
        for found, right in zip((output, *gradients), (expected, *expected_gradients), strict=True):
            error = float((found.float() - right).abs().max() / right.abs().max())
            worst = max(worst, error if error == error else torch.inf)
    return worst


@pytest.mark.skipif(not precision.cpu_has_bf16(), reason="this CPU has no bf16")
@pytest.mark.parametrize("channels", [(1, 32), (32, 48), (320, 320)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), "transposed"])
def test_gradients_in_bf16_are_right_for_all_small_shapes(kernel, channels):
    torch.manual_seed(0)
    wrong = {}
    for depth, edge, stride in itertools.product((1, 2, 3, 4, 5), (1, 2, 3, 4, 6), ((1, 1, 1), (2, 2, 2), (1, 2, 2))):
        if kernel == "transposed":
            network = nn.Sequential(nn.ConvTranspose3d(*channels, stride, stride))
        else:
            network = nn.Sequential(nn.Conv3d(*channels, kernel, stride, [length // 2 for length in kernel]))
        if (error := _worst(network, torch.randn(2, channels[0], depth, edge, edge))) > 0.05:
            wrong[depth, edge, stride] = error
    assert not wrong
