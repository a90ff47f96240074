"""A checkpoint of nnssl (OpenMind's ``ResEncL`` and others of its U-Nets)."""

import math
from collections.abc import Mapping
from typing import Any

from nnunet_genesis.checkpoint import Record
from nnunet_genesis.checkpoint.architecture import RES_ENC_L, input_channels, own_words
from nnunet_genesis.checkpoint.lineage import texts
from nnunet_genesis.checkpoint.untrusted import plain
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.base import CONFIGURATION, Imported, Source, Tensors, minimal_plans, own_layout

PLAN = "nnssl_adaptation_plan"
_DEFAULT_PATCH = [160, 160, 160]  # OpenMind's; only where the file states none, which a note says


def convert(source: Source) -> Imported:
    """Place the encoder, and the decoder where the file has nnU-Net's whole decoder; citations are carried over.

    Args:
        source: a dict with ``network_weights`` and ``nnssl_adaptation_plan``; there, ``arch_kwargs`` may be None for
            ``ResEncL``, the spacing may be None, and ``key_to_encoder`` and ``key_to_stem`` say where the encoder is.

    Raises:
        GenesisError: the architecture isn't one of nnU-Net's U-Nets, or the encoder is incomplete or damaged.
    """
    plan = plain(source.content.get(PLAN), source.path)
    architecture = _architecture(plan, source)
    state = _renamed(source.tensors("network_weights"), plan)
    whole, found = own_layout(state, architecture, source.path)
    fits = all(name in found and tuple(found[name].shape) == shape for name, shape in whole.shapes.items())
    kept, why = whole, "not a part of nnU-Net's network"
    notes = []
    if not fits:
        kept, why = whole.of_encoder(), "not a part of nnU-Net's encoder, and the decoder is not nnU-Net's"
        missing = len(whole.shapes) - len(kept.shapes)
        notes = [f"The checkpoint has no decoder of nnU-Net's: {missing} tensors are left to initialisation."]
    weights = kept.fill(found)
    name, configuration = _configuration(plan, source)
    patch = _triple(plan.get("recommended_downstream_patchsize")) or _triple(configuration.get("patch_size"))
    if patch is None:
        notes += [f"The checkpoint states no patch size; {_DEFAULT_PATCH} is recorded, on which no weight depends."]
    inputs, trainer = input_channels(weights), source.content.get("trainer_name")
    schemes, spacing = ["ZScoreNormalization"] * inputs, _triple(configuration.get("spacing"))
    record = Record.of(
        minimal_plans(f"nnssl_{name}", architecture, patch or _DEFAULT_PATCH, spacing, schemes, {}),
        CONFIGURATION,
        imported=source.describe("nnssl"),
        method=f"self-supervised (nnssl, {trainer if isinstance(trainer, str) else 'unknown trainer'})",
        data={"channel_names": {str(index): "unknown" for index in range(inputs)}},
        licence="not stated in the file",
        citations=texts(plain(source.content.get("citations"), source.path)),
    )
    return Imported.of(weights, record, found, [key for key in found if key in kept.shapes], why=why, notes=notes)


def _architecture(plan: Any, source: Source) -> dict[str, Any]:
    given = plan.get("architecture_plans") if isinstance(plan, dict) else None
    if not isinstance(given, dict):
        raise GenesisError(
            f"{source.path}: expected {PLAN} with 'architecture_plans', found {type(given).__name__}. Give a "
            "checkpoint as nnssl wrote it."
        )
    name, arguments = given.get("arch_class_name"), given.get("arch_kwargs")
    return own_words(name, RES_ENC_L if arguments is None and name == "ResEncL" else arguments, source.path)


def _renamed(state: Tensors, plan: Mapping[str, Any]) -> Tensors:
    """Give the encoder nnU-Net's names, wherever the plan says that it lies; the stem first, as it may lie inside."""
    places = {str(plan.get("key_to_encoder") or "encoder.stages"): "encoder.stages"}
    stem = str(plan.get("key_to_stem") or "encoder.stem")
    if not stem.startswith(tuple(f"{key}." for key in places)):  # PlainConvUNet's stem is its first stage
        places[stem] = "encoder.stem"
    renamed = {}
    for name, value in state.items():
        here = next((key for key in places if name.startswith(f"{key}.")), None)
        renamed[name if here is None else places[here] + name.removeprefix(here)] = value
    return renamed


def _configuration(plan: Mapping[str, Any], source: Source) -> tuple[str, dict[str, Any]]:
    """Find name and content of the configuration that was pretrained: the only one, or the one that init_args name."""
    pretraining = plan.get("pretrain_plan")
    found = pretraining.get("configurations") if isinstance(pretraining, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(entry, dict) for entry in found.values()):
        return "unknown", {}
    arguments = source.content.get("init_args")
    named = [value for value in arguments.values() if isinstance(value, str)] if isinstance(arguments, dict) else []
    name = next((value for value in named if value in found), next(iter(found)))
    return name, found[name]


def _triple(value: Any) -> list[Any] | None:
    good = (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(n, (int, float)) and 0 < n < math.inf for n in value)
    )
    return value if good else None
