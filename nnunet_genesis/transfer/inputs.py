"""How the target's input channels and intensities become what the pretrained first convolution expects."""

from collections.abc import Sequence

from nnunet_genesis.transfer.moves import Mix
from nnunet_genesis.transfer.network import Network, Window

Matrix = list[list[float]]


def input_map(source: Network, target: Network) -> tuple[Mix | None, tuple[float, ...]]:
    """Find the map from the target's input channels to the source's.

    Channels: by name where both networks name a channel alike; else replicated or summed so that one image in all
    channels gives the features that the source has for it in all of its own. Intensities: where both sides of a pair
    are CT, the two normalisations are an affine map apart, ``x_source = a · x_target + b`` with
    ``a = sd_target / sd_source`` and ``b = (mean_target - mean_source) / sd_source``; a goes into the weights and b
    into the bias. At the border the padding's zeros mean ``mean_target`` instead of ``mean_source``. A network that
    maps its input itself (the Genesis 3D U-Net) needs no such fold.

    Returns:
        The weight's step (``None``: it is copied), and per source channel what is to be added to its input.
    """
    inputs = target.shapes[target.first_convolution()][1]
    matrix, texts = _channels(source.channels, target.channels)
    offsets = [0.0] * len(source.channels)
    if source.kind != "Genesis 3D U-Net":
        texts += _fold(matrix, offsets, source.windows, target.windows)
    matrix += [[0.0] * len(source.channels) for _ in range(inputs - len(target.channels))]  # a cascade's one-hot maps
    if inputs > len(target.channels):
        texts.append(f"{inputs - len(target.channels)} channels of the previous stage keep their initialisation")
    mix = Mix(tuple(map(tuple, matrix)), "; ".join(texts)) if texts else None
    return mix, tuple(offsets)


def _fold(
    matrix: Matrix, offsets: list[float], source: Sequence[Window | None], target: Sequence[Window | None]
) -> list[str]:
    """Put the affine maps between CT normalisations into ``matrix`` and ``offsets``; return what to say of them."""
    maps = set()
    for row, to in zip(matrix, target, strict=False):
        for c, origin in enumerate(source):
            if to and origin and row[c] and (to.mean, to.sd) != (origin.mean, origin.sd):
                scale, offset = to.sd / origin.sd, (to.mean - origin.mean) / origin.sd
                offsets[c] += row[c] * offset
                row[c] *= scale
                maps.add(f"CT intensities folded in: x · {scale:.4g} {offset:+.4g}")
    return sorted(maps)


def _channels(source: Sequence[str], target: Sequence[str]) -> tuple[Matrix, list[str]]:
    """Return the matrix (target, source), and what to say of it (nothing for the identity)."""
    named = _by_name(source, target)
    if named and max(len(source), len(target)) > 1:
        matrix = [[float(named.get(d) == c) for c in range(len(source))] for d in range(len(target))]
        identity = list(named.items()) == [(d, d) for d in range(len(target))] and len(source) == len(target)
        pairs = ", ".join(target[d] for d in named)
        return matrix, [] if identity else [f"input channels by name: {pairs}"]
    matrix = [[0.0] * len(source) for _ in target]
    for index in range(max(len(source), len(target))):
        matrix[index % len(target)][index % len(source)] = 1.0
    for c in range(len(source)):  # columns sum to 1: the same image in all channels gives the same features
        uses = sum(row[c] for row in matrix)
        for row in matrix:
            row[c] /= uses
    same = len(source) == len(target)
    return matrix, [] if same else [f"input channels {len(source)} → {len(target)}, rescaled"]


def _by_name(source: Sequence[str], target: Sequence[str]) -> dict[int, int]:
    """Map target index to source index of the channels that bear the same, unique name."""
    one, other = ([name.strip().casefold() for name in names] for names in (source, target))
    if len(set(one)) < len(one) or len(set(other)) < len(other):
        return {}
    return {d: one.index(name) for d, name in enumerate(other) if name in one}
