"""``genesis_nnunet_luna16_006.model``: Models Genesis in nnU-Net v1's network -> PlainConvUNet."""

import re
from typing import Any

import torch

from nnunet_genesis.checkpoint.architecture import OPERATIONS, PLAIN
from nnunet_genesis.importers.authors import Published
from nnunet_genesis.importers.base import Imported, Layout, Source

# As published (Zhou et al., Medical Image Analysis 2021, and the released file); axes (x, y, z).
STAGES = 6
STRIDES = [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]]
OUTPUTS = 2
_FILE = Published(
    format="nnunet_v1",
    name="genesis_nnunet_luna16_006",
    method="restoration (Models Genesis), the authors' weights for nnU-Net v1",
    mean=-775.8457,
    std=251.9326,
    notes=("The spacing is not known: the authors took crops at native spacing.",),
)


def convert(source: Source, keep_axes: bool = False) -> Imported:
    """Place all 98 tensors; transposed convolutions and heads, which had no bias, get one of zeros.

    The output is the v1 network's, at the axes of the file. By default the axes are reversed, from the file's
    (x, y, z) to nnU-Net's (z, y, x), in every kernel, stride and size, so that the kernels see the same anatomy.

    Args:
        source: a dict with the key ``state_dict``.
        keep_axes: leave kernels and sizes in (x, y, z).

    Raises:
        GenesisError: a tensor is missing, or isn't what it should be.
    """
    wanted = Layout.of(architecture(reverse=False), 1, OUTPUTS, source.path)
    origin = {name: v1_name(name) for name in wanted.shapes}
    return _FILE.place(
        source, source.tensors("state_dict"), wanted, architecture(not keep_axes), origin, _bias, keep_axes
    )


def _bias(name: str, shape: tuple[int, ...]) -> tuple[torch.Tensor, str] | None:
    no_bias = name.startswith(("decoder.transpconvs.", "decoder.seg_layers.")) and name.endswith(".bias")
    return (torch.zeros(shape), "zeros: nnU-Net v1 has no bias here") if no_bias else None


def architecture(reverse: bool) -> dict[str, Any]:
    """Describe the network for nnU-Net's plans; ``reverse``: axes (z, y, x) instead of (x, y, z)."""
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


_CONVOLUTION = re.compile(r"(encoder|decoder)\.stages\.(\d+)\.(?:0\.)?convs\.(\d+)\.(conv|norm)\.(\w+)")


def v1_name(name: str) -> str:
    """Give nnU-Net v1's name for a tensor of nnU-Net v2.

    The last encoder stage and the decoder's stages hold their convolutions in groups of one, the others in one group.
    """
    if found := _CONVOLUTION.fullmatch(name):
        side, stage, number, operation, rest = found.groups()
        one_group = side == "encoder" and int(stage) < STAGES - 1
        path = "context" if side == "encoder" else "localization"
        block = f"blocks.{number}" if one_group else f"{number}.blocks.0"
        return f"conv_blocks_{path}.{stage}.{block}.{operation.replace('norm', 'instnorm')}.{rest}"
    return name.replace("decoder.transpconvs", "tu").replace("decoder.seg_layers", "seg_outputs")
