"""What nnU-Net v2 and nnssl files share: an architecture of their own, told by plans inside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.layout import Layout, canonical, layout
from nnunet_genesis.importers.source import Tensors

_IN_PROJ = ("encoder.stem.convs.0.conv.weight", "encoder.stages.0.0.convs.0.conv.weight")


def refuse_2d(state: Tensors, file: Path) -> None:
    """Raise GenesisError if a kernel is 2D: (out, in, y, x)."""
    flat = next((name for name, value in state.items() if name.startswith("encoder.") and value.ndim == 4), None)
    if flat:
        raise GenesisError(
            f"{file}: {flat!r} has a 2D kernel {list(state[flat].shape)}; it is an nnU-Net 2D checkpoint, expected a "
            "3D one. Use the weights of a 3d_fullres or 3d_lowres configuration."
        )


def own_layout(state: Tensors, architecture: Mapping[str, Any], file: Path) -> tuple[Layout, Tensors]:
    """The network's layout, its numbers of channels read from ``state``, and ``state`` by canonical names.

    Raises:
        GenesisError: there is no first or no last convolution to read them from, or the network can't be built.
    """
    first = next((state[name] for name in _IN_PROJ if name in state), None)
    if first is None or first.ndim != 5:
        found = "none" if first is None else f"one of shape {list(first.shape)}"
        raise GenesisError(
            f"{file}: expected the encoder's first convolution ({' or '.join(_IN_PROJ)}) with a 3D kernel, found "
            f"{found}. The file is damaged or of an architecture that can't be transferred."
        )
    heads = sorted(name for name in state if name.startswith("decoder.seg_layers.") and name.endswith(".weight"))
    outputs = state[heads[-1]].shape[0] if heads and state[heads[-1]].ndim == 5 else 1
    target = layout(architecture, first.shape[1], outputs, file)
    return target, canonical(state, target, file)
