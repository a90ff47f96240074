"""Plans for the original Models Genesis 3D U-Net, and for the network of any weights: what the command does."""

import contextlib
import io
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

from nnunet_genesis.architectures.genesis_unet3d import architecture
from nnunet_genesis.architectures.planner import FOR_WEIGHTS, PLANS_NAME, FixedNetworkPlanner, GenesisUNet3DPlanner
from nnunet_genesis.checkpoint import GenesisWeights, load_weights
from nnunet_genesis.checkpoint.architecture import GENESIS, own_words
from nnunet_genesis.errors import GenesisError, printable
from nnunet_genesis.files import read_json
from nnunet_genesis.folders import dataset_name, nnunet_folder, read_dataset_json, read_plans
from nnunet_genesis.importers.base import own_layout
from nnunet_genesis.inspection import planned_network
from nnunet_genesis.transfer.network import source_network
from nnunet_genesis.transfer.plan import plan_transfer
from nnunet_genesis.transfer.report import LoadReport

CONFIGURATION = "3d_fullres"


def plan_network(
    dataset: str,
    file: Path | None = None,
    *,
    whole: bool = False,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    spacing: Sequence[float] | None = None,
    pretrained_spacing: bool = False,
    gpu_memory_target: float = 8,
    plans_name: str | None = None,
) -> Path:
    """Plan a labelled data set for the network of given weights, or for the original Genesis 3D U-Net.

    Normalisation, resampling and, unless asked otherwise, spacing, patch and batch size follow from the data set by
    nnU-Net's rules. A missing fingerprint is extracted first.

    Args:
        dataset: name or id of a data set in nnUNet_raw.
        file: Genesis checkpoint that the plans name.
        whole: its network may be any, and the plans name its SHA-256 too; otherwise it is the Genesis 3D U-Net, of
            these widths and epsilon.
        patch_size: voxels, in the order of the image's array (z, y, x).
        batch_size: patches.
        spacing: mm of ``3d_fullres``, (z, y, x).
        pretrained_spacing: resample to the spacing that the weights were trained with.
        gpu_memory_target: GB, by nnU-Net's estimate.
        plans_name: name of the plans [default: :data:`PLANS_NAME`, :data:`FOR_WEIGHTS` where ``whole``].

    Returns:
        The plans file.

    Raises:
        GenesisError: the data set isn't there, an option or the weights can't be used, or the plans' name is taken.
    """
    numbers = {"-gpu_memory_target": [gpu_memory_target], "-overwrite_target_spacing": spacing, "--patch": patch_size}
    numbers["--batch_size"] = None if batch_size is None else [batch_size]
    for option, given in numbers.items():
        if given is not None and not all(0 < number < math.inf for number in given):
            raise GenesisError(f"{option} {given if given[1:] else given[0]}: expected numbers above 0. Correct it.")
    options: dict[str, Any] = {"gpu_memory_target_in_gb": gpu_memory_target, "patch_size": patch_size}
    options |= {"batch_size": batch_size, "plans_name": plans_name or (FOR_WEIGHTS if whole else PLANS_NAME)}
    if spacing:
        options["overwrite_target_spacing"] = [float(length) for length in spacing]
    options |= {"network": architecture(), "entry": {"architecture": "genesis_unet3d"}}
    planner: type[FixedNetworkPlanner] = GenesisUNet3DPlanner
    if file:
        weights = load_weights(file)
        options["network"], options["axes"] = network, axes = _network(weights)
        if network["network_class_name"] != GENESIS:
            planner, options["entry"] = FixedNetworkPlanner, {}
        options["entry"] |= {"weights": str(file.resolve())} | ({"sha256": weights.sha256} if whole else {})
        if not whole and planner is FixedNetworkPlanner:
            raise GenesisError(
                f"{file}: expected weights of the original Genesis 3D U-Net, found a {source_network(weights).kind} "
                "network's. Give Genesis_Chest_CT weights imported with nnUNetv2_genesis_import; for weights of other "
                "networks use --for in place of --weights."
            )
        if pretrained_spacing:
            options["overwrite_target_spacing"] = _spacing(weights, axes)
    return _plan(dataset, planner, options)


def _network(weights: GenesisWeights) -> tuple[dict[str, Any], str]:
    """Describe the network that the weights belong to, in our own words, and the order of its axes."""
    axes, given = source_network(weights).axis_order, weights.record.planned.configuration["architecture"]
    network = own_words(given["network_class_name"], given["arch_kwargs"], weights.path)
    whole, found = own_layout(weights.network_weights, network, weights.path)
    whole.of_encoder().fill(found)  # or refuse: the record describes another network
    return network, axes


def _spacing(weights: GenesisWeights, axes: str) -> list[float]:
    if not (spacing := weights.record.spacing):
        raise GenesisError(
            f"{weights.path}: --spacing pretrained: the weights' spacing isn't known. Leave the option out."
        )
    return [float(spacing[axes.index(axis)]) for axis in "zyx"]


def _plan(dataset: str, planner: type[FixedNetworkPlanner], options: dict[str, Any]) -> Path:
    name = _dataset_name(dataset)
    folder = Path(nnUNet_preprocessed) / name
    file = folder / f"{options['plans_name']}.json"
    _refuse_foreign_plans(file, planner.__name__, options["entry"].get("sha256"))
    if not (folder / "dataset_fingerprint.json").is_file():
        print(f"{folder}: no dataset_fingerprint.json yet; extracting it, as nnUNetv2_extract_fingerprint does")
        extract_fingerprint_dataset(convert_dataset_name_to_id(name), verbose=False)
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net prints every configuration's dictionary
        planner(name, **options).plan_experiment()
    return file


def summary(file: Path) -> str:
    """Say what was planned in the plans file, and the commands that come next."""
    plans, dataset = read_json(file), convert_dataset_name_to_id(file.parent.name)
    lines = [f"Plans: {file}"]
    planned = {name: values for name, values in plans["configurations"].items() if "patch_size" in values}
    for name, values in planned.items():
        edges = ["×".join(f"{length:.3g}" for length in values[key]) for key in ("patch_size", "spacing")]
        lines.append(f"  {name}: patch {edges[0]}, batch size {values['batch_size']}, spacing {edges[1]} mm")
        median = values["median_image_size_in_voxels"]
        if any(edge > 2 * length for edge, length in zip(values["patch_size"], median, strict=True)):
            lines.append(f"    more than half of a patch is padding: the median image has {[round(n) for n in median]}")
    lines += _input_maps(plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"])
    name, given = file.stem, plans["genesis"].get("weights")
    lines.append(f"  weights: {given or 'none yet; set nnUNet_genesis_weights=/path/to/genesis.pth, as below'}")
    report = _transfer(Path(given), dataset, name) if given else None
    lines += _taken(report) if report else []
    data = file.parent / plans["configurations"][CONFIGURATION]["data_identifier"]
    shared = f"   # not needed if {data} is complete" if data.is_dir() else ""
    lines += ["Next:", f"  nnUNetv2_preprocess -d {dataset} -p {name} -c {' '.join(sorted(planned))}{shared}"]
    if given:
        quoted = shlex.quote(given)
        lines.append(f"  nnUNetv2_genesis_pretrain {dataset} {CONFIGURATION} -p {name} --init {quoted}   # if you like")
    if not os.environ.get("nnUNet_extTrainer"):
        lines.append('  export nnUNet_extTrainer="$(nnUNetv2_genesis_trainers)"')
    if not given:
        lines.append("  export nnUNet_genesis_weights=/path/to/genesis.pth")
    trainer = "nnUNetTrainerGenesisFull" if not report or report.coverage("decoder") else "nnUNetTrainerGenesis"
    return "\n".join([*lines, f"  nnUNetv2_train {dataset} {CONFIGURATION} 0 -p {name} -tr {trainer}"])


def _input_maps(arguments: Mapping[str, Any]) -> list[str]:
    maps = zip(arguments.get("input_scale") or (), arguments.get("input_shift") or (), strict=True)
    return [
        f"  network input, channel {channel}: x · {scale:.6g} + {shift:.6g}, clipped to [0, 1]"
        for channel, (scale, shift) in enumerate(maps)
    ]


def _transfer(file: Path, dataset: int, plans_name: str) -> LoadReport:
    network = planned_network(str(dataset), CONFIGURATION, plans_name)
    return plan_transfer(load_weights(file), network, ("encoder", "decoder"))


def _taken(report: LoadReport) -> list[str]:
    """Say what of the weights the planned network takes."""
    taken = ", ".join(f"{report.coverage(part):.1%} of the {part}'s parameters" for part in ("encoder", "decoder"))
    steps = dict.fromkeys(str(step) for move in report.moves for step in move.steps)
    lines = [f"  taken from them: {taken}{f' ({chr(59).join(steps)})' if steps else ''}"]
    return lines + [f"  WARNING: {printable(warning)}" for warning in report.warnings]


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


def _refuse_foreign_plans(file: Path, planner: str, sha256: str | None) -> None:
    if not file.is_file():
        return
    plans = read_plans(file)
    theirs, entry = plans.get("experiment_planner_used"), plans.get("genesis")
    if theirs != planner:
        found = f"is {theirs}'s; expected no plans, or plans of {planner}"
    elif sha256 and isinstance(entry, Mapping) and entry.get("sha256") != sha256:
        found = f"is for other weights ({entry.get('weights')})"
    else:
        return
    raise GenesisError(f"{file}: exists already and {found}. Choose another name with -overwrite_plans_name.")
