"""Plans for the original Models Genesis 3D U-Net: nnU-Net's, with patch and batch size fitted to this network."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

from nnunet_genesis.architectures.genesis_unet3d import (
    DIVISOR,
    PUBLISHED_FEATURES,
    GenesisUNet3D,
    architecture,
    planned_map,
)
from nnunet_genesis.checkpoint import GenesisWeights, load_weights
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json
from nnunet_genesis.folders import dataset_name, nnunet_folder, read_dataset_json, read_plans

PLANS_NAME = "nnUNetGenesisUNet3DPlans"
DEFAULT_PLANS = "nnUNetPlans"
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
        return architecture(self.features_per_stage, self.norm_eps, maps)

    def _voxels_that_fit(self, arch_kwargs: Mapping[str, Any]) -> float:
        """Count the voxels of the largest patch, at nnU-Net's reference batch size, in the memory target."""
        with torch.device("meta"):  # shapes are all that the estimate needs
            network = GenesisUNet3D(len(arch_kwargs["input_scale"]), len(self.dataset_json["labels"]), **arch_kwargs)
        # The same for every patch: its edges are divisible by 8, so the estimate is proportional to its volume.
        per_voxel = network.compute_conv_feature_map_size([DIVISOR] * 3) / DIVISOR**3
        return self.UNet_reference_val_3d * self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB / per_voxel

    def _fit_patch(self, largest: Sequence[int], median_shape: Sequence[float], voxels: float) -> list[int]:
        """Shrink the median shape, rounded up, to ``voxels`` at most: nnU-Net's rule in steps of 8."""
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
                f"{self.dataset_name}: the images are 2D, and the Genesis 3D U-Net needs 3D ones. Plan with nnU-Net's "
                "nnUNetv2_plan_and_preprocess."
            )
        plans["configurations"].pop("2d", None)
        plans["genesis"] = {"architecture": "genesis_unet3d"}
        if self.weights is not None:
            plans["genesis"]["weights"] = str(self.weights.resolve())
        super().save_plans(plans)


def _divisible(length: float) -> int:
    """Round up to a multiple of 8, at least 8."""
    return max(1, int(np.ceil(length / DIVISOR))) * DIVISOR


def plan_genesis_unet3d(
    dataset: str,
    weights: Path | None = None,
    gpu_memory_target: float = 8,
    overwrite_target_spacing: Sequence[float] | None = None,
    plans_name: str = PLANS_NAME,
) -> Path:
    """Plan the original Genesis 3D U-Net for a labelled data set.

    Args:
        dataset: name or id of a data set in nnUNet_raw.
        weights: Genesis checkpoint to be written into the plans; the network takes its widths and epsilon.
        gpu_memory_target: GB, by nnU-Net's estimate.
        overwrite_target_spacing: mm of ``3d_fullres``, in the order of the image's array (z, y, x).
        plans_name: name of the plans.

    Returns:
        The plans file.

    Raises:
        GenesisError: the data set isn't there, an option or the weights can't be used, or the plans' name is taken.
    """
    if gpu_memory_target <= 0 or any(length <= 0 for length in overwrite_target_spacing or ()):
        raise GenesisError(
            f"-gpu_memory_target {gpu_memory_target}, -overwrite_target_spacing {overwrite_target_spacing}: expected "
            "numbers above 0. Correct the command."
        )
    network = network_arguments(load_weights(weights)) if weights else {}
    name = _dataset_name(dataset)
    folder = Path(nnUNet_preprocessed) / name
    file = folder / f"{plans_name}.json"
    _refuse_foreign_plans(file)
    if not (folder / "dataset_fingerprint.json").is_file():
        print(f"{folder}: no dataset_fingerprint.json yet; extracting it, as nnUNetv2_extract_fingerprint does")
        extract_fingerprint_dataset(convert_dataset_name_to_id(name), verbose=False)
    spacing = [float(length) for length in overwrite_target_spacing] if overwrite_target_spacing else None
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net prints every configuration's dictionary
        GenesisUNet3DPlanner(
            name, gpu_memory_target, plans_name=plans_name, overwrite_target_spacing=spacing, weights=weights, **network
        ).plan_experiment()
    return file


def network_arguments(weights: GenesisWeights) -> dict[str, Any]:
    """Return widths and epsilon of the Genesis 3D U-Net that the weights belong to.

    Raises:
        GenesisError: they belong to another network.
    """
    tensors = weights.network_weights
    second = [f"encoder.stages.{level}.0.convs.1.conv.weight" for level in range(4)]
    widths = [tuple(tensors[name].shape[:2]) for name in second if name in tensors]
    deeper = any(name.startswith("encoder.stages.4.") for name in tensors)
    if len(widths) != 4 or deeper or any(out != 2 * inside for out, inside in widths):
        raise GenesisError(
            f"{weights.path}: expected weights of the original Genesis 3D U-Net (four encoder stages whose second "
            f"convolution doubles the features), found {widths or 'other tensors'}. Give Genesis_Chest_CT weights "
            "imported with nnUNetv2_genesis_import; weights of nnU-Net's networks need no plans of their own."
        )
    arguments = weights.record.planned.network_arch_init_kwargs
    return {"features_per_stage": [out for out, _ in widths], "norm_eps": float(arguments.get("norm_eps", 1e-5))}


def summary(file: Path) -> str:
    """Say what was planned in the plans file, and the commands that come next."""
    plans, dataset = read_json(file), convert_dataset_name_to_id(file.parent.name)
    lines = [f"Plans: {file}"]
    planned = {name: values for name, values in plans["configurations"].items() if "patch_size" in values}
    for name, values in planned.items():
        edges = ["×".join(f"{length:.3g}" for length in values[key]) for key in ("patch_size", "spacing")]
        lines.append(f"  {name}: patch {edges[0]}, batch size {values['batch_size']}, spacing {edges[1]} mm")
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    for channel, (scale, shift) in enumerate(zip(arguments["input_scale"], arguments["input_shift"], strict=True)):
        lines.append(f"  network input, channel {channel}: x · {scale:.6g} + {shift:.6g}, clipped to [0, 1]")
    name, given = file.stem, plans["genesis"].get("weights")
    lines.append(f"  weights: {given or 'none yet; set nnUNet_genesis_weights=/path/to/genesis.pth, as below'}")
    data = file.parent / plans["configurations"]["3d_fullres"]["data_identifier"]
    shared = f"   # not needed if {data} is complete" if data.is_dir() else ""
    lines += ["Next:", f"  nnUNetv2_preprocess -d {dataset} -p {name} -c {' '.join(sorted(planned))}{shared}"]
    if not os.environ.get("nnUNet_extTrainer"):
        lines.append('  export nnUNet_extTrainer="$(nnUNetv2_genesis_trainers)"')
    if not given:
        lines.append("  export nnUNet_genesis_weights=/path/to/genesis.pth")
    return "\n".join([*lines, f"  nnUNetv2_train {dataset} 3d_fullres 0 -p {name} -tr nnUNetTrainerGenesisFull"])


def _dataset_name(dataset: str) -> str:
    raw, _ = nnunet_folder("nnUNet_raw"), nnunet_folder("nnUNet_preprocessed")
    name = dataset_name(dataset)
    file = raw / name / "dataset.json"
    if not file.is_file():
        raise GenesisError(
            f"{file}: no such file; planning needs the raw, labelled data set. Correct -d or nnUNet_raw. (Scans "
            "without labels: nnUNetv2_genesis_prepare --like a planned data set, with -p.)"
        )
    read_dataset_json(file)
    return name


def _refuse_foreign_plans(file: Path) -> None:
    ours = GenesisUNet3DPlanner.__name__
    planner = read_plans(file).get("experiment_planner_used") if file.is_file() else ours
    if planner != ours:
        raise GenesisError(
            f"{file}: exists already and is {planner}'s; expected no plans, or plans of {ours}. Choose another name "
            "with -overwrite_plans_name."
        )
