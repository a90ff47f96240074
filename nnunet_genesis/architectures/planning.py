"""What ``nnUNetv2_genesis_plan`` does: check, extract the fingerprint where it is missing, plan, say what is next."""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

from nnunet_genesis.architectures.planner import PLANS_NAME, GenesisUNet3DPlanner
from nnunet_genesis.checkpoint import GenesisWeights, load_weights
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import dataset_name, nnunet_folder, read_dataset_json, read_plans


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
    """Widths and epsilon of the Genesis 3D U-Net that the weights belong to.

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
    plans, configuration = weights.metadata["plans"], weights.metadata["configuration"]
    planned = plans.get("configurations", {}).get(configuration, {}).get("architecture", {}).get("arch_kwargs", {})
    return {"features_per_stage": [out for out, _ in widths], "norm_eps": float(planned.get("norm_eps", 1e-5))}


def summary(file: Path) -> str:
    """What was planned in the plans file, and the commands that come next."""
    plans, dataset = load_json(str(file)), convert_dataset_name_to_id(file.parent.name)
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
