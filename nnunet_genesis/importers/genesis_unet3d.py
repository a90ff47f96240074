"""``Genesis_Chest_CT.pt``: the original Models Genesis network -> GenesisUNet3D."""

import torch

from nnunet_genesis.architectures.genesis_unet3d import STRIDES, architecture
from nnunet_genesis.checkpoint import Record
from nnunet_genesis.importers.base import (
    Imported,
    Layout,
    Source,
    Tensors,
    authors_record,
    genesis_checkpoint,
    layout,
    place,
    reverse_axes,
    tensors,
)

LEVELS = len(STRIDES)
HEAD = f"decoder.seg_layers.{LEVELS - 2}"


def convert(source: Source, keep_axes: bool = False) -> Imported:
    """Place all 106 tensors; the heads of deep supervision, which the file lacks, are zeros.

    The output is the original network's, before its sigmoid, at the axes of the file. By default the axes are reversed
    in every kernel and size. That they were (x, y, z) is stated for the authors' other files; for this one it is
    inferred from its 64×64×32 crops. (Only kernels have an orientation: strides and poolings are 2 along every axis.)

    The running statistics are placed too, though neither network reads them.

    Args:
        source: a dict with the key ``state_dict``.
        keep_axes: leave kernels and sizes in (x, y, z).

    Raises:
        GenesisError: a tensor is missing, or isn't what it should be.
    """
    state = tensors(source, "state_dict")
    wanted = layout(architecture(), 1, 1, source.path)
    origin = {name: published_name(name) for name in wanted.shapes}
    mapped = {name: state[old] for name, old in origin.items() if old in state}
    filled = other_heads(wanted)
    weights = place(mapped | filled, wanted, source.path, origin)
    record = record_of(source, "genesis_unet3d", keep_axes)
    return Imported.of(
        genesis_checkpoint(weights if keep_axes else reverse_axes(weights), record),
        state,
        [origin[name] for name in mapped],
        filled={name: "zeros: the published network has one output" for name in filled},
        notes=["Axes (x, y, z) are inferred from the published 64×64×32 crops."],
    )


# Levels by the features of their second convolution; nnU-Net counts the decoder's from the bottom.
_LEVEL = {("down", "64"): 0, ("down", "128"): 1, ("down", "256"): 2, ("down", "512"): 3}
_LEVEL |= {("up", "256"): 0, ("up", "128"): 1, ("up", "64"): 2}


def published_name(name: str) -> str:
    """Give the published network's name for one of ours, if it has one."""
    for (side, features), level in _LEVEL.items():
        stage = f"encoder.stages.{level}.0" if side == "down" else f"decoder.stages.{level}"
        name = name.replace(f"{stage}.convs", f"{side}_tr{features}.ops")
        name = name.replace(f"decoder.transpconvs.{level}.", f"up_tr{features}.up_conv.") if side == "up" else name
    return name.replace(".conv.", ".conv1.").replace(".norm.", ".bn1.").replace(HEAD, "out_tr.final_conv")


def other_heads(wanted: Layout) -> Tensors:
    """Make zeros for the heads that deep supervision adds."""
    prefix = HEAD.rpartition(".")[0]
    names = [name for name in wanted.shapes if name.startswith(prefix) and not name.startswith(f"{HEAD}.")]
    return {name: torch.zeros(wanted.shapes[name]) for name in names}


def record_of(source: Source, format_name: str, keep_axes: bool, norm_eps: float = 1e-5) -> Record:
    """Describe the published network in either of its formats."""
    return authors_record(
        source.describe(format_name),
        name="Genesis_Chest_CT",
        method="restoration (Models Genesis), the authors' weights",
        architecture=architecture(norm_eps=norm_eps),
        mean=-1000.0,  # as published (Zhou et al., Medical Image Analysis 2021): ±1000 HU scaled to [0, 1]
        std=2000.0,
        keep_axes=keep_axes,
    )
