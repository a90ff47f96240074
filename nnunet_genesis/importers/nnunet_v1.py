"""``genesis_nnunet_luna16_006.model``: Models Genesis in nnU-Net v1's network -> PlainConvUNet."""

import re
from typing import Any

import torch

from nnunet_genesis.adaptation_plan import OPERATIONS
from nnunet_genesis.checkpoint.architecture import PLAIN
from nnunet_genesis.importers.imported import Imported
from nnunet_genesis.importers.layout import layout, place, reverse_axes, shapes
from nnunet_genesis.importers.record import authors_description, hounsfield
from nnunet_genesis.importers.source import Source, Tensors, tensors

# As published (Zhou et al., Medical Image Analysis 2021, and the released file); axes (x, y, z).
STAGES = 6
STRIDES = [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]]
NORMALIZATION = hounsfield(mean=-775.8457, std=251.9326)
OUTPUTS = 2


def convert(source: Source, keep_axes: bool = False) -> Imported:
    """All 98 tensors placed; transposed convolutions and heads, which had no bias, get one of zeros.

    The output is the v1 network's, at the axes of the file. By default the axes are reversed, from the file's
    (x, y, z) to nnU-Net's (z, y, x), in every kernel, stride and size, so that the kernels see the same anatomy.

    Args:
        source: a dict with the key ``state_dict``.
        keep_axes: leave kernels and sizes in (x, y, z).

    Raises:
        GenesisError: a tensor is missing, or isn't what it should be.
    """
    state = tensors(source, "state_dict")
    names = {name: v2_name(name) for name in state}
    wanted = layout(architecture(reverse=False), 1, OUTPUTS, source.path)
    mapped = {new: state[old] for old, new in names.items() if new in wanted.shapes}
    filled = _zero_biases(mapped)
    origin = {name: v1_name(name) for name in wanted.shapes}
    weights = place(mapped | filled, wanted, source.path, origin)
    if not keep_axes:
        weights = reverse_axes(weights)
    placed = [old for old, new in names.items() if new in mapped]
    return Imported(
        {
            "network_weights": weights,
            **authors_description(
                source.describe("nnunet_v1"),
                "genesis_nnunet_luna16_006",
                "restoration (Models Genesis), the authors' weights for nnU-Net v1",
                architecture(not keep_axes),
                NORMALIZATION,
                keep_axes,
            ),
        },
        shapes(placed, state),
        {name: "unknown to this format" for name in state if name not in placed},
        {name: "zeros: nnU-Net v1 has no bias here" for name in filled},
        ("The spacing is not known: the authors took crops at native spacing.",),
    )


def architecture(reverse: bool) -> dict[str, Any]:
    """The network, for nnU-Net's plans; ``reverse``: axes (z, y, x) instead of (x, y, z)."""
    return {
        "network_class_name": PLAIN,
        "arch_kwargs": {
            "n_stages": STAGES,
            "features_per_stage": [32, 64, 128, 256, 320, 320],
            "kernel_sizes": [[3, 3, 3]] * STAGES,
            "strides": [stride[::-1] if reverse else stride for stride in STRIDES],
            "n_conv_per_stage": [2] * STAGES,
            "n_conv_per_stage_decoder": [2] * (STAGES - 1),
            **OPERATIONS,
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


_OPERATION = {"conv": "conv", "instnorm": "norm"}
_BLOCK = re.compile(r"^conv_blocks_(context|localization)\.(\d+)\.(?:(\d+)\.)?blocks\.(\d+)\.(conv|instnorm)\.(.+)$")
_UP = re.compile(r"^(tu|seg_outputs)\.(\d+)\.(weight)$")


def v2_name(name: str) -> str:
    """nnU-Net v2's name for a tensor of nnU-Net v1; empty where there is none.

    The last encoder stage and the decoder's stages hold their convolutions in groups of one, the others in one group:
    a convolution's number is the sum of its group's and its own.
    """
    if found := _BLOCK.match(name):
        side, stage, group, block, operation, rest = found.groups()
        number = int(group or 0) + int(block)
        head = f"encoder.stages.{stage}.0" if side == "context" else f"decoder.stages.{stage}"
        return f"{head}.convs.{number}.{_OPERATION[operation]}.{rest}"
    if found := _UP.match(name):
        return f"decoder.{'transpconvs' if found[1] == 'tu' else 'seg_layers'}.{found[2]}.{found[3]}"
    return ""


_ENCODER = re.compile(r"^encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)\.(.+)$")
_DECODER = re.compile(r"^decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(.+)$")


def v1_name(name: str) -> str:
    """The inverse of :func:`v2_name`."""
    if found := _ENCODER.match(name):
        stage, number, operation, rest = found.groups()
        block = f"{number}.blocks.0" if int(stage) == STAGES - 1 else f"blocks.{number}"
        return f"conv_blocks_context.{stage}.{block}.{operation.replace('norm', 'instnorm')}.{rest}"
    if found := _DECODER.match(name):
        stage, number, operation, rest = found.groups()
        return f"conv_blocks_localization.{stage}.{number}.blocks.0.{operation.replace('norm', 'instnorm')}.{rest}"
    return name.replace("decoder.transpconvs", "tu").replace("decoder.seg_layers", "seg_outputs")


def _zero_biases(mapped: Tensors) -> Tensors:
    zeros = {}
    for name, value in mapped.items():
        if name.startswith("decoder.transpconvs.") and value.ndim == 5:
            zeros[name.replace(".weight", ".bias")] = torch.zeros(value.shape[1])
        elif name.startswith("decoder.seg_layers.") and value.ndim == 5:
            zeros[name.replace(".weight", ".bias")] = torch.zeros(value.shape[0])
    return zeros
