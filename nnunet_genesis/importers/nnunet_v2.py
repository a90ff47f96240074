"""A checkpoint of supervised nnU-Net v2 training (a user's own, TotalSegmentator's, …)."""

import warnings
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis.checkpoint import CITATIONS, Record
from nnunet_genesis.checkpoint.architecture import input_channels, own_words
from nnunet_genesis.checkpoint.lineage import Origin
from nnunet_genesis.checkpoint.record import axis_order, one_configuration
from nnunet_genesis.checkpoint.untrusted import plain
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import channel_names
from nnunet_genesis.importers.base import Imported, Source, own_layout


def convert(source: Source) -> Imported:
    """Take the network as it is; the record comes from the plans inside the file.

    Of the plans, the configuration that was trained is kept, its architecture in our own words: nothing that the file
    names is imported, now or later.

    Args:
        source: a dict with ``network_weights``, ``init_args`` (``plans``, ``configuration``, ``dataset_json``) and
            ``trainer_name``. Plans from before nnU-Net 2.3 are brought up to date by nnU-Net itself.

    Raises:
        GenesisError: the checkpoint is 2D, of an unknown architecture, incomplete or damaged.
    """
    state = source.tensors("network_weights")
    if "head.weight" in state and not any(name.startswith("decoder.") for name in state):
        raise GenesisError(
            f"{source.path}: expected a network that segments, found a classifier's encoder and head, of which no "
            "segmentation weights are made. Use the weights that it began with; a classifier is shared as its folder."
        )
    plans, name, dataset = _init_args(source)
    planned = plans["configurations"][name]
    layout, found = own_layout(state, planned["architecture"], source.path)
    weights = layout.fill(found)
    data: dict[str, Any] = {
        "channel_names": _channel_names(dataset, planned["normalization_schemes"], input_channels(weights), source)
    }
    fold, cases = source.content["init_args"].get("fold"), dataset.get("numTraining")
    if isinstance(fold, int) or fold == "all":
        data["fold"] = fold
    if fold == "all" and isinstance(cases, int):  # of a fold they are not told
        data["number_of_cases"] = {"training": cases}
    kept = source.content["init_args"].get("genesis")  # by our trainers, of the weights that the network began with
    parents = Origin.of(plain(kept, source.path)) if isinstance(kept, dict) else Origin()
    stated = dataset.get("licence") or dataset.get("license")
    licences = [*parents.lineage, *([{"licence": stated}] if stated else [])]
    record = Record.of(
        plans,
        name,
        imported=None if parents.lineage else source.describe("nnunet_v2"),
        method=f"supervised (nnU-Net v2, {source.content.get('trainer_name') or 'unknown trainer'})",
        data=data,
        licence=Origin(licences).licence if licences else "not stated in the file",
        parents=parents,
        citations=[CITATIONS[1], *([str(dataset["reference"])] if dataset.get("reference") else [])],
    )
    placed = [key for key in found if key in layout.shapes]
    return Imported.of(weights, record, found, placed, why="not in the network that the plans describe")


def _channel_names(dataset: dict[str, Any], schemes: list[Any], inputs: int, source: Source) -> dict[str, str]:
    try:
        names = channel_names(dataset)
    except (GenesisError, AttributeError, TypeError, ValueError):
        names = {}
    if list(names) != [str(number) for number in range(len(schemes))]:
        raise GenesisError(
            f"{source.path}: expected channel_names numbered from 0, with a normalisation each, found "
            f"{str(names)[:80]} and {schemes}. The file is damaged."
        )
    if len(names) != inputs:
        raise GenesisError(
            f"{source.path}: expected a network that sees the {len(names)} image channels alone, found {inputs} input "
            "channels; it is the second stage of a cascade. Use the weights of its 3d_lowres or 3d_fullres."
        )
    return names


def _init_args(source: Source) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return plans with the trained configuration alone, its name, and the data set's description; all plain."""
    arguments = source.content.get("init_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    name, dataset = arguments.get("configuration"), arguments.get("dataset_json")
    given = arguments.get("plans")
    if not (isinstance(given, dict) and isinstance(name, str) and isinstance(dataset, dict)):
        raise GenesisError(
            f"{source.path}: expected init_args with 'plans', 'configuration' and 'dataset_json', found "
            f"{', '.join(map(str, arguments)) or 'none'}. Give a checkpoint_*.pth as nnU-Net v2 wrote it."
        )
    given = plain(given, source.path)
    try:
        with warnings.catch_warnings():  # nnU-Net's advice on old plans is for training
            warnings.simplefilter("ignore")
            manager = PlansManager(given)
            configuration = manager.get_configuration(name).configuration
        foreground = manager.foreground_intensity_properties_per_channel
        old = configuration["architecture"]
        architecture = own_words(old["network_class_name"], old["arch_kwargs"], source.path)
        _check(configuration, foreground)
        axis_order(given)
    except GenesisError:
        raise
    except Exception as error:  # nnU-Net's plans handler takes its input for granted
        raise GenesisError(
            f"{source.path}: the plans inside it can't be read for configuration {name!r} ({type(error).__name__}: "
            f"{error}). The file is damaged or of a version of nnU-Net that we don't know."
        ) from error
    plans = one_configuration(given, name, configuration | {"architecture": architecture}, foreground)
    return {"dataset_name": "unknown", "plans_name": "unknown"} | plans, name, plain(dataset, source.path)


def _check(configuration: dict[str, Any], foreground: Any) -> None:
    """Raise whatever error where the record that comes of it couldn't be used."""
    for key in ("patch_size", "spacing", "normalization_schemes", "use_mask_for_norm"):
        if not isinstance(configuration[key], list):
            raise TypeError(f"{key} is a {type(configuration[key]).__name__}")
    for channel, scheme in enumerate(configuration["normalization_schemes"]):
        if scheme == "CTNormalization":
            for key in ("mean", "std", "percentile_00_5", "percentile_99_5"):
                float(foreground[str(channel)][key])
    sizes = [*map(int, configuration["patch_size"]), *map(float, configuration["spacing"])]
    if len(configuration["patch_size"]) != 3 or len(configuration["spacing"]) != 3 or min(sizes) <= 0:
        raise ValueError(f"sizes {sizes}: expected three edges of a patch and of a voxel, all above 0")
