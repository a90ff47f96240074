"""The ``nnssl_adaptation_plan`` of a Genesis checkpoint: what other programs look for beside the weights."""

from copy import deepcopy
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

# What nnU-Net's planners choose for 3D networks; LeakyReLU's slope is torch's default, 0.01.
OPERATIONS = {
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
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

# key_to_stem and the block of keys_to_in_proj, as the classes define them; key_to_encoder is the same for all.
_STEMS = {
    "PlainConvUNet": ("encoder.stages.0", "encoder.stages.0.0.convs.0"),
    "GenesisUNet3D": ("encoder.stages.0", "encoder.stages.0.0.convs.0"),
    "ResidualEncoderUNet": ("encoder.stem", "encoder.stem.convs.0"),
}


def adaptation_plan(record: dict[str, Any], input_channels: int) -> dict[str, Any]:
    """The fields that nnssl writes, from a ``genesis`` record; plain types only.

    Args:
        record: plans, configuration and patch size are read.
        input_channels: of the network.
    """
    plans, name = record["plans"], record["configuration"]
    configuration = deepcopy(PlansManager(plans).get_configuration(name).configuration)
    architecture = configuration.pop("architecture")
    class_name = architecture["network_class_name"].rpartition(".")[2]
    stem, block = _STEMS.get(class_name, (None, None))
    return {
        "architecture_plans": {
            "arch_class_name": "ResEncL" if _is_res_enc_l(class_name, architecture["arch_kwargs"]) else class_name,
            "arch_kwargs": architecture["arch_kwargs"],
            "arch_kwargs_requiring_import": list(architecture["_kw_requires_import"]),
        },
        "pretrain_plan": {
            "dataset_name": plans.get("dataset_name"),
            "plans_name": plans.get("plans_name"),
            "configurations": {name: configuration},
        },
        "pretrain_num_input_channels": input_channels,
        "recommended_downstream_patchsize": list(record["patch_size"]),
        "key_to_encoder": "encoder.stages",
        "key_to_stem": stem,
        "keys_to_in_proj": [f"{block}.conv", f"{block}.all_modules.0"] if block else [],  # one tensor, two names
        "key_to_lpe": None,
    }


def _is_res_enc_l(class_name: str, arguments: dict[str, Any]) -> bool:
    return class_name == "ResidualEncoderUNet" and all(arguments.get(key) == RES_ENC_L[key] for key in RES_ENC_L)
