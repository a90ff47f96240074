"""The ``genesis`` record of an imported file: the keys that pretraining writes, where they make sense."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis.adaptation_plan import adaptation_plan
from nnunet_genesis.checkpoint import CITATIONS, SCHEMA_VERSION, software_versions

CONFIGURATION = "3d_fullres"

GENESIS_CITATIONS = [
    CITATIONS[0],
    "Zhou Z, Sodha V, Rahman Siddiquee MM, et al. Models Genesis: Generic Autodidactic Models for 3D Medical Image "
    "Analysis. MICCAI 2019. doi:10.1007/978-3-030-32251-9_42",
]
# The authors' release is under a non-commercial licence.
GENESIS_LICENCE = "non-commercial, as given by the authors of Models Genesis"
PATCH_SIZE = [
    64,
    64,
    32,
]  # the authors' crops in voxels (x, y, z); stated for the original network, taken to hold for all


def minimal_plans(
    name: str,
    architecture: Mapping[str, Any],
    patch_size: Sequence[int],
    normalization: Mapping[str, Any],
    spacing: Sequence[float] | None = None,
) -> dict[str, Any]:
    """nnU-Net plans of one configuration, ``3d_fullres``, that hold what is known of a foreign network.

    Args:
        name: plans and data set name.
        architecture: nnU-Net's ``architecture`` entry.
        patch_size: in voxels, in the record's axis order.
        normalization: ``schemes``, ``use_mask_for_norm`` and ``foreground_intensity_properties_per_channel``.
        spacing: in mm, in the record's axis order, or None where it isn't known.
    """
    configuration = {
        "patch_size": list(patch_size),
        "spacing": None if spacing is None else list(spacing),
        "normalization_schemes": normalization["schemes"],
        "use_mask_for_norm": normalization["use_mask_for_norm"],
        "architecture": dict(architecture),
    }
    return {
        "dataset_name": name,
        "plans_name": name,
        "configurations": {CONFIGURATION: configuration},
        "foreground_intensity_properties_per_channel": normalization["foreground_intensity_properties_per_channel"],
    }


def hounsfield(mean: float, std: float) -> dict[str, Any]:
    """The authors' normalisation: HU clipped to ±1000, minus ``mean``, over ``std`` (both in HU)."""
    properties = {"mean": mean, "std": std, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    return {
        "schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "foreground_intensity_properties_per_channel": {"0": properties},
    }


def record(
    plans: dict[str, Any],
    imported: Mapping[str, str],
    *,
    method: str,
    channel_names: Mapping[str, str],
    licence: str,
    citations: Sequence[str],
    configuration: str = CONFIGURATION,
    axis_order: str = "zyx",
    number_of_cases: int | None = None,
) -> dict[str, Any]:
    """The record; everything about the images comes from ``plans`` (plain types)."""
    chosen = PlansManager(plans).get_configuration(configuration)
    data = {"dataset_name": plans["dataset_name"], "channel_names": dict(channel_names)}
    return {
        "schema_version": SCHEMA_VERSION,
        "method": method,
        "plans": plans,
        "configuration": configuration,
        "spacing": chosen.spacing,
        "patch_size": chosen.patch_size,
        "axis_order": axis_order,
        "normalization": {
            "schemes": chosen.normalization_schemes,
            "use_mask_for_norm": chosen.use_mask_for_norm,
            "foreground_intensity_properties_per_channel": plans["foreground_intensity_properties_per_channel"],
        },
        "data": data if number_of_cases is None else {**data, "number_of_cases": {"training": number_of_cases}},
        "software": software_versions(),
        "licence": licence,
        "citations": list(citations),
        "imported": dict(imported),
    }


def authors_description(
    imported: Mapping[str, str],
    name: str,
    method: str,
    architecture: Mapping[str, Any],
    normalization: Mapping[str, Any],
    keep_axes: bool,
) -> dict[str, Any]:
    """Record and adaptation plan of one of the authors' files: one CT channel, axes (x, y, z) or reversed."""
    patch = PATCH_SIZE if keep_axes else PATCH_SIZE[::-1]
    genesis = record(
        minimal_plans(name, architecture, patch, normalization),
        imported,
        method=method,
        channel_names={"0": "CT"},
        licence=GENESIS_LICENCE,
        citations=GENESIS_CITATIONS,
        axis_order="xyz" if keep_axes else "zyx",
    )
    return {"genesis": genesis, "nnssl_adaptation_plan": adaptation_plan(genesis, input_channels=1)}
