"""Load a Genesis checkpoint into a network, or say why not."""

import os
from collections.abc import Collection

import torch

from nnunet_genesis.checkpoint import load_weights
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.transfer.matching import Shape, encoder_kind, match
from nnunet_genesis.transfer.operations import apply_moves
from nnunet_genesis.transfer.report import LoadReport


def load_into(
    network: torch.nn.Module,
    path: str | os.PathLike[str],
    parts: Collection[str] = ("encoder",),
    min_coverage: float = 0.5,
    image_channels: int | None = None,
) -> LoadReport:
    """Load ``parts`` of the Genesis checkpoint at ``path`` into ``network``, an nnU-Net network.

    Args:
        network: the target; nothing in it is changed unless the coverage suffices.
        path: a Genesis checkpoint.
        parts: of ``encoder`` and ``decoder``.
        min_coverage: least share of the encoder's parameters, in [0, 1].
        image_channels: see :func:`nnunet_genesis.transfer.matching.match`.

    Raises:
        GenesisError: the file can't be used, or covers too little of the encoder.
    """
    weights = load_weights(path)
    target = {name: tuple(value.shape) for name, value in network.named_parameters()}
    source = {name: tuple(value.shape) for name, value in weights.network_weights.items()}
    report = LoadReport(str(path), match(source, target, parts, image_channels))
    if report.coverage() < min_coverage or report.coverage() == 0:
        raise GenesisError(_too_little(report, source, target, min_coverage))
    apply_moves(report.moves, weights.network_weights, network)
    return report


def _too_little(report: LoadReport, source: dict[str, Shape], target: dict[str, Shape], minimum: float) -> str:
    kinds = encoder_kind(source), encoder_kind(target)
    if kinds[0] != kinds[1]:
        cause = f"The pretrained encoder is {kinds[0]}, this plan's is {kinds[1]}: their tensors don't correspond."
    else:
        cause = "The two plans differ too much in stages, kernels, features or input channels."
    return (
        f"{report.source}: these weights cover {report.coverage():.1%} of this network's encoder, expected at least "
        f"{minimum:.0%}. {cause} Pretrain with this data set's plans (nnUNetv2_genesis_prepare --like), choose plans "
        f"that match (-p), or lower nnUNet_genesis_min_coverage.\n{report.to_text()}"
    )
