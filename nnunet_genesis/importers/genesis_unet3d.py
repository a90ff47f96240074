"""``Genesis_Chest_CT.pt``: the original Models Genesis network -> GenesisUNet3D."""

import re
from typing import Any

import torch

from nnunet_genesis.checkpoint.architecture import GENESIS
from nnunet_genesis.importers.imported import Imported
from nnunet_genesis.importers.layout import Layout, layout, place, reverse_axes, shapes
from nnunet_genesis.importers.record import authors_description, hounsfield
from nnunet_genesis.importers.source import Source, Tensors, tensors

# As published (Zhou et al., Medical Image Analysis 2021): HU clipped to ±1000 and scaled to [0, 1].
NORMALIZATION = hounsfield(mean=-1000.0, std=2000.0)
LEVELS = 4
HEAD = f"decoder.seg_layers.{LEVELS - 2}"


def convert(source: Source, keep_axes: bool = False) -> Imported:
    """All 106 tensors placed; the heads of deep supervision, which the file lacks, are zeros.

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
    names = {name: own_name(name) for name in state}
    wanted = layout(architecture(), 1, 1, source.path)
    mapped = {new: state[old] for old, new in names.items() if new in wanted.shapes}
    filled = other_heads(wanted)
    origin = {name: published_name(name) for name in wanted.shapes}
    weights = place(mapped | filled, wanted, source.path, origin)
    placed = [old for old, new in names.items() if new in mapped]
    return Imported(
        {
            "network_weights": weights if keep_axes else reverse_axes(weights),
            **description(source, "genesis_unet3d", keep_axes),
        },
        shapes(placed, state),
        {name: "unknown to this format" for name in state if name not in placed},
        {name: "zeros: the published network has one output" for name in filled},
        ("Axes (x, y, z) are inferred from the published 64×64×32 crops.",),
    )


def architecture(norm_eps: float = 1e-5) -> dict[str, Any]:
    """The network, for nnU-Net's plans; the same for both orders of the axes."""
    return {
        "network_class_name": GENESIS,
        "arch_kwargs": {
            "n_stages": LEVELS,
            "features_per_stage": [64, 128, 256, 512],
            "kernel_sizes": [[3, 3, 3]] * LEVELS,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * (LEVELS - 1)],
            "norm_eps": norm_eps,
        },
        "_kw_requires_import": [],
    }


# Levels by the features of their second convolution; nnU-Net counts the decoder's from the bottom.
_LEVEL = {("down", "64"): 0, ("down", "128"): 1, ("down", "256"): 2, ("down", "512"): 3}
_LEVEL |= {("up", "256"): 0, ("up", "128"): 1, ("up", "64"): 2}
_NAME = re.compile(r"^(down|up)_tr(\d+)\.(?:ops\.([01])\.(conv|bn)1|up_conv)\.(\w+)$")


def own_name(name: str) -> str:
    """GenesisUNet3D's name for a tensor of the published network; empty where there is none."""
    found = _NAME.match(name)
    if not found or (found[1], found[2]) not in _LEVEL:
        return name.replace("out_tr.final_conv", HEAD) if name.startswith("out_tr.final_conv.") else ""
    level = _LEVEL[found[1], found[2]]
    if found[3] is None:
        return f"decoder.transpconvs.{level}.{found[5]}" if found[1] == "up" else ""
    stage = f"encoder.stages.{level}.0" if found[1] == "down" else f"decoder.stages.{level}"
    return f"{stage}.convs.{found[3]}.{'conv' if found[4] == 'conv' else 'norm'}.{found[5]}"


def published_name(name: str) -> str:
    """The published network's name for one of ours, for messages."""
    for (side, features), level in _LEVEL.items():
        stage = f"encoder.stages.{level}.0" if side == "down" else f"decoder.stages.{level}"
        name = name.replace(f"{stage}.convs", f"{side}_tr{features}.ops")
        name = name.replace(f"decoder.transpconvs.{level}.", f"up_tr{features}.up_conv.") if side == "up" else name
    return name.replace(".conv.", ".conv1.").replace(".norm.", ".bn1.").replace(HEAD, "out_tr.final_conv")


def other_heads(wanted: Layout) -> Tensors:
    """Zeros for the heads that deep supervision adds."""
    prefix = HEAD.rpartition(".")[0]
    names = [name for name in wanted.shapes if name.startswith(prefix) and not name.startswith(f"{HEAD}.")]
    return {name: torch.zeros(wanted.shapes[name]) for name in names}


def description(source: Source, format_name: str, keep_axes: bool, norm_eps: float = 1e-5) -> dict[str, Any]:
    """Record and adaptation plan."""
    method = "restoration (Models Genesis), the authors' weights"
    imported, network = source.describe(format_name), architecture(norm_eps)
    return authors_description(imported, "Genesis_Chest_CT", method, network, NORMALIZATION, keep_axes)
