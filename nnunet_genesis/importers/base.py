"""What importers share: a foreign file as read, a network's tensors, placing the former in the latter, the result."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nnunet_genesis.checkpoint import Record
from nnunet_genesis.checkpoint.architecture import first_convolution, input_channels, without_values
from nnunet_genesis.checkpoint.untrusted import check_tensors, some_keys
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.repository import Card
from nnunet_genesis.transfer.network import Shape

Tensors = dict[str, torch.Tensor]

CONFIGURATION = "3d_fullres"


@dataclass(frozen=True)
class Source:
    """A file of weights in one of the formats that we know; nothing in it is trusted.

    Attributes:
        path: the file.
        content: its top level: a checkpoint's dict, or the tensors of a Keras file by ``LAYER/NAME``.
        sha256: of the file, in hexadecimal digits.
        card: what is said beside the file.
    """

    path: Path
    content: Mapping[str, Any]
    sha256: str = ""
    card: Card = field(default_factory=Card)

    def describe(self, format_name: str) -> dict[str, str]:
        """Return the ``imported`` entry of the record."""
        return {"format": format_name, "file": self.path.name, "sha256": self.sha256}

    def tensors(self, key: str | None) -> Tensors:
        """Return the state dict under ``key`` (``None``: all), without the prefixes of wrappers (``module.``, …).

        Raises:
            GenesisError: it is missing, holds anything but dense tensors of finite numbers.
        """
        state = self.content if key is None else self.content.get(key)
        if not isinstance(state, dict) or not state:
            raise GenesisError(
                f"{self.path}: expected a state dict under {key!r}, found {type(state).__name__} (keys: "
                f"{some_keys(self.content)}). The file is damaged or of another format (--format)."
            )
        advice = "The file is damaged or was not written by the program that it names: copy it again from where it was "
        check_tensors(state, self.path, f"{advice}published.")
        return {re.sub(r"^((module|_orig_mod)\.)+", "", name): value for name, value in state.items()}


@dataclass(frozen=True)
class Imported:
    """A foreign file as a Genesis checkpoint, and an account of what is in it.

    Attributes:
        checkpoint: ``network_weights``, ``genesis`` and ``nnssl_adaptation_plan``.
        placed: shapes of the file's tensors that are in ``network_weights``, by their name in the file.
        not_placed: why the others are not, by their name in the file.
        filled: tensors of the network that the file has no counterpart of, and what they hold.
        notes: what the user should know, one sentence each.
    """

    checkpoint: dict[str, Any]
    placed: Mapping[str, Sequence[int]]
    not_placed: Mapping[str, str] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        weights: Tensors,
        record: Record,
        state: Tensors,
        placed: Collection[str],
        *,
        why: str = "unknown to this format",
        **more: Any,
    ) -> "Imported":
        """Put a checkpoint together; of the file's ``state``, ``placed`` is in it, and ``why`` the rest is not."""
        plan = record.adaptation_plan(input_channels(weights))
        content = {"network_weights": weights, "genesis": record.to_plain(), "nnssl_adaptation_plan": plan}
        shapes = {name: list(state[name].shape) for name in placed}
        return cls(content, shapes, {name: why for name in state if name not in shapes}, **more)

    @property
    def record(self) -> dict[str, Any]:
        """Return the ``genesis`` entry."""
        return self.checkpoint["genesis"]


@dataclass(frozen=True)
class Layout:
    """The state dict of a network, without its values.

    Attributes:
        shapes: shape by canonical name (as in ``named_parameters()``), each tensor once; buffers too.
        aliases: canonical name by name, for every name in the state dict.
        file: for messages.
    """

    shapes: Mapping[str, Shape]
    aliases: Mapping[str, str]
    file: Path

    @classmethod
    def of(cls, architecture: Mapping[str, Any], inputs: int, outputs: int, file: Path) -> "Layout":
        """List names and shapes of the network that an entry of plans, in our own words, describes.

        Raises:
            GenesisError: there is no such network.
        """
        try:
            network = without_values(architecture, inputs, outputs)
        except Exception as error:  # whatever the class makes of arguments that don't fit together
            raise GenesisError(
                f"{file}: its plans describe no {architecture['network_class_name'].rpartition('.')[2]} that can be "
                f"built ({type(error).__name__}: {str(error)[:200]}). The file is damaged or of a version that we "
                "don't know."
            ) from error
        first = {id(value): name for name, value in [*network.named_buffers(), *network.named_parameters()]}
        state = network.state_dict(keep_vars=True)
        aliases = {name: first[id(value)] for name, value in state.items()}
        return cls({aliases[name]: tuple(value.shape) for name, value in state.items()}, aliases, file)

    def of_encoder(self) -> "Layout":
        """Return the encoder's part."""
        aliases = {name: first for name, first in self.aliases.items() if name.startswith("encoder.")}
        return Layout({first: self.shapes[first] for first in aliases.values()}, aliases, self.file)

    def canonical(self, state: Tensors) -> Tensors:
        """Keep each tensor once, under its canonical name; names that the network lacks stay.

        Raises:
            GenesisError: two names of one tensor hold different values.
        """
        found: Tensors = {}
        for name, value in state.items():
            first = self.aliases.get(name, name)
            other = found.setdefault(first, value)
            same = other.shape == value.shape and (other.data_ptr() == value.data_ptr() or torch.equal(other, value))
            if not same:
                raise GenesisError(
                    f"{self.file}: {name!r} and {first!r} are one tensor of the network; expected equal values, found "
                    "different ones. The file is damaged: use another."
                )
        return found

    def fill(self, state: Mapping[str, torch.Tensor], origin: Mapping[str, str] | None = None) -> Tensors:
        """Make a whole state dict, duplicated names included, of tensors by canonical name; others are ignored.

        ``origin``: name in the file by canonical name, for messages.

        Raises:
            GenesisError: a tensor is missing or has another shape.
        """
        for name, shape in self.shapes.items():
            found = list(state[name].shape) if name in state else "none"
            if found != list(shape):
                raise GenesisError(
                    f"{self.file}: expected a tensor {(origin or {}).get(name, name)!r} of shape {list(shape)}, found "
                    f"{found}. The file is of another network or damaged: give the original file, or name its format "
                    "with --format."
                )
        unique = {name: state[name].detach().contiguous() for name in self.shapes}
        return {name: unique[first] for name, first in self.aliases.items()}


def own_layout(state: Tensors, architecture: Mapping[str, Any], file: Path) -> tuple[Layout, Tensors]:
    """List a network's tensors, its numbers of channels read from ``state``; and ``state`` by canonical names.

    Raises:
        GenesisError: there is no first convolution to read them from, the network can't be built, or two names
            of one tensor hold different values.
    """
    name = first_convolution(state)
    if name is None or state[name].ndim != 5:
        found = "none" if name is None else f"one of shape {list(state[name].shape)}"
        raise GenesisError(
            f"{file}: expected the encoder's first convolution with a 3D kernel, found {found}. The file is damaged or "
            "of an architecture that can't be transferred."
        )
    heads = sorted(head for head in state if head.startswith("decoder.seg_layers.") and head.endswith(".weight"))
    outputs = state[heads[-1]].shape[0] if heads and state[heads[-1]].ndim == 5 else 1
    layout = Layout.of(architecture, state[name].shape[1], outputs, file)
    return layout, layout.canonical(state)


def minimal_plans(
    name: str, architecture: Mapping[str, Any], patch_size: Any, spacing: Any, schemes: Sequence[str], properties: Any
) -> dict[str, Any]:
    """Make nnU-Net plans of one configuration, :data:`CONFIGURATION`, of what is known of a foreign network.

    Sizes (voxels, mm; the spacing may be None) are in the record's order of axes; ``properties``: of the foreground.
    """
    configuration = {
        "patch_size": patch_size,
        "spacing": spacing,
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": [False] * len(schemes),
        "architecture": dict(architecture),
    }
    return {
        "dataset_name": name,
        "plans_name": name,
        "configurations": {CONFIGURATION: configuration},
        "foreground_intensity_properties_per_channel": properties,
    }
