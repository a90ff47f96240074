"""Plans for the original Models Genesis 3D U-Net: nnU-Net's, with patch and batch size fitted to this network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.paths import nnUNet_preprocessed

from nnunet_genesis.architectures.genesis_unet3d import (
    DIVISOR,
    KERNEL_SIZES,
    PUBLISHED_FEATURES,
    STRIDES,
    GenesisUNet3D,
)
from nnunet_genesis.architectures.input_map import planned_map
from nnunet_genesis.errors import GenesisError

PLANS_NAME = "nnUNetGenesisUNet3DPlans"
DEFAULT_PLANS = "nnUNetPlans"
NETWORK_CLASS = "nnunet_genesis.architectures.GenesisUNet3D"
# A patch isn't made smaller than this for lack of memory; the bottleneck then has 2 voxels an axis.
LEAST_EDGE = 16


class GenesisUNet3DPlanner(ExperimentPlanner):
    """nnU-Net's planner for :class:`GenesisUNet3D`: 3D configurations only.

    Spacing, normalisation, resampling, cascade and the rules for patch and batch size are nnU-Net's.

    Args:
        dataset_name_or_id: a data set in nnUNet_raw whose fingerprint has been extracted.
        gpu_memory_target_in_gb: GPU memory to plan for, GB by nnU-Net's estimate.
        preprocessor_name: nnU-Net's preprocessor.
        plans_name: name of the plans file.
        overwrite_target_spacing: mm of ``3d_fullres``, floats, in the order of the image file's arrays (z, y, x).
        suppress_transpose: keep the axes' order.
        weights: path to be written into the plans.
        features_per_stage: the network's widths.
        norm_eps: the network's epsilon.
    """

    plans_identifier: str
    dataset_name: str

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = PLANS_NAME,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
        weights: Path | None = None,
        features_per_stage: Sequence[int] = PUBLISHED_FEATURES,
        norm_eps: float = 1e-5,
    ):
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.weights, self.features_per_stage, self.norm_eps = weights, tuple(features_per_stage), norm_eps

    @staticmethod
    def static_estimate_VRAM_usage(*_args: Any, **_kwargs: Any) -> int:  # noqa: N802 - nnU-Net's name
        """Next to nothing: nnU-Net's U-Net isn't the network to be trained, so it isn't built and its patch not shrunk.

        :meth:`get_plans_for_configuration` estimates ours instead.
        """
        return 1

    def get_plans_for_configuration(
        self,
        spacing: Sequence[float],
        median_shape: Sequence[float],
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[str, Any],
    ) -> dict[str, Any]:
        """nnU-Net's plan of one configuration, with our network and the patch and batch size that fit it.

        Raises:
            GenesisError: no patch fits the memory, or a channel's intensities can't be mapped to [0, 1].
        """
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        if len(spacing) == 3:  # the 2D plan is dropped in save_plans
            plan["architecture"] = self._architecture(plan["normalization_schemes"])
            voxels = self._voxels_that_fit(plan["architecture"]["arch_kwargs"])
            plan["patch_size"] = self._fit_patch(plan["patch_size"], median_shape, voxels)
            plan["batch_size"] = self._batch_size(plan["patch_size"], voxels, approximate_n_voxels_dataset)
        return plan

    def _architecture(self, schemes: Sequence[str]) -> dict[str, Any]:
        properties = self.dataset_fingerprint["foreground_intensity_properties_per_channel"]
        maps = [planned_map(scheme, properties[str(channel)]) for channel, scheme in enumerate(schemes)]
        arch_kwargs = {
            "n_stages": len(STRIDES),
            "features_per_stage": self.features_per_stage,
            "kernel_sizes": KERNEL_SIZES,
            "strides": STRIDES,
            "norm_eps": self.norm_eps,
            "input_scale": [scale for scale, _ in maps],
            "input_shift": [shift for _, shift in maps],
        }
        return {"network_class_name": NETWORK_CLASS, "arch_kwargs": arch_kwargs, "_kw_requires_import": []}

    def _voxels_that_fit(self, arch_kwargs: Mapping[str, Any]) -> float:
        """Voxels of the largest patch, at nnU-Net's reference batch size, in the memory target."""
        with torch.device("meta"):  # shapes are all that the estimate needs
            network = GenesisUNet3D(len(arch_kwargs["input_scale"]), len(self.dataset_json["labels"]), **arch_kwargs)
        # The same for every patch: its edges are divisible by 8, so the estimate is proportional to its volume.
        per_voxel = network.compute_conv_feature_map_size([DIVISOR] * 3) / DIVISOR**3
        return self.UNet_reference_val_3d * self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB / per_voxel

    def _fit_patch(self, largest: Sequence[int], median_shape: Sequence[float], voxels: float) -> list[int]:
        """The largest patch of ``voxels`` at most: nnU-Net's rule in steps of 8, from the median shape rounded up."""
        patch = [min(map(_divisible, lengths)) for lengths in zip(largest, median_shape, strict=True)]
        voxels *= self.UNet_reference_val_corresp_bs_3d / self.UNet_min_batch_size
        while np.prod(patch) > voxels:
            excess = [length / median for length, median in zip(patch, median_shape, strict=True)]
            axis = max(range(3), key=lambda a: (patch[a] > LEAST_EDGE, excess[a]))
            if patch[axis] <= LEAST_EDGE:
                raise GenesisError(
                    f"-gpu_memory_target {self.UNet_vram_target_GB}: expected enough for {self.UNet_min_batch_size} "
                    f"patches of {patch}; found room for {voxels:.0f} voxels each. Give more GB."
                )
            patch[axis] -= DIVISOR
        return patch

    def _batch_size(self, patch: Sequence[int], voxels: float, dataset_voxels: float) -> int:
        """nnU-Net's rule: what fits, covering no more than 5 % of the data set, at least 2."""
        volume = float(np.prod(patch))
        fitting = round(voxels / volume * self.UNet_reference_val_corresp_bs_3d)
        covering = round(dataset_voxels * self.max_dataset_covered / volume)
        return max(min(fitting, covering), self.UNet_min_batch_size)

    def generate_data_identifier(self, configuration_name: str) -> str:
        """The default plans' for ``3d_fullres`` where the preprocessed data are the same, else one of our own."""
        if configuration_name == "3d_fullres" and self._data_are_the_defaults():
            return f"{DEFAULT_PLANS}_{configuration_name}"
        return super().generate_data_identifier(configuration_name)

    def _data_are_the_defaults(self) -> bool:
        file = Path(nnUNet_preprocessed) / self.dataset_name / f"{DEFAULT_PLANS}.json"
        plans = load_json(str(file)) if file.is_file() else {"configurations": {}}
        theirs = plans["configurations"].get("3d_fullres")
        if theirs is None:  # not planned yet: nnU-Net will choose the same unless told otherwise
            return self.overwrite_target_spacing is None
        transpose, _ = self.determine_transpose()
        spacing = np.asarray(self.determine_fullres_target_spacing())[transpose]
        schemes, masks = self.determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        ours = (list(map(int, transpose)), schemes, masks)
        same = ours == (plans["transpose_forward"], theirs["normalization_schemes"], theirs["use_mask_for_norm"])
        return bool(same and np.allclose(spacing, theirs["spacing"], rtol=1e-6))

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans without the 2D configuration, and with what the Genesis trainers read.

        Raises:
            GenesisError: the images are 2D.
        """
        if "3d_fullres" not in plans["configurations"]:
            raise GenesisError(
                f"{self.dataset_name}: the images are 2D, and the Genesis 3D U-Net needs 3D ones. Plan with nnU-Net's "
                "nnUNetv2_plan_and_preprocess."
            )
        plans["configurations"].pop("2d", None)
        plans["genesis"] = {"architecture": "genesis_unet3d"}
        if self.weights is not None:
            plans["genesis"]["weights"] = str(self.weights.resolve())
        super().save_plans(plans)


def _divisible(length: float) -> int:
    """The next multiple of 8, at least 8."""
    return max(1, int(np.ceil(length / DIVISOR))) * DIVISOR
