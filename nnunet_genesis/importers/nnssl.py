"""A checkpoint of nnssl (OpenMind's ``ResEncL`` and others of its U-Nets)."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nnunet_genesis.checkpoint import Record
from nnunet_genesis.checkpoint.architecture import RES_ENC_L, own_words
from nnunet_genesis.checkpoint.citations import texts
from nnunet_genesis.checkpoint.untrusted import plain
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.base import (
    CONFIGURATION,
    Imported,
    Layout,
    Source,
    Tensors,
    genesis_checkpoint,
    minimal_plans,
    own_layout,
    place,
    refuse_2d,
    tensors,
)

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
    state = _renamed(tensors(source, "network_weights"), plan)
    refuse_2d(state, source.path)
    target, found = own_layout(state, architecture, source.path)
    kept, why = _kept(target, found)
    weights = place(found, kept, source.path)
    name, configuration = _configuration(plan, source)
    patch = _triple(plan.get("recommended_downstream_patchsize")) or _triple(configuration.get("patch_size"))
    inputs = next(int(value.shape[1]) for value in weights.values() if value.ndim == 5)
    normalization = {
        "schemes": ["ZScoreNormalization"] * inputs,
        "use_mask_for_norm": [False] * inputs,
        "foreground_intensity_properties_per_channel": {},
    }
    spacing = _triple(configuration.get("spacing"))
    plans = minimal_plans(f"nnssl_{name}", architecture, patch or _DEFAULT_PATCH, normalization, spacing)
    missing = [key for key in target.shapes if key not in kept.shapes]
    return Imported.of(
        genesis_checkpoint(weights, _record(source, plans, inputs)),
        found,
        [key for key in found if key in kept.shapes],
        why=why,
        notes=list(_notes(missing, stated=patch is not None)),
    )


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


def _kept(target: Layout, found: Tensors) -> tuple[Layout, str]:
    """Choose the part of the network that the file has: all of it, or the encoder; and why other tensors stay out."""
    fits = all(name in found and tuple(found[name].shape) == shape for name, shape in target.shapes.items())
    if fits:
        return target, "not a part of nnU-Net's network"
    return target.of_encoder(), "not a part of nnU-Net's encoder, and the decoder is not nnU-Net's"


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


def _record(source: Source, plans: dict[str, Any], inputs: int) -> Record:
    trainer = source.content.get("trainer_name")
    return Record.of_import(
        plans,
        CONFIGURATION,
        imported=source.describe("nnssl"),
        method=f"self-supervised (nnssl, {trainer if isinstance(trainer, str) else 'unknown trainer'})",
        channel_names={str(index): "unknown" for index in range(inputs)},
        licence="not stated in the file",
        citations=texts(plain(source.content.get("citations"), source.path)),
    )


def _notes(missing: list[str], stated: bool) -> Iterator[str]:
    if missing:
        yield f"The checkpoint has no decoder of nnU-Net's: {len(missing)} tensors are left to initialisation."
    if not stated:
        yield f"The checkpoint states no patch size; {_DEFAULT_PATCH} is recorded, on which no weight depends."


def _triple(value: Any) -> list[Any] | None:
    good = (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(n, (int, float)) and 0 < n < math.inf for n in value)
    )
    return value if good else None
