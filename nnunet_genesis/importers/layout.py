"""The tensors that a network has, and placing foreign tensors in it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.source import Tensors

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The state dict of a network, without its values.

    Attributes:
        shapes: shape by canonical name (as in ``named_parameters()``), each tensor once; buffers too.
        aliases: canonical name by name, for every name in the state dict.
    """

    shapes: Mapping[str, Shape]
    aliases: Mapping[str, str]

    def of_encoder(self) -> "Layout":
        """The encoder's part."""
        aliases = {name: first for name, first in self.aliases.items() if name.startswith("encoder.")}
        return Layout({first: self.shapes[first] for first in aliases.values()}, aliases)


def layout(architecture: Mapping[str, Any], inputs: int, outputs: int, file: Path) -> Layout:
    """Names and shapes of the network that ``architecture`` describes; no memory is used for its weights.

    Args:
        architecture: as :func:`nnunet_genesis.checkpoint.architecture.own_words` gives it.
        inputs: input channels.
        outputs: output channels.
        file: for messages.

    Raises:
        GenesisError: there is no such network.
    """
    try:
        with torch.device("meta"):
            network = get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                inputs,
                outputs,
                allow_init=False,
                deep_supervision=False,
            )
    except Exception as error:  # whatever the class makes of arguments that don't fit together
        raise GenesisError(
            f"{file}: its plans describe no {architecture['network_class_name'].rpartition('.')[2]} that can be built "
            f"({type(error).__name__}: {str(error)[:200]}). The file is damaged or of a version that we don't know."
        ) from error
    first = {id(value): name for name, value in network.named_buffers()}
    first |= {id(value): name for name, value in network.named_parameters()}
    state = network.state_dict(keep_vars=True)
    aliases = {name: first[id(value)] for name, value in state.items()}
    return Layout({aliases[name]: tuple(value.shape) for name, value in state.items()}, aliases)


def canonical(state: Tensors, target: Layout, file: Path) -> Tensors:
    """``state`` with each tensor once, under its canonical name; names that ``target`` lacks stay.

    Raises:
        GenesisError: two names of one tensor hold different values.
    """
    found: Tensors = {}
    for name, value in state.items():
        first = target.aliases.get(name, name)
        other = found.setdefault(first, value)
        same = other.shape == value.shape and (other.data_ptr() == value.data_ptr() or torch.equal(other, value))
        if not same:
            raise GenesisError(
                f"{file}: {name!r} and {first!r} are one tensor of the network; expected equal values, found different "
                "ones. The file is damaged: use another."
            )
    return found


def place(
    state: Mapping[str, torch.Tensor], target: Layout, file: Path, origin: Mapping[str, str] | None = None
) -> Tensors:
    """A whole state dict for ``target``, duplicated names included.

    Args:
        state: tensors by canonical name; others are ignored.
        target: what is needed.
        file: for messages.
        origin: name in the file by canonical name, for messages.

    Raises:
        GenesisError: a tensor is missing or has another shape.
    """
    for name, shape in target.shapes.items():
        key = (origin or {}).get(name, name)
        if name not in state:
            raise GenesisError(
                f"{file}: expected a tensor {key!r} of shape {list(shape)}, found none. The file is of another network "
                "or damaged: give the original file, or name its format with --format."
            )
        if tuple(state[name].shape) != shape:
            raise GenesisError(
                f"{file}: {key!r}: expected shape {list(shape)}, found {list(state[name].shape)}. The file is of "
                "another network or damaged: give the original file, or name its format with --format."
            )
    unique = {name: state[name].detach().contiguous() for name in target.shapes}
    return {name: unique[first] for name, first in target.aliases.items()}


def reverse_axes(state: Tensors) -> Tensors:
    """Every kernel (out, in, x, y, z) as (out, in, z, y, x); names that share a tensor go on sharing it."""
    done: dict[int, torch.Tensor] = {}
    for value in state.values():
        if value.ndim == 5 and id(value) not in done:
            done[id(value)] = value.permute(0, 1, 4, 3, 2).contiguous()
    return {name: done.get(id(value), value) for name, value in state.items()}


def shapes(names: Collection[str], state: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    """Shapes of the named tensors."""
    return {name: list(state[name].shape) for name in names}
