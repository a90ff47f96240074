"""Planners for a network that is given: nnU-Net's, with patch and batch size fitted to this network."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.paths import nnUNet_preprocessed

from nnunet_genesis.architectures.genesis_unet3d import planned_map
from nnunet_genesis.checkpoint.architecture import GENESIS, PLAIN, RESIDUAL, without_values
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import channel_names, read_plans

PLANS_NAME, FOR_WEIGHTS = "nnUNetGenesisUNet3DPlans", "nnUNetGenesisPlans"
DEFAULT_PLANS = "nnUNetPlans"
# A patch isn't made smaller than this for lack of memory, in voxels of the bottleneck.
LEAST_EDGE = 2
# nnU-Net's own, for 8 GB: feature maps of what its planners for plain and residual encoders plan (2.8.1).
_REFERENCE = {PLAIN: 560_000_000, RESIDUAL: 680_000_000, GENESIS: 560_000_000}


class FixedNetworkPlanner(ExperimentPlanner):
    """nnU-Net's planner for a network that is given: 3D configurations only.

    Spacing, normalisation, resampling, cascade and the rules for patch and batch size are nnU-Net's.

    Args:
        dataset_name_or_id: a data set in nnUNet_raw whose fingerprint has been extracted.
        network: the plans' ``architecture``.
        axes: their order in the network's kernels and strides, e.g. ``zyx``.
        patch_size: voxels, in the order of the image file's arrays (z, y, x); ``None``: by nnU-Net's rule.
        batch_size: likewise.
        entry: the plans' ``genesis``.
        options: nnU-Net's own; ``overwrite_target_spacing``: mm of ``3d_fullres``, floats, (z, y, x).
    """

    plans_identifier: str
    dataset_name: str

    def __init__(
        self,
        dataset_name_or_id: str | int,
        *,
        network: Mapping[str, Any],
        axes: str = "zyx",
        patch_size: Sequence[int] | None = None,
        batch_size: int | None = None,
        entry: Mapping[str, Any] | None = None,
        **options: Any,
    ):
        super().__init__(dataset_name_or_id, **options)
        self.network, self.axes, self.entry = network, axes, dict(entry or {})
        self.patch_size, self.batch_size = patch_size, batch_size

    def architecture(self, schemes: Sequence[str], transpose: Sequence[int]) -> dict[str, Any]:
        """Turn kernels and strides to the plans' order of the axes, ``transpose``; ``schemes``: of the channels."""
        order = [self.axes.index("zyx"[axis]) for axis in transpose]

        def turned(sizes: Any) -> list[int]:
            return [sizes[axis] for axis in order] if isinstance(sizes, list) else [sizes] * 3

        arguments = dict(self.network["arch_kwargs"])
        for name in ("kernel_sizes", "strides"):
            sizes = arguments[name]
            arguments[name] = [turned(size) for size in sizes] if isinstance(sizes, list) else turned(sizes)
        return {**self.network, "arch_kwargs": arguments}

    @staticmethod
    def static_estimate_VRAM_usage(*_args: Any, **_kwargs: Any) -> int:  # noqa: N802 - nnU-Net's name
        """Return next to nothing: nnU-Net's U-Net isn't the one to be trained, so it isn't built, nor its patch shrunk.

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
        """Make nnU-Net's plan of one configuration, with our network and the patch and batch size that fit it.

        Raises:
            GenesisError: no patch fits the memory or the network, or a channel's intensities can't be mapped to [0, 1].
        """
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        if len(spacing) == 3:  # the 2D plan is dropped in save_plans
            transpose, _ = self.determine_transpose()
            plan["architecture"] = self.architecture(plan["normalization_schemes"], transpose)
            steps = np.prod(plan["architecture"]["arch_kwargs"]["strides"], axis=0).tolist()
            voxels = self._voxels_that_fit(plan["architecture"], steps)
            given = self.patch_size and [self.patch_size[axis] for axis in transpose]
            plan["patch_size"] = given or self._fit_patch(plan["patch_size"], median_shape, voxels, steps)
            _check_patch(plan["patch_size"], steps)
            plan["batch_size"] = self.batch_size or self._fit_batch(
                plan["patch_size"], voxels, approximate_n_voxels_dataset
            )
        return plan

    def _voxels_that_fit(self, architecture: Mapping[str, Any], steps: Sequence[int]) -> float:
        """Count the voxels of the largest patch, of edges divisible by ``steps``, that nnU-Net's estimate allows."""
        channels, labels = len(channel_names(self.dataset_json)), len(self.dataset_json["labels"])
        network: Any = without_values(architecture, channels, labels)  # shapes are all that the estimate needs
        # The same for every patch: its edges are divisible, so the estimate is proportional to its volume.
        per_voxel = network.compute_conv_feature_map_size(steps) / math.prod(steps)
        reference = _REFERENCE[architecture["network_class_name"]]
        return reference * self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB / per_voxel

    def _fit_patch(
        self, largest: Sequence[int], median_shape: Sequence[float], voxels: float, steps: Sequence[int]
    ) -> list[int]:
        """Shrink the median shape, rounded up, to ``voxels`` at most: nnU-Net's rule in the network's steps."""
        patch = [
            min(_divisible(length, step) for length in lengths)
            for *lengths, step in zip(largest, median_shape, steps, strict=True)
        ]
        if patch == list(steps):  # the bottleneck would be a single voxel, which has no variance
            longest = int(np.argmax(median_shape))
            patch[longest] *= 2
        voxels *= self.UNet_reference_val_corresp_bs_3d / self.UNet_min_batch_size
        while np.prod(patch) > voxels:
            excess = [length / median for length, median in zip(patch, median_shape, strict=True)]
            axis = max(range(3), key=lambda a: (patch[a] > LEAST_EDGE * steps[a], excess[a]))
            if patch[axis] <= LEAST_EDGE * steps[axis]:
                raise GenesisError(
                    f"-gpu_memory_target {self.UNet_vram_target_GB}: expected enough for {self.UNet_min_batch_size} "
                    f"patches of {patch}; found room for {voxels:.0f} voxels each. Give more GB, or a --patch."
                )
            patch[axis] -= steps[axis]
        return patch

    def _fit_batch(self, patch: Sequence[int], voxels: float, dataset_voxels: float) -> int:
        """Follow nnU-Net's rule: what fits, covering no more than 5 % of the data set, at least 2."""
        volume = float(np.prod(patch))
        fitting = round(voxels / volume * self.UNet_reference_val_corresp_bs_3d)
        covering = round(dataset_voxels * self.max_dataset_covered / volume)
        return max(min(fitting, covering), self.UNet_min_batch_size)

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Return the default plans' for ``3d_fullres`` where the preprocessed data are the same, else our own."""
        if configuration_name == "3d_fullres" and self._data_are_the_defaults():
            return f"{DEFAULT_PLANS}_{configuration_name}"
        return super().generate_data_identifier(configuration_name)

    def _data_are_the_defaults(self) -> bool:
        file = Path(nnUNet_preprocessed) / self.dataset_name / f"{DEFAULT_PLANS}.json"
        plans = read_plans(file) if file.is_file() else {"configurations": {}}
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
                f"{self.dataset_name}: the images are 2D, and the network needs 3D ones. Plan with nnU-Net's "
                "nnUNetv2_plan_and_preprocess."
            )
        plans["configurations"].pop("2d", None)
        plans["genesis"] = self.entry
        super().save_plans(plans)


class GenesisUNet3DPlanner(FixedNetworkPlanner):
    """The same for :class:`nnunet_genesis.architectures.GenesisUNet3D`; plans keep their planner's name."""

    def architecture(self, schemes: Sequence[str], transpose: Sequence[int]) -> dict[str, Any]:
        """Add what maps each channel to [0, 1]; the network is the same for any order of the axes."""
        properties = self.dataset_fingerprint["foreground_intensity_properties_per_channel"]
        maps = [planned_map(scheme, properties[str(channel)]) for channel, scheme in enumerate(schemes)]
        scales, shifts = map(list, zip(*maps, strict=True))
        arguments = {**self.network["arch_kwargs"], "input_scale": scales, "input_shift": shifts}
        return {**self.network, "arch_kwargs": arguments}


def _divisible(length: float, step: int) -> int:
    """Round up to a multiple of ``step``, at least one."""
    return max(1, int(np.ceil(length / step))) * step


def _check_patch(patch: Sequence[int], steps: Sequence[int]) -> None:
    if any(length < step or length % step for length, step in zip(patch, steps, strict=True)):
        close = [_divisible(length - step / 2, step) for length, step in zip(patch, steps, strict=True)]
        raise GenesisError(
            f"--patch {list(patch)} (in the plans' order of the axes): expected multiples of {list(steps)}, by which "
            f"the network halves. The closest is {close}."
        )
    if list(patch) == list(steps):
        raise GenesisError(
            f"--patch {list(patch)}: the network's last map would be a single voxel, which can't be normalised. Double "
            "one axis at least."
        )
