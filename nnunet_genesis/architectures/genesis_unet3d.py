"""The original Models Genesis 3D U-Net, as an architecture that nnU-Net builds from plans.

Written from the published description and the shapes of the published weights (Zhou et al., 2021).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn
from torch.nn import functional

from nnunet_genesis.checkpoint.architecture import GENESIS
from nnunet_genesis.errors import GenesisError

PUBLISHED_FEATURES = (64, 128, 256, 512)  # after each level's second convolution; its first one has half of them
STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
KERNEL_SIZES = ((3, 3, 3),) * 4
DIVISOR = 8  # three max-poolings of 2

# Published: Hounsfield units clipped to ±1000 and mapped to [0, 1] (Zhou et al., 2021).
LOWEST_HU, HIGHEST_HU = -1000.0, 1000.0

# In standard deviations from the mean. Percentiles 0.1 and 99.9 of z-scored MRs, measured: 260 hippocampi (nnU-Net's
# preprocessed cases) −2.58 … −1.85 and 1.71 … 7.66, median −2.16 and 2.28, 95 % of the cases below 5.54; 60 ACDC cases
# −1.50 … −0.77 and 2.91 … 6.69; 4 whole heads −0.95 … −0.67 and 2.97 … 4.44, of their nonzero voxels alone down to
# −3.07 and up to 5.71; 4 BraTS channels inside the brain −3.08 … −2.42 and 3.16 … 4.59. (0.5 and 99.5: −3.02 and 4.72
# at the most.) Wide is safe: the batch norm after the first convolution takes the map's scale and shift out again.
ZSCORE_WINDOW = (-3.0, 6.0)


def architecture(features: Sequence[int] = PUBLISHED_FEATURES, norm_eps: float = 1e-5) -> dict[str, Any]:
    """Describe the network for nnU-Net's plans; it is the same for any order of the axes.

    Args:
        features: channels after each level's second convolution.
        norm_eps: epsilon of the norms.
    """
    return {
        "network_class_name": GENESIS,
        "arch_kwargs": {
            "n_stages": len(STRIDES),
            "features_per_stage": list(features),
            "kernel_sizes": [list(size) for size in KERNEL_SIZES],
            "strides": [list(stride) for stride in STRIDES],
            "norm_eps": norm_eps,
        },
        "_kw_requires_import": [],
    }


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
        input_scale: per channel, what maps the input to [0, 1]: see :class:`InputMap`.
        input_shift: likewise.
        n_stages: in the plans because nnU-Net reads it there, as the next two, but fixed.
        strides: likewise.
        kernel_sizes: likewise.

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
        even = len(features_per_stage) == len(STRIDES) and all(n > 0 and n % 2 == 0 for n in features_per_stage)
        _check("n_stages", n_stages, len(STRIDES), n_stages == len(STRIDES))
        _check("strides", strides, STRIDES, tuple(map(tuple, strides)) == STRIDES)
        _check("kernel_sizes", kernel_sizes, KERNEL_SIZES, tuple(map(tuple, kernel_sizes)) == KERNEL_SIZES)
        _check("features_per_stage", features_per_stage, "four even numbers above 0", even)
        self.key_to_encoder = "encoder.stages"
        self.key_to_stem = "encoder.stages.0"
        self.keys_to_in_proj = ("encoder.stages.0.0.convs.0.all_modules.0", "encoder.stages.0.0.convs.0.conv")
        self.input_map = InputMap(input_channels, input_scale, input_shift)
        self.encoder = GenesisEncoder(input_channels, features_per_stage, norm_eps)
        self.decoder = GenesisDecoder(self.encoder, num_classes, deep_supervision)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Compute the logits of (B, C, Z, Y, X).

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
        """Count the elements of all convolutions' outputs for a patch (Z, Y, X): nnU-Net's measure of GPU memory."""
        return sum(part.compute_conv_feature_map_size(input_size) for part in (self.encoder, self.decoder))

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise as He, for ReLU; nnU-Net applies it to every module."""
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
        """Return the outputs of all levels, full resolution first."""
        outputs: list[torch.Tensor] = []
        for stage in self.stages:
            outputs.append(stage(self.pool(outputs[-1]) if outputs else x))
        return outputs

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Count as the network does."""
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
        channels = self.encoder.output_channels
        wider = [
            (below - skip) * np.prod([length // 2**level for length in input_size], dtype=np.int64)
            for level, (skip, below) in enumerate(pairwise(channels))
        ]
        return super().compute_conv_feature_map_size(input_size) + sum(wider)


def conv_pair(encoder: GenesisEncoder, inputs: int, outputs: tuple[int, int]) -> Any:
    """Make two 3³ convolutions, each with the encoder's norm and nonlinearity."""
    return StackedConvBlocks(
        2, encoder.conv_op, inputs, outputs, 3, 1, encoder.conv_bias, encoder.norm_op, encoder.norm_op_kwargs,
        nonlin=encoder.nonlin, nonlin_kwargs=encoder.nonlin_kwargs,
    )  # fmt: skip


def _check(name: str, found: Any, wanted: Any, holds: bool) -> None:
    if not holds:
        raise GenesisError(
            f"GenesisUNet3D: architecture argument {name} is {found}, expected {wanted}. The published weights fix "
            "this network; make plans for it with nnUNetv2_genesis_plan, and change features_per_stage only."
        )


class BatchStatisticsNorm(nn.modules.batchnorm._NormBase):
    """Batch norm that uses the statistics of the batch in evaluation too.

    ``running_mean``, ``running_var`` and ``num_batches_tracked`` give the published file's tensors a place; they are
    neither read nor updated.
    """

    # Not a torch.nn.BatchNorm3d: under DDP nnU-Net would turn that into a SyncBatchNorm, which validates with running
    # statistics, so that training would select its best epoch by another network than the one that predicts.
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, Z, Y, X) over all axes but C."""
        return functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


class InputMap(nn.Module):
    """x · scale + shift per channel, clipped to [0, 1]; without scale and shift, the identity (nothing is clipped).

    It is clipped because the published data were: bone and metal above 1000 HU look like 1000 HU to the weights.
    Scale and shift come from the plans and are not in the state dict, so that the same weights serve other data.

    Args:
        channels: input channels of the network.
        scale: factors of the first channels; further ones (the one-hot segmentation of a cascade's previous stage,
            which is in [0, 1]) are left alone.
        shift: as many summands.

    Raises:
        GenesisError: ``scale`` and ``shift`` don't fit each other or the channels.
    """

    scale: torch.Tensor | None
    shift: torch.Tensor | None

    def __init__(self, channels: int, scale: Sequence[float] | None, shift: Sequence[float] | None):
        super().__init__()
        lengths = [len(values) if values is not None else 0 for values in (scale, shift)]
        if lengths[0] != lengths[1] or lengths[0] > channels:
            raise GenesisError(
                f"GenesisUNet3D: expected input_scale and input_shift for each of the {channels} input channels (or "
                f"neither), found {lengths[0]} and {lengths[1]} numbers. Correct the plans' arch_kwargs, or plan anew."
            )
        for name, values, rest in (("scale", scale, 1.0), ("shift", shift, 0.0)):
            column = None if values is None else torch.tensor([*values, *[rest] * (channels - len(values))])
            self.register_buffer(name, column if column is None else column.reshape(-1, 1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, Z, Y, X)."""
        if self.scale is None or self.shift is None:
            return x
        return (x * self.scale + self.shift).clamp(0, 1)


def planned_map(scheme: str, properties: Mapping[str, float]) -> tuple[float, float]:
    """Return the scale and shift that map a channel's normalised intensities to [0, 1].

    Args:
        scheme: nnU-Net's normalisation. CTNormalization gives exactly (HU + 1000) / 2000, ZScoreNormalization a fixed
            window (:data:`ZSCORE_WINDOW`); what is in [0, 1] already stays.
        properties: the channel's ``foreground_intensity_properties``: ``mean`` and ``std`` in HU are read for CT.

    Raises:
        GenesisError: the scheme doesn't say where the intensities lie.
    """
    if scheme == "CTNormalization":
        width = HIGHEST_HU - LOWEST_HU
        # CTNormalization divides by at least 1e-8, too.
        return max(float(properties["std"]), 1e-8) / width, (float(properties["mean"]) - LOWEST_HU) / width
    if scheme == "ZScoreNormalization":
        lowest, highest = ZSCORE_WINDOW
        return 1 / (highest - lowest), -lowest / (highest - lowest)
    if scheme in ("RescaleTo01Normalization", "RGBTo01Normalization"):
        return 1.0, 0.0
    raise GenesisError(
        f"dataset.json: channel normalised with {scheme}, of which the range is unknown; the Genesis 3D U-Net expects "
        "intensities that can be mapped to [0, 1]. Name the channel CT, zscore or rescale_to_0_1 in channel_names."
    )
