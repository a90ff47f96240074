"""Loaded kernels, scaled so that what they hand to their instance norm has unit variance.

AdamW leaves pretrained kernels with outputs of a standard deviation of 3 to 13, where nnU-Net's initialisation gives
0.7 to 0.8 (hippocampus, examples/results/LOG.md). An instance norm hides that from the next layer but divides the
kernel's gradient by it, and SGD, at the rate of a fresh network, then hardly moves the kernel. The scaled network
computes the same, up to the norm's epsilon.
Unit variance of each layer's output at the start: Mishkin and Matas, All you need is a good init, ICLR 2016.
"""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import nn

LEAST_VARIANCE = 1e-3  # below it a channel is as good as constant, and the norm's epsilon would show


@torch.no_grad()
def scale_to_unit_variance(network: nn.Module, loaded: Collection[str], batches: Iterable[torch.Tensor]) -> int:
    """Scale output channels of the ``loaded`` convolutions that an instance norm follows, in place; return how many.

    Args:
        network: any of nnU-Net's.
        loaded: names of parameters.
        batches: inputs, (batch, channels, z, y, x), on the network's device.
    """
    variances: dict[Any, list[torch.Tensor]] = {
        module.conv: []
        for name, module in network.named_modules()
        if isinstance(module, ConvDropoutNormReLU)
        and f"{name}.conv.weight" in loaded
        and isinstance(getattr(module, "norm", None), nn.InstanceNorm3d)
    }
    if not variances:  # no batch needs to be made
        return 0

    def note(convolution: nn.Module, _: Any, output: torch.Tensor) -> None:
        # per image, as the norm sees it
        variances[convolution].append(output.float().flatten(2).var(2, correction=0).mean(0))

    hooks = [convolution.register_forward_hook(note) for convolution in variances]
    for batch in batches:
        network(batch)
    for hook in hooks:
        hook.remove()
    for convolution, found in variances.items():
        variance = torch.stack(found).mean(0)
        scale = torch.where(variance > LEAST_VARIANCE, variance.rsqrt(), 1.0)
        convolution.weight *= scale.view(-1, 1, 1, 1, 1)
        if convolution.bias is not None:
            convolution.bias *= scale
    return len(variances)
