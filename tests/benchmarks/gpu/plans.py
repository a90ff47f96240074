"""Plans as nnU-Net makes them for CT on a GPU: its default network, the large residual one, and the 2019 network."""

from typing import Any

from nnunet_genesis.architectures import GenesisUNet3D

LARGE, SMALL = "Dataset701_GPU", "Dataset702_GPUSmall"
CONFIGURATION, RESENC, UNET3D = "3d_fullres", "3d_resenc", "3d_genesis"
WINDOW, MEAN, STD = (-1000.0, 1000.0), 0.0, 250.0  # HU
_ARCHITECTURES = "dynamic_network_architectures.architectures.unet"


def plans(name: str, tiny: bool) -> dict[str, Any]:
    """Plans of a data set; 702's are small whether rehearsed or not."""
    small = tiny or name == SMALL
    edge, stages = (16 if tiny else 32, 3) if small else (128, 6)
    planned = {
        CONFIGURATION: _configuration(edge, _unet("PlainConvUNet", stages, small)),
        RESENC: _configuration(edge if small else 160, _unet("ResidualEncoderUNet", stages, small)),
        UNET3D: _configuration(16 if tiny else 64, _genesis_unet3d(tiny)),
    }
    intensities = {"mean": MEAN, "std": STD, "percentile_00_5": WINDOW[0], "percentile_99_5": WINDOW[1]}
    more = {"median": MEAN, "min": WINDOW[0], "max": WINDOW[1]}
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.5, 1.5, 1.5],
        "original_median_shape_after_transp": [160, 256, 256],
        "image_reader_writer": "NibabelIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities | more},
        "configurations": planned,
    }


def _configuration(edge: int, architecture: dict[str, Any]) -> dict[str, Any]:
    resampling = {"order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [edge] * 3,
        "median_image_size_in_voxels": [160.0, 256.0, 256.0],
        "spacing": [1.5, 1.5, 1.5],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
        "architecture": architecture,
        "batch_dice": False,
    }


def _unet(network: str, stages: int, small: bool) -> dict[str, Any]:
    residual = network == "ResidualEncoderUNet"
    depth = {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6][:stages]} if residual else {"n_conv_per_stage": [2] * stages}
    return {
        "network_class_name": f"{_ARCHITECTURES}.{network}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [8, 16, 32] if small else [32, 64, 128, 256, 320, 320],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            **depth,
            "n_conv_per_stage_decoder": [1 if residual else 2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _genesis_unet3d(tiny: bool) -> dict[str, Any]:
    return {
        "network_class_name": f"nnunet_genesis.architectures.{GenesisUNet3D.__name__}",
        "arch_kwargs": {
            "features_per_stage": [4, 8, 16, 32] if tiny else [64, 128, 256, 512],
            "n_stages": 4,
            "kernel_sizes": [[3, 3, 3]] * 4,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * 3,
        },
        "_kw_requires_import": [],
    }
