"""A planned data set with a small network, without images: enough for whatever reads weights before it trains."""

import json
from pathlib import Path

from nnunet_genesis.checkpoint.architecture import PLAIN
from tests.nnunet_genesis.networks import network, plans_of

NAME = "Dataset905_Faults"
DATASET = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "a": 1},
    "file_ending": ".nii.gz",
    "numTraining": 1,
}


def small_plans() -> dict:
    """Plans of the network that ``tests.nnunet_genesis.networks.network(3)`` makes."""
    plans = plans_of(network(3))
    plans["dataset_name"] = NAME
    plans["configurations"]["3d_fullres"] |= {
        "batch_size": 2,
        "batch_dice": False,
        "use_mask_for_norm": [False],
        "data_identifier": "nnUNetPlans_3d_fullres",
        "architecture": {
            "network_class_name": PLAIN,
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [2, 4, 8],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 3,
                "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": [2] * 3,
                "n_conv_per_stage_decoder": [1] * 2,
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"affine": True},
                "dropout_op": None,
                "nonlin": "torch.nn.LeakyReLU",
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return plans


def write_small_world(preprocessed: Path) -> Path:
    """Plans and dataset.json of data set 905; returns its folder."""
    folder = preprocessed / NAME
    (folder / "nnUNetPlans_3d_fullres").mkdir(parents=True)
    (folder / "nnUNetPlans_3d_fullres" / "case.b2nd").touch()  # tells nnU-Net the format of the data
    (folder / "nnUNetPlans.json").write_text(json.dumps(small_plans()))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder
