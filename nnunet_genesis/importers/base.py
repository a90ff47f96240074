"""What importers share: a foreign file as read, a network's tensors, placing the former in the latter, the result."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_genesis.checkpoint import CITATIONS, Record
from nnunet_genesis.checkpoint.architecture import first_convolution
from nnunet_genesis.checkpoint.untrusted import some_keys, tensor_problem
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.repository import Card

Tensors = dict[str, torch.Tensor]
Shape = tuple[int, ...]

CONFIGURATION = "3d_fullres"
# Of the authors' release: it is under a non-commercial licence.
GENESIS_CITATIONS = [
    CITATIONS[0],
    "Zhou Z, Sodha V, Rahman Siddiquee MM, et al. Models Genesis: Generic Autodidactic Models for 3D Medical Image "
    "Analysis. MICCAI 2019. doi:10.1007/978-3-030-32251-9_42",
]
GENESIS_LICENCE = "non-commercial, as given by the authors of Models Genesis"
# The authors' crops in voxels (x, y, z); stated for the original network, taken to hold for all.
GENESIS_PATCH = [64, 64, 32]


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
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        checkpoint: dict[str, Any],
        state: Tensors,
        placed: Collection[str],
        *,
        why: str = "unknown to this format",
        filled: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> "Imported":
        """Give an account of a file's ``state``, of which ``placed`` was; ``why``: the reason for all others."""
        left = {name: why for name in state if name not in placed}
        return cls(checkpoint, {name: list(state[name].shape) for name in placed}, left, filled or {}, tuple(notes))

    @property
    def record(self) -> dict[str, Any]:
        """Return the ``genesis`` entry."""
        return self.checkpoint["genesis"]


def genesis_checkpoint(weights: Tensors, record: Record) -> dict[str, Any]:
    """Put the content of a Genesis checkpoint together."""
    inputs = next(int(value.shape[1]) for value in weights.values() if value.ndim == 5)
    plan = record.adaptation_plan(inputs)
    return {"network_weights": weights, "genesis": record.to_plain(), "nnssl_adaptation_plan": plan}


def tensors(source: Source, key: str) -> Tensors:
    """Return the state dict under ``key``, without the prefixes that wrappers add (``module.``, ``_orig_mod.``).

    Raises:
        GenesisError: it is missing, or holds anything but dense tensors of finite numbers.
    """
    state = source.content.get(key)
    if not isinstance(state, dict) or not state:
        raise GenesisError(
            f"{source.path}: expected a state dict under {key!r}, found {type(state).__name__} (keys: "
            f"{some_keys(source.content)}). The file is damaged or of another format (--format)."
        )
    finite: set[Any] = set()
    for name, value in state.items():
        problem = tensor_problem(value, finite) if isinstance(name, str) else "has a name that is no text"
        if problem:
            raise GenesisError(
                f"{source.path}: {name!r} {problem}; expected a dense tensor of finite numbers. The file is damaged "
                "or was not written by the program that it names: copy it again from where it was published."
            )
    return {_unwrapped(name): value for name, value in state.items()}


def _unwrapped(name: str) -> str:
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


def refuse_2d(state: Tensors, file: Path) -> None:
    """Raise GenesisError if a kernel is 2D: (out, in, y, x)."""
    flat = next((name for name, value in state.items() if name.startswith("encoder.") and value.ndim == 4), None)
    if flat:
        raise GenesisError(
            f"{file}: {flat!r} has a 2D kernel {list(state[flat].shape)}; it is an nnU-Net 2D checkpoint, expected a "
            "3D one. Use the weights of a 3d_fullres or 3d_lowres configuration."
        )


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
        """Return the encoder's part."""
        aliases = {name: first for name, first in self.aliases.items() if name.startswith("encoder.")}
        return Layout({first: self.shapes[first] for first in aliases.values()}, aliases)


def layout(architecture: Mapping[str, Any], inputs: int, outputs: int, file: Path) -> Layout:
    """List names and shapes of the network that ``architecture`` describes; no memory is used for its weights.

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


def own_layout(state: Tensors, architecture: Mapping[str, Any], file: Path) -> tuple[Layout, Tensors]:
    """List a network's tensors, its numbers of channels read from ``state``; and ``state`` by canonical names.

    Raises:
        GenesisError: there is no first convolution to read them from, the network can't be built, or two names of one
            tensor hold different values.
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
    target = layout(architecture, state[name].shape[1], outputs, file)
    return target, _canonical(state, target, file)


def _canonical(state: Tensors, target: Layout, file: Path) -> Tensors:
    """Keep each tensor once, under its canonical name; names that ``target`` lacks stay."""
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
    """Make a whole state dict for ``target``, duplicated names included.

    Args:
        state: tensors by canonical name; others are ignored.
        target: what is needed.
        file: for messages.
        origin: name in the file by canonical name, for messages.

    Raises:
        GenesisError: a tensor is missing or has another shape.
    """
    for name, shape in target.shapes.items():
        found = list(state[name].shape) if name in state else "none"
        if found != list(shape):
            raise GenesisError(
                f"{file}: expected a tensor {(origin or {}).get(name, name)!r} of shape {list(shape)}, found {found}. "
                "The file is of another network or damaged: give the original file, or name its format with --format."
            )
    unique = {name: state[name].detach().contiguous() for name in target.shapes}
    return {name: unique[first] for name, first in target.aliases.items()}


def reverse_axes(state: Tensors) -> Tensors:
    """Turn every kernel (out, in, x, y, z) to (out, in, z, y, x); names that share a tensor go on sharing it."""
    done: dict[int, torch.Tensor] = {}
    for value in state.values():
        if value.ndim == 5 and id(value) not in done:
            done[id(value)] = value.permute(0, 1, 4, 3, 2).contiguous()
    return {name: done.get(id(value), value) for name, value in state.items()}


def minimal_plans(
    name: str,
    architecture: Mapping[str, Any],
    patch_size: Sequence[int],
    normalization: Mapping[str, Any],
    spacing: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Make nnU-Net plans of one configuration, :data:`CONFIGURATION`, of what is known of a foreign network.

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


def authors_record(
    imported: Mapping[str, str],
    *,
    name: str,
    method: str,
    architecture: Mapping[str, Any],
    mean: float,
    std: float,
    keep_axes: bool,
) -> Record:
    """Describe one of the authors' files: one CT channel, axes (x, y, z) or reversed.

    Args:
        imported: see :meth:`Source.describe`.
        name: for the plans and the data set.
        method: how the weights were trained.
        architecture: nnU-Net's ``architecture`` entry.
        mean: in HU, subtracted after clipping to ±1000 HU.
        std: in HU, what the difference is divided by.
        keep_axes: leave sizes in (x, y, z).
    """
    properties = {"mean": mean, "std": std, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    normalization = {
        "schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "foreground_intensity_properties_per_channel": {"0": properties},
    }
    patch = GENESIS_PATCH if keep_axes else GENESIS_PATCH[::-1]
    return Record.of_import(
        minimal_plans(name, architecture, patch, normalization),
        CONFIGURATION,
        imported=imported,
        method=method,
        channel_names={"0": "CT"},
        licence=GENESIS_LICENCE,
        citations=GENESIS_CITATIONS,
        axis_order="xyz" if keep_axes else "zyx",
    )
