"""Small nnU-Net networks with random values, and their descriptions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint import SCHEMA_VERSION
from nnunet_genesis.transfer.matching import match
from nnunet_genesis.transfer.moves import Move, apply_moves
from nnunet_genesis.transfer.network import Network, Window

BOTH = ("encoder", "decoder")
ISO = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
FIRST = "encoder.stages.0.0.convs.0.conv.weight"


def network(
    stages: int = 4,
    kernels: int | Sequence[Sequence[int]] = 3,
    strides: Sequence[Sequence[int]] | None = None,
    channels: int = 1,
    width: int = 2,
    blocks: int = 2,
    residual: bool = False,
    seed: int = 0,
) -> PlainConvUNet | ResidualEncoderUNet:
    """A small plain or residual U-Net with random values in every tensor."""
    convolutions = {"n_blocks_per_stage": blocks} if residual else {"n_conv_per_stage": blocks}
    net = (ResidualEncoderUNet if residual else PlainConvUNet)(
        input_channels=channels, n_stages=stages, features_per_stage=[width * 2 ** min(s, 3) for s in range(stages)],
        conv_op=torch.nn.Conv3d, kernel_sizes=[kernels] * stages if isinstance(kernels, int) else kernels,
        strides=(strides or ISO)[:stages], num_classes=2, n_conv_per_stage_decoder=1, conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=False, **convolutions,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return net.eval()


def describe(
    net: torch.nn.Module,
    spacing: Sequence[float] | None = (1, 1, 1),
    axes: str = "zyx",
    names: Sequence[str] | None = None,
    windows: Sequence[Window | None] | None = None,
) -> Network:
    """What a transfer knows of ``net``; every channel an MR called c0, c1, … unless told otherwise."""
    shapes = {name: tuple(value.shape) for name, value in net.named_parameters()}
    kind = "residual" if isinstance(net, ResidualEncoderUNet) else "plain"
    channels = next(net.parameters()).shape[1]
    names = names or [f"c{channel}" for channel in range(channels)]
    return Network(kind, shapes, net.encoder.strides, spacing, axes, names, windows or [None] * len(names))


def values(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules hold the same values, tensor by tensor."""
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


def transfer(source, target, parts=BOTH, partial=False, source_is=None, target_is=None) -> dict[str, Move]:
    """Match and carry out; the moves by target."""
    moves = match(describe(source, **source_is or {}), describe(target, **target_is or {}), parts, partial)
    apply_moves(moves, source.state_dict(), target)
    return {move.target: move for move in moves}


def plans_of(net: torch.nn.Module, spacing: Sequence[float] | None = (1, 1, 1), **properties: float) -> dict[str, Any]:
    """Minimal nnU-Net plans with one configuration, 3d_fullres; a CT's where ``properties`` are given."""
    kwargs = {"strides": [list(stride) for stride in net.encoder.strides]}
    return {
        "dataset_name": "Dataset901_Test",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": properties},
        "configurations": {
            "3d_fullres": {
                "spacing": spacing,
                "patch_size": [16, 16, 16],
                "normalization_schemes": ["CTNormalization" if properties else "ZScoreNormalization"],
                "architecture": {"network_class_name": f"somewhere.{type(net).__name__}", "arch_kwargs": kwargs},
            }
        },
    }


def record_of(net: torch.nn.Module, **changes: Any) -> dict[str, Any]:
    """What a Genesis checkpoint says of ``net``."""
    plans = plans_of(net)
    return {
        "schema_version": SCHEMA_VERSION,
        "method": "test",
        "plans": plans,
        "configuration": "3d_fullres",
        "spacing": plans["configurations"]["3d_fullres"]["spacing"],
        "axis_order": "zyx",
        "data": {"channel_names": {"0": "MR"}},
        **changes,
    }


def save(net: torch.nn.Module, path: Path, **changes: Any) -> Path:
    """Write a Genesis checkpoint of ``net``."""
    checkpoint.save({"network_weights": net.state_dict(), "genesis": record_of(net, **changes)}, path)
    return path
