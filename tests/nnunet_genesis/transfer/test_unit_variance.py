"""Scaling loaded kernels to unit variance changes how a network learns, not what it computes."""

import pytest
import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU

from nnunet_genesis.transfer.unit_variance import scale_to_unit_variance
from tests.nnunet_genesis import networks


def outputs_of_convolutions(network: torch.nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    blocks = {name: m for name, m in network.named_modules() if isinstance(m, ConvDropoutNormReLU)}
    hooks = [
        block.conv.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
        for name, block in blocks.items()
    ]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("residual", [False, True])
def test_outputs_stay_and_loaded_layers_get_unit_variance(residual):
    network, image = networks.network(3, residual=residual), torch.rand(2, 1, 16, 16, 16)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("conv.weight"):
                value *= 40
    loaded = {name for name, _ in network.named_parameters() if name.startswith("encoder")}
    expected, before = network(image), outputs_of_convolutions(network, image)
    number = scale_to_unit_variance(network, loaded, [image])
    after = outputs_of_convolutions(network, image)
    inside = [name for name in after if name.startswith("encoder")]
    assert 0 < number == len(inside) < len(after)
    for name in inside:
        variance = after[name].flatten(2).var(2, correction=0).mean(0)
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=1e-4)
    for name in set(after) - set(inside):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-3 * before[name].abs().max().item())
    torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def test_gradients_grow_as_kernels_shrink():
    image, gradients = torch.rand(2, 1, 16, 16, 16), []
    for scaled in (False, True):
        network = networks.network(3)
        kernel = network.encoder.stages[1][0].convs[0].conv.weight
        with torch.no_grad():
            kernel *= 10
        length = kernel.norm().item()
        scale_to_unit_variance(network, {"encoder.stages.1.0.convs.0.conv.weight"} if scaled else (), [image])
        network(image).square().sum().backward()
        gradients.append((length / kernel.norm().item(), kernel.grad.norm().item()))
    (_, before), (shrunk, after) = gradients
    assert shrunk > 5
    assert after / before == pytest.approx(shrunk, rel=0.5)


def test_constant_channels_and_layers_without_instance_norm_are_left():
    network, image = networks.network(3), torch.rand(1, 1, 16, 16, 16)
    first, second = (block.conv.weight for block in network.encoder.stages[0][0].convs)
    with torch.no_grad():
        first[0] = 0
    network.encoder.stages[0][0].convs[1].norm = torch.nn.BatchNorm3d(len(second))
    kept = second.clone()
    names = {f"encoder.stages.0.0.convs.{i}.conv.weight" for i in (0, 1)}
    assert scale_to_unit_variance(network, names, [image]) == 1
    assert not first[0].any()
    assert torch.isfinite(first).all()
    assert torch.equal(second, kept)


def test_where_nothing_is_scaled_no_batch_is_made():
    assert scale_to_unit_variance(networks.network(2), (), (pytest.fail("made") for _ in range(4))) == 0
