"""The networks that we know, and an architecture as foreign plans describe it in our own words, or a refusal.

nnU-Net imports what the plans name. So no text of a foreign file is kept here: names are looked up in the tables
below, numbers are checked, anything else is refused.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_genesis.errors import GenesisError

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
GENESIS = "nnunet_genesis.architectures.GenesisUNet3D"

# The trailing name decides; "ResEncL" is nnssl's for a ResidualEncoderUNet of fixed size.
_CLASSES = {"PlainConvUNet": PLAIN, "ResidualEncoderUNet": RESIDUAL, "ResEncL": RESIDUAL, "GenesisUNet3D": GENESIS}
_KINDS = {PLAIN: "plain", RESIDUAL: "residual", GENESIS: "Genesis 3D U-Net"}
# Where the image enters; a residual encoder has a stem before its stages.
_STEMS = {RESIDUAL: ("encoder.stem", "convs.0"), PLAIN: ("encoder.stages.0", "0.convs.0")}
_STEMS[GENESIS] = _STEMS[PLAIN]
_PACKAGES = ("", "dynamic_network_architectures", "nnunet_genesis")

_OPERATIONS = {
    "Conv3d": "torch.nn.modules.conv.Conv3d",
    "InstanceNorm3d": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "BatchNorm3d": "torch.nn.modules.batchnorm.BatchNorm3d",
    "Dropout3d": "torch.nn.modules.dropout.Dropout3d",
    "LeakyReLU": "torch.nn.LeakyReLU",
    "ReLU": "torch.nn.ReLU",
    "BasicBlockD": "dynamic_network_architectures.building_blocks.residual.BasicBlockD",
    "BottleneckD": "dynamic_network_architectures.building_blocks.residual.BottleneckD",
}
# What nnU-Net's planners choose for 3D networks; LeakyReLU's slope is torch's default, 0.01.
OPERATIONS = {
    "conv_op": _OPERATIONS["Conv3d"],
    "conv_bias": True,
    "norm_op": _OPERATIONS["InstanceNorm3d"],
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": _OPERATIONS["LeakyReLU"],
    "nonlin_kwargs": {"inplace": True},
}
# nnssl's name for a ResidualEncoderUNet of this size.
RES_ENC_L = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 5],
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "n_conv_per_stage_decoder": [1] * 5,
    **OPERATIONS,
}

IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin", "block")
# Largest integers: generous for any network, small enough to build its layout in no time.
_LIMITS = {"n_stages": 16, "n_conv_per_stage": 64, "n_blocks_per_stage": 64, "n_conv_per_stage_decoder": 64}
_LIMIT = 65536


def kind_of(class_name: str) -> str:
    """Name the kind of network that a class builds; other classes than ours are a kind of their own."""
    name = class_name.rpartition(".")[2]
    return _KINDS.get(_CLASSES.get(name, ""), name)


def first_convolution(names: Iterable[str]) -> str | None:
    """Find the weight that sees the image among the names of a network's tensors."""
    found = set(names)
    return next((name for stem, block in _STEMS.values() if (name := f"{stem}.{block}.conv.weight") in found), None)


def input_channels(weights: Mapping[str, torch.Tensor]) -> int:
    """Count the channels that the first kernel among a network's tensors sees."""
    return int(weights[first_convolution(weights) or ""].shape[1])


def without_values(
    architecture: Mapping[str, Any], inputs: int, outputs: int, deep_supervision: bool = False
) -> torch.nn.Module:
    """Build the network that an entry of nnU-Net's plans describes, without memory for its tensors."""
    with torch.device("meta"):
        return get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            inputs,
            outputs,
            allow_init=False,
            deep_supervision=deep_supervision,
        )


def adaptation_entries(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return what nnssl's adaptation plan says of the network that an entry of nnU-Net's plans describes."""
    class_name, arguments = architecture["network_class_name"].rpartition(".")[2], architecture["arch_kwargs"]
    is_res_enc_l = _CLASSES.get(class_name) == RESIDUAL and RES_ENC_L.items() <= arguments.items()
    stem, block = _STEMS.get(_CLASSES.get(class_name, ""), (None, None))
    return {
        "architecture_plans": {
            "arch_class_name": "ResEncL" if is_res_enc_l else class_name,
            "arch_kwargs": arguments,
            "arch_kwargs_requiring_import": list(architecture["_kw_requires_import"]),
        },
        "key_to_encoder": "encoder.stages",
        "key_to_stem": stem,
        # one tensor, twice
        "keys_to_in_proj": [f"{stem}.{block}.{name}" for name in ("conv", "all_modules.0") if stem],
        "key_to_lpe": None,
    }


def own_words(class_name: Any, arguments: Any, file: Path) -> dict[str, Any]:
    """Make the ``architecture`` entry of nnU-Net's plans of our own constants and checked numbers.

    Raises:
        GenesisError: the class or an operation isn't one that we know, or an argument isn't a number.
    """
    module, _, name = str(class_name).rpartition(".")
    if not isinstance(class_name, str) or name not in _CLASSES or module.split(".")[0] not in _PACKAGES:
        raise GenesisError(
            f"{file}: expected weights of one of {', '.join(_CLASSES)}, found {str(class_name)[:80]!r}. Other "
            "architectures can't be transferred into nnU-Net's U-Nets: use other weights."
        )
    if not isinstance(arguments, dict):
        raise GenesisError(
            f"{file}: expected the arguments of {class_name} (arch_kwargs), found {type(arguments).__name__}; the "
            "network can't be known without them. Use a checkpoint that has them."
        )
    ours = {
        str(name): _operation(name, value, file) if name in IMPORTED else _numbers(str(name), value, file)
        for name, value in arguments.items()
        if name != "deep_supervision"  # the trainer's choice, no property of the weights
    }
    return {
        "network_class_name": _CLASSES[name],
        "arch_kwargs": ours,
        "_kw_requires_import": [name for name in IMPORTED if name in ours],
    }


def _operation(argument: str, value: Any, file: Path) -> str | None:
    if value is None:
        return None
    module, _, name = str(value).rpartition(".")
    known = name in _OPERATIONS and module.split(".")[0] in ("", "torch", "dynamic_network_architectures")
    if known and isinstance(value, str):
        return _OPERATIONS[name]
    other = "It is a 2D network; Genesis weights are 3D: use those of a 3d_fullres or 3d_lowres configuration."
    advice = other if name.endswith("2d") else "Use other weights."
    raise GenesisError(
        f"{file}: {argument}: expected one of {', '.join(_OPERATIONS)}, found {str(value)[:80]!r}. {advice}"
    )


def _numbers(argument: str, value: Any, file: Path, depth: int = 0) -> Any:
    if isinstance(value, dict) and argument.endswith("_kwargs") and depth == 0:
        return {str(key): _numbers(argument, entry, file, depth + 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple)) and depth < 2 and len(value) <= _LIMITS["n_stages"]:
        return [_numbers(argument, entry, file, depth + 1) for entry in value]
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and 0 <= value <= _LIMITS.get(argument, _LIMIT):
        return value
    raise GenesisError(
        f"{file}: {argument}: expected numbers that describe a network, found {str(value)[:80]!r}. The file is damaged."
    )
