"""``Genesis_Chest_CT.pt``: the original Models Genesis network -> GenesisUNet3D."""

import torch

from nnunet_genesis.architectures.genesis_unet3d import HIGHEST_HU, LOWEST_HU, STRIDES, architecture
from nnunet_genesis.importers.authors import Published
from nnunet_genesis.importers.base import Imported, Layout, Source

LEVELS = len(STRIDES)
HEAD = f"decoder.seg_layers.{LEVELS - 2}"
FILE = Published(
    format="genesis_unet3d",
    name="Genesis_Chest_CT",
    method="restoration (Models Genesis), the authors' weights",
    mean=LOWEST_HU,
    std=HIGHEST_HU - LOWEST_HU,
    notes=("Axes (x, y, z) are inferred from the published 64×64×32 crops.",),
)


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
    wanted = Layout.of(architecture(), 1, 1, source.path)
    origin = {name: published_name(name) for name in wanted.shapes}
    return FILE.place(source, source.tensors("state_dict"), wanted, architecture(), origin, other_head, keep_axes)


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


def other_head(name: str, shape: tuple[int, ...]) -> tuple[torch.Tensor, str] | None:
    """Fill the heads that deep supervision adds."""
    other = name.startswith("decoder.seg_layers.") and not name.startswith(HEAD)
    return (torch.zeros(shape), "zeros: the published network has one output") if other else None
