"""Plan the transfer of a Genesis checkpoint into a network: moves, stages, warnings."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from nnunet_genesis.checkpoint import GenesisWeights
from nnunet_genesis.files import write_json
from nnunet_genesis.settings import Settings
from nnunet_genesis.transfer.alignment import resolutions
from nnunet_genesis.transfer.matching import match, stage_pairs
from nnunet_genesis.transfer.moves import apply_moves
from nnunet_genesis.transfer.network import Network, source_network, target_network
from nnunet_genesis.transfer.report import LoadReport

MAX_SPACING_RATIO = 2.0
REPORT = "genesis_load_report.json"  # in a run's folder


def load_into(
    trainer: Any,
    weights: GenesisWeights,
    parts: Collection[str],
    settings: Settings,
    needed: Collection[str] = ("encoder",),
) -> LoadReport:
    """Load ``parts`` of the weights into the network of one of our trainers; rank 0 writes :data:`REPORT`.

    Raises:
        GenesisError: the checkpoint's record doesn't describe its tensors, or they cover too little of the encoder, or
            nothing of the decoder, which is ``needed``.
    """
    network = trainer.bare_network()
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    target = target_network(trainer.plans_manager.plans, trainer.configuration_name, trainer.dataset_json, shapes)
    report = plan_transfer(weights, target, parts, bool(settings.partial_widths))
    report.require(settings.min_coverage, needed)
    apply_moves(report.moves, weights.network_weights, network)
    if trainer.local_rank == 0:
        write_json(report.to_dict(), Path(trainer.output_folder) / REPORT)
    return report


def plan_transfer(
    weights: GenesisWeights, target: Network, parts: Collection[str] = ("encoder",), partial_widths: bool = False
) -> LoadReport:
    """Say what loading ``parts`` (``encoder``, ``decoder``, ``head``) of the weights into ``target`` would do.

    Nothing is changed; carry it out with :func:`nnunet_genesis.transfer.moves.apply_moves`.

    Raises:
        GenesisError: the checkpoint's record doesn't describe its tensors.
    """
    source = source_network(weights)
    moves = match(source, target, parts, partial_widths)
    stages = list(zip(resolutions(target.strides, target.spacing), stage_pairs(source, target), strict=True))
    unit = "voxels" if target.spacing is None else "mm"
    found = warnings(source, target)
    if (r2 := weights.record.restores_nothing()) is not None:
        found.append(
            f"the pretraining restores no better than a constant image (best R² {r2:.3f}): such weights can do harm; "
            "pretrain for longer"
        )
    return LoadReport(str(weights.path), moves, stages, unit, found, weights.sha256)


def warnings(source: Network, target: Network) -> list[str]:
    """List differences that no step can correct."""
    found = []
    if source.spacing and target.spacing and len(source.spacing) == len(target.spacing):
        there = [source.spacing[source.axis_order.index(axis)] for axis in target.axis_order]
        ratios = [max(a / b, b / a) for a, b in zip(there, target.spacing, strict=True)]
        if max(ratios) > MAX_SPACING_RATIO:
            sizes = ["×".join(f"{length:.3g}" for length in spacing) for spacing in (there, target.spacing)]
            found.append(
                f"spacing differs by a factor of {max(ratios):.1f}: pretrained at {sizes[0]} mm, here {sizes[1]} mm; "
                "structures have other sizes in voxels"
            )
    known = any(name != "unknown" for name in source.channels)  # nnssl's files don't name theirs
    if known and is_ct(source) != is_ct(target):
        names = ["CT" if is_ct(network) else ", ".join(network.channels) for network in (source, target)]
        found.append(f"modality differs: pretrained on {names[0]}, here {names[1]}")
    for origin, here in zip(source.windows, target.windows, strict=False):
        if origin and here and (origin.lowest > here.lowest + 1 or origin.highest < here.highest - 1):
            found.append(
                f"HU outside the pretrained window {origin.lowest:.0f} … {origin.highest:.0f} occur here "
                f"({here.lowest:.0f} … {here.highest:.0f}): the pretrained network never saw them"
            )
    return found


def is_ct(network: Network) -> bool:
    """Say whether all its channels are CT."""
    return all(
        window is not None or name.casefold() == "ct"
        for window, name in zip(network.windows, network.channels, strict=True)
    )
