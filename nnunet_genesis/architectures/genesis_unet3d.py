"""The original Models Genesis 3D U-Net, as an architecture that nnU-Net builds from plans.

Written from the published description and the shapes of the published weights (Zhou et al., 2021).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

from nnunet_genesis.architectures.batch_statistics_norm import BatchStatisticsNorm
from nnunet_genesis.architectures.input_map import InputMap
from nnunet_genesis.errors import GenesisError

PUBLISHED_FEATURES = (64, 128, 256, 512)  # after each level's second convolution; its first one has half of them
STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
KERNEL_SIZES = ((3, 3, 3),) * 4
DIVISOR = 8  # three max-poolings of 2


class GenesisUNet3D(AbstractDynamicNetworkArchitectures):
    """U-Net of four levels: two 3³ convolutions each, batch norm on the batch's statistics, ReLU, max-pooling.

    Input (B, C, Z, Y, X) in nnU-Net's normalised intensities, each axis divisible by 8; output logits
    (B, num_classes, Z, Y, X), or with deep supervision a list of three, highest resolution first. 19,073,665 parameters
    with one channel in and out, the heads of deep supervision not counted.

    Args:
        input_channels: C.
        num_classes: output channels.
        features_per_stage: channels after each level's second convolution; even numbers.
        deep_supervision: give an output for every level of the decoder.
        norm_eps: epsilon of the batch norms; 1e-3 for the Keras weights.
        input_scale: per channel, what maps the input to [0, 1]: see :class:`InputMap`. None: the input stays as it is.
        input_shift: likewise; both or neither.
        n_stages: must be 4: it and the next two are in the plans because nnU-Net reads them there.
        strides: must be 1, then 2 three times.
        kernel_sizes: must be 3 everywhere.

    Raises:
        GenesisError: an argument asks for another network than this one.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features_per_stage: Sequence[int] = PUBLISHED_FEATURES,
        deep_supervision: bool = False,
        norm_eps: float = 1e-5,
        input_scale: Sequence[float] | None = None,
        input_shift: Sequence[float] | None = None,
        n_stages: int = 4,
        strides: Sequence[Sequence[int]] = STRIDES,
        kernel_sizes: Sequence[Sequence[int]] = KERNEL_SIZES,
    ):
        super().__init__()
        _check_arguments(features_per_stage, n_stages, strides, kernel_sizes)
        self.key_to_encoder = "encoder.stages"
        self.key_to_stem = "encoder.stages.0"
        self.keys_to_in_proj = ("encoder.stages.0.0.convs.0.all_modules.0", "encoder.stages.0.0.convs.0.conv")
        self.input_map = InputMap(input_channels, input_scale, input_shift)
        self.encoder = GenesisEncoder(input_channels, features_per_stage, norm_eps)
        self.decoder = GenesisDecoder(self.encoder, num_classes, deep_supervision)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits of (B, C, Z, Y, X).

        Raises:
            GenesisError: an axis isn't divisible by 8.
        """
        if any(length % DIVISOR for length in x.shape[2:]):
            raise GenesisError(
                f"GenesisUNet3D: patch size {list(x.shape[2:])} can't be halved three times; expected every axis "
                f"divisible by {DIVISOR}. Correct patch_size in the plans, or plan with nnUNetv2_genesis_plan."
            )
        return self.decoder(self.encoder(self.input_map(x)))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Elements of all convolutions' outputs for a patch (Z, Y, X): nnU-Net's measure of GPU memory."""
        return sum(part.compute_conv_feature_map_size(input_size) for part in (self.encoder, self.decoder))

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """He initialisation, for ReLU; nnU-Net applies it to every module."""
        InitWeights_He(0)(module)


class GenesisEncoder(nn.Module):
    """Four levels of two convolutions with max-pooling between them; the bottleneck is the last.

    The names are those of nnU-Net's encoder with strided convolutions, so that their stages can be matched; pooling is
    therefore done between the stages instead of within. The attributes are what :class:`UNetDecoder` reads.
    """

    stages: Any

    def __init__(self, input_channels: int, features: Sequence[int], norm_eps: float):
        super().__init__()
        self.output_channels = list(features)
        self.strides, self.kernel_sizes = [list(stride) for stride in STRIDES], [list(size) for size in KERNEL_SIZES]
        self.conv_op, self.conv_bias = nn.Conv3d, True
        self.norm_op, self.norm_op_kwargs = BatchStatisticsNorm, {"eps": norm_eps}
        self.nonlin, self.nonlin_kwargs = nn.ReLU, {"inplace": True}
        self.dropout_op, self.dropout_op_kwargs = None, None
        widths = pairwise([input_channels, *features])
        self.stages = nn.Sequential(*(nn.Sequential(conv_pair(self, i, (o // 2, o))) for i, o in widths))
        self.pool = nn.MaxPool3d(2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of all levels, full resolution first."""
        outputs: list[torch.Tensor] = []
        for stage in self.stages:
            outputs.append(stage(self.pool(outputs[-1]) if outputs else x))
        return outputs

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """As the network's."""
        total, size = 0, list(input_size)
        for (convolutions,) in self.stages:
            total += convolutions.compute_conv_feature_map_size(size)
            size = [length // 2 for length in size]
        return total


class GenesisDecoder(UNetDecoder):
    """nnU-Net's decoder, but the transposed convolutions keep the channels, and the convolutions after them reduce."""

    def __init__(self, encoder: GenesisEncoder, num_classes: int, deep_supervision: bool):
        super().__init__(encoder, num_classes, 2, deep_supervision)
        channels = encoder.output_channels[::-1]
        for level, (below, skip) in enumerate(pairwise(channels)):
            self.transpconvs[level] = nn.ConvTranspose3d(below, below, 2, 2)
            self.stages[level] = conv_pair(encoder, below + skip, (skip, skip))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """As the network's."""
        channels = self.encoder.output_channels
        wider = [
            (below - skip) * np.prod([length // 2**level for length in input_size], dtype=np.int64)
            for level, (skip, below) in enumerate(pairwise(channels))
        ]
        return super().compute_conv_feature_map_size(input_size) + sum(wider)


def conv_pair(encoder: GenesisEncoder, inputs: int, outputs: tuple[int, int]) -> Any:
    """Two 3³ convolutions, each with the encoder's norm and nonlinearity."""
    return StackedConvBlocks(
        2, encoder.conv_op, inputs, outputs, 3, 1, encoder.conv_bias, encoder.norm_op, encoder.norm_op_kwargs,
        nonlin=encoder.nonlin, nonlin_kwargs=encoder.nonlin_kwargs,
    )  # fmt: skip


def _check_arguments(
    features: Sequence[int], n_stages: int, strides: Sequence[Sequence[int]], kernel_sizes: Sequence[Sequence[int]]
) -> None:
    even = len(features) == len(STRIDES) and all(number > 0 and number % 2 == 0 for number in features)
    expected = {
        "n_stages": (n_stages, len(STRIDES), n_stages == len(STRIDES)),
        "strides": (strides, STRIDES, tuple(map(tuple, strides)) == STRIDES),
        "kernel_sizes": (kernel_sizes, KERNEL_SIZES, tuple(map(tuple, kernel_sizes)) == KERNEL_SIZES),
        "features_per_stage": (features, "four even numbers above 0", even),
    }
    for name, (found, wanted, holds) in expected.items():
        if not holds:
            raise GenesisError(
                f"GenesisUNet3D: architecture argument {name} is {found}, expected {wanted}. The published weights fix "
                "this network; make plans for it with nnUNetv2_genesis_plan, and change features_per_stage only."
            )
