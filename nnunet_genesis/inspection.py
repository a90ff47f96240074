"""What weights are, and what a trainer would do with them for a data set; nothing is trained or changed."""

import contextlib
import json
import math
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis import checkpoint, importers
from nnunet_genesis.checkpoint import GenesisWeights
from nnunet_genesis.checkpoint.architecture import without_values
from nnunet_genesis.checkpoint.lineage import Origin, texts
from nnunet_genesis.errors import GenesisError, printable
from nnunet_genesis.folders import planned_dataset
from nnunet_genesis.settings import Settings
from nnunet_genesis.transfer.network import Network, source_network, target_network
from nnunet_genesis.transfer.plan import plan_transfer

_LONGEST = 1000  # characters of a line that weights say of themselves


def inspect_weights(
    path: Path, dataset: str | None, configuration: str, plans_name: str, as_json: bool = False
) -> tuple[str, bool]:
    """Say what the weights are and, with a data set, what would be transferred and the command to run.

    ``nnUNet_genesis_min_coverage`` and ``nnUNet_genesis_partial_widths`` are heeded as by the trainers.

    Returns:
        The text (or JSON), and whether the trainers would refuse.

    Raises:
        GenesisError: the weights can't be read, or the data set has no such plans or configuration.
    """
    settings, source = Settings.from_environment(), importers.read(path)
    weights = checkpoint.check(importers.convert(source).checkpoint, source.path, source.sha256)
    found: dict[str, Any] = {"weights": describe_weights(weights)}
    told = [describe_text(found["weights"])]
    if foreign := importers.detect(source.content) != "genesis":
        found["import"] = f"nnUNetv2_genesis_import {shlex.quote(str(path))} -o genesis.pth"
        told.append(f"Not a Genesis checkpoint yet; first: {found['import']}")
    refusal = None
    if dataset is not None:
        with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints remarks, which would spoil the JSON
            target = planned_network(dataset, configuration, plans_name)
        report = plan_transfer(weights, target, ("encoder", "decoder"), bool(settings.partial_widths))
        refusal = report.refusal(settings.min_coverage)
        file = Path("genesis.pth") if foreign else source.path
        command = command_to_run(file, dataset, configuration, plans_name, bool(report.coverage("decoder")))
        found |= {"transfer": report.to_dict(), "refused": refusal, "command": None if refusal else command}
        told += [report.to_text(), f"REFUSED: {refusal}" if refusal else f"To fine-tune:\n{command}"]
    return json.dumps(found, indent=1) if as_json else "\n\n".join(told), refusal is not None


def import_text(imported: importers.Imported, output: Path) -> str:
    """Say what the weights of an import are, what of the file was placed, and the commands that come next.

    Raises:
        GenesisError: the record doesn't describe the tensors.
    """
    lines = [describe_text(describe_weights(checkpoint.check(imported.checkpoint, output)))]
    values = sum(math.prod(shape) for shape in imported.placed.values())
    lines.append(f"  {'placed:':<12} {len(imported.placed)} tensors, {values:,} values")
    for title, reasons in (("not placed:", imported.not_placed), ("filled:", imported.filled)):
        for reason, count in Counter(reasons.values()).most_common():
            example = next(name for name, why in reasons.items() if why == reason)
            lines.append(printable(f"  {title:<12} {count} tensors (e.g. {example}): {reason}"))
    lines += [printable(f"  {'note:':<12} {note}") for note in imported.notes]
    file = shlex.quote(str(output))
    return "\n".join(
        [
            *lines,
            f"Next:\n  nnUNetv2_genesis_inspect {file} -d DATASET",
            f"  nnUNetv2_genesis_plan -d DATASET --for {file}    # plans whose network takes them whole",
            f"  export nnUNet_genesis_weights={shlex.quote(str(output.resolve()))}",
            "  nnUNetv2_train DATASET 3d_fullres FOLD -tr nnUNetTrainerGenesis",
        ]
    )


def describe_weights(weights: GenesisWeights) -> dict[str, Any]:
    """Describe network, data, spacing, normalisation, training, licence and citations, as plain data.

    Raises:
        GenesisError: the record doesn't describe the tensors.
    """
    network, record = source_network(weights), weights.record
    tensors = {value.untyped_storage().data_ptr(): value.numel() for value in weights.network_weights.values()}
    try:
        return {
            "file": str(weights.path),
            "sha256": weights.sha256,
            "method": record.method,
            "network": {
                "kind": network.kind,
                "features_per_stage": _features(network),
                "strides": [list(stride) for stride in network.strides],
                "parameters": sum(tensors.values()),
            },
            "spacing_mm": network.spacing,
            "axis_order": network.axis_order,
            "patch_size": record.patch_size,
            "channels": list(network.channels),
            "normalization": _normalization(record.normalization or {}),
            **{key: getattr(record, key) for key in ("data", "training", "options", "imported", "software", "licence")},
            "lineage": record.lineage or [],
            "strictest_licence": Origin([{"licence": record.licence}, *(record.lineage or [])]).licence,
            "citations": texts(record.citations),
        }
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise GenesisError(
            f"{weights.path}: its Genesis record is damaged ({type(error).__name__}: {error}). Write it anew with "
            "nnUNetv2_genesis_pretrain or nnUNetv2_genesis_import."
        ) from error


def _features(network: Network) -> list[int]:
    """Count the output channels of the first block of every encoder stage."""
    stages = range(len(network.strides))
    names = [[name for name in network.shapes if name.startswith(f"encoder.stages.{stage}.")] for stage in stages]
    return [max(network.shapes[name][0] for name in stage if name.endswith("conv.weight")) for stage in names]


def _normalization(normalization: Mapping[str, Any]) -> list[str]:
    properties = normalization.get("foreground_intensity_properties_per_channel") or {}
    texts = []
    for channel, scheme in enumerate(normalization.get("schemes", [])):
        if scheme == "CTNormalization" and (p := properties.get(str(channel))):
            scheme += (
                f" (HU clipped to {p['percentile_00_5']:.0f} … {p['percentile_99_5']:.0f}, mean {p['mean']:.1f}, "
                f"sd {p['std']:.1f})"
            )
        texts.append(str(scheme))
    return texts


def describe_text(description: Mapping[str, Any]) -> str:
    """Write the description of :func:`describe_weights` for people."""
    network, spacing, lineage = description["network"], description["spacing_mm"], description["lineage"]
    lines = {
        "SHA-256": description["sha256"],
        "method": description["method"],
        "network": f"{network['kind']}, {len(network['strides'])} stages, features "
        f"{'-'.join(map(str, network['features_per_stage']))}, {network['parameters'] / 1e6:.1f} million parameters",
        "spacing": " x ".join(f"{length:.3g}" for length in spacing) + " mm" if spacing else "unknown",
        "axes": ", ".join(description["axis_order"]),
        "patch size": description["patch_size"],
        "channels": ", ".join(description["channels"]),
        "intensities": "; ".join(description["normalization"]),
        **{key: _flat(description[key]) for key in ("data", "training", "options", "imported", "software")},
        "licence": description["licence"] or "not stated",
        "strictest": description["strictest_licence"] if description["lineage"] else None,
    }
    parents = [("from", _flat({key: value for key, value in one.items() if key != "imported"})) for one in lineage]
    pairs = [*lines.items(), *parents, *(("cite", citation) for citation in description["citations"])]
    text = [f"  {key + ':':<12} {printable(value, _LONGEST)}" for key, value in pairs if value]
    return "\n".join([printable(description["file"]), *text])


def _flat(values: Any) -> str:
    if not isinstance(values, Mapping):
        return str(values or "")
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def planned_network(dataset: str, configuration: str, plans_name: str) -> Network:
    """Describe the network that nnU-Net would build for a data set, without memory for its tensors.

    Raises:
        GenesisError: there are no such plans or configuration, or it is 2D.
    """
    found = planned_dataset(dataset, plans_name, configuration)
    plans, dataset_json = found.plans, found.dataset_json
    manager = PlansManager(plans)
    planned = manager.get_configuration(configuration)
    if len(planned.patch_size) != 3:
        raise GenesisError(f"Configuration {configuration!r} is 2D; Genesis weights are 3D. Use -c 3d_fullres.")
    inputs = determine_num_input_channels(manager, planned, dataset_json)
    outputs = manager.get_label_manager(dataset_json).num_segmentation_heads
    network = without_values(planned.configuration["architecture"], inputs, outputs, deep_supervision=True)
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    return target_network(plans, configuration, dataset_json, shapes)


def command_to_run(weights: Path, dataset: str, configuration: str, plans_name: str, decoder: bool) -> str:
    """Say what to type to fine-tune; ``decoder``: some of it can be transferred."""
    full = "    # or nnUNetTrainerGenesisFull, with the decoder" if decoder else ""
    plans = "" if plans_name == "nnUNetPlans" else f" -p {plans_name}"
    return (
        f"export nnUNet_genesis_weights={shlex.quote(str(weights.resolve()))}\n"
        f"nnUNetv2_train {dataset} {configuration} 0{plans} -tr nnUNetTrainerGenesis{full}"
    )
