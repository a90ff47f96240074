"""The ``genesis`` record that lets a pretrained checkpoint describe itself (DESIGN, rule 5). Plain types only."""

import dataclasses
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_genesis.checkpoint import CITATIONS, SCHEMA_VERSION, software_versions
from nnunet_genesis.folders import channel_names
from nnunet_genesis.transfer.network import axis_order
from pretraining.restoration import RestorationTransform

if TYPE_CHECKING:
    from pretraining.trainer import nnUNetTrainerRestoration


def describe(trainer: "nnUNetTrainerRestoration") -> dict[str, Any]:
    """What the checkpoint of ``trainer`` says of itself."""
    plans, configuration = trainer.plans_manager, trainer.configuration_manager
    return {
        "schema_version": SCHEMA_VERSION,
        "method": "restoration (Models Genesis)",
        "plans": deepcopy(plans.plans),
        "configuration": trainer.configuration_name,
        "spacing": [float(length) for length in configuration.spacing],
        "patch_size": [int(length) for length in configuration.patch_size],
        "axis_order": axis_order(plans.plans),
        "normalization": {
            "schemes": list(configuration.normalization_schemes),
            "use_mask_for_norm": list(configuration.use_mask_for_norm),
            "foreground_intensity_properties_per_channel": deepcopy(plans.foreground_intensity_properties_per_channel),
        },
        "corruption": _probabilities(trainer.train_loader.corrupt),
        "options": dataclasses.asdict(trainer.options)
        | {"precision": trainer.precision, "memory_format": trainer.memory_format},
        "training": {
            "epochs": trainer.current_epoch + 1,
            "batch_size": configuration.batch_size,
            "best_r2": float(trainer.best_r2) if np.isfinite(trainer.best_r2) else None,
        },
        "data": {
            "dataset_name": plans.dataset_name,
            "channel_names": channel_names(trainer.dataset_json),
            "number_of_cases": dict(trainer.number_of_cases),
            "fold": trainer.fold,
        },
        "software": software_versions(),
        "licence": trainer.options.licence,
        "citations": list(CITATIONS),
    }


def _probabilities(transform: RestorationTransform) -> dict[str, float]:
    return {name: float(value) for name, value in vars(transform).items() if name.startswith("p_")}
