"""Checkpoints read without running code in them; the only ``torch.load`` in the project."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from nnunet_genesis.checkpoint import safetensors_format
from nnunet_genesis.checkpoint.record import Record
from nnunet_genesis.checkpoint.untrusted import HDF5, ZIP, check_archive, check_sizes, check_tensors, plain, some_keys
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file, sha256
from nnunet_genesis.folders import environment

# nnU-Net's logs hold numpy's floats; numpy 1 and 2 keep ``scalar``, the first of what such a number is made with, in
# different modules.
_SCALAR = np.float64().__reduce__()[0]
_NUMPY: list[Any] = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8"))),
]

# Files of other kinds, by where their mark is and what it is; with what to do.
_OTHERS = (
    (0, b"\x1f\x8b", "a gzip archive. Unpack it, and give the file inside."),
    (257, b"ustar", "a tar archive. Unpack it, and give the file inside."),
    (0, HDF5, "an HDF5 file (Keras'). Convert it first: nnUNetv2_genesis_import FILE -o genesis.pth."),
    (0, b"version https://git-lfs", "the pointer that Git LFS leaves where a file wasn't fetched. Run git lfs pull in "
     "its repository, or download the file itself."),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class GenesisWeights:
    """A Genesis checkpoint as read from disk.

    Attributes:
        path: the file.
        network_weights: state dict of the pretrained network (nnU-Net's parameter names), on the CPU.
        record: what the checkpoint says of itself.
        sha256: of the file, in hexadecimal digits; empty where it wasn't computed.
    """

    path: Path
    network_weights: dict[str, torch.Tensor]
    record: Record
    sha256: str = ""


def load(path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running any code in it; torch's formats, old and new, and our safetensors.

    nnU-Net's own checkpoints hold numpy scalars in their logs; exactly those types are allowed besides tensors and
    plain containers. Tensors may claim more than they hold: :mod:`nnunet_genesis.checkpoint.untrusted` checks them.

    Raises:
        GenesisError: the file is missing, unreadable, no checkpoint, or holds anything else.
    """
    path = regular_file(path)
    read = safetensors_format.read if safetensors_format.is_safetensors(path) else _read_torch
    checkpoint = read(path, map_location)
    check_sizes(checkpoint, path)
    if not isinstance(checkpoint, dict):
        raise GenesisError(
            f"{path}: expected a checkpoint with the key 'network_weights', found a {type(checkpoint).__name__}. "
            "Give a checkpoint_*.pth written by nnUNetv2_genesis_pretrain."
        )
    return checkpoint


def load_weights(path: str | os.PathLike[str]) -> GenesisWeights:
    """Read a Genesis checkpoint for fine-tuning.

    Raises:
        GenesisError: the file can't be read, or isn't a Genesis checkpoint of a schema that we know.
    """
    return check(load(path), path, sha256(path))


def check(checkpoint: dict[str, Any], path: str | os.PathLike[str], digest: str = "") -> GenesisWeights:
    """Take weights and record from ``checkpoint``, as :func:`load` gave it; ``digest``: the file's SHA-256.

    Raises:
        GenesisError: it isn't a Genesis checkpoint of a schema that we know, or holds anything but finite 3D weights.
    """
    metadata, weights = checkpoint.get("genesis"), checkpoint.get("network_weights")
    if not isinstance(metadata, dict) or not isinstance(weights, dict):
        found = "an nnU-Net checkpoint without Genesis metadata" if isinstance(weights, dict) else "no network weights"
        raise GenesisError(
            f"{path}: expected a Genesis checkpoint (keys 'network_weights' and 'genesis'), found {found} (keys: "
            f"{some_keys(checkpoint)}). Give a checkpoint_*.pth of nnUNetv2_genesis_pretrain, or "
            "convert this one: nnUNetv2_genesis_import FILE -o genesis.pth."
        )
    path = Path(path)
    record = Record.from_plain(plain(metadata, path), path)
    check_tensors(weights, path, "The pretraining diverged or the file is damaged: use an earlier checkpoint.")
    flat = next((name for name, value in weights.items() if value.ndim == 4), None)
    if flat is not None:
        raise GenesisError(
            f"{path}: expected 3D kernels, found a 2D one, {list(weights[flat].shape)}, in {flat!r}. Genesis weights "
            "are 3D: use those of a 3d_fullres or 3d_lowres configuration."
        )
    return GenesisWeights(path, weights, record, digest)


def _read_torch(path: Path, map_location: str | torch.device) -> Any:
    try:
        with restricted(path):
            return torch.load(path, map_location=map_location, weights_only=True)
    except GenesisError:
        raise
    except Exception as error:  # torch raises a dozen types for a file that isn't a checkpoint
        raise GenesisError(_damaged(path, error)) from error


@contextlib.contextmanager
def restricted(path: Path) -> Iterator[None]:
    """Let every ``torch.load`` in the block build tensors and plain data alone, even with ``weights_only=False``.

    Args:
        path: the file that is loaded there.

    Raises:
        GenesisError: the file claims more than it holds, is damaged, no checkpoint, or holds anything else; the message
            names what.
    """
    _check_file(path)
    only = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}  # torch refuses both as 1
    with environment(**only), torch.serialization.safe_globals(_NUMPY):
        try:
            yield
        except (UnpicklingError, EOFError) as error:
            raise GenesisError(_refusal(path, error)) from error


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Name the checkpoint that doesn't fit the network into which the block loads it.

    Raises:
        GenesisError: other tensors or shapes, as torch says: plans, labels, settings or package have changed since.
    """
    try:
        yield
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        found = shorten(str(error).split(":", 1)[1], 160, placeholder=" ...")
        raise GenesisError(
            f"{path}: it doesn't fit this run's network ({found}). Expected the plans, labels, settings and version "
            "that it was trained with: restore them, or move its folder away to start anew."
        ) from error


def _check_file(path: Path) -> None:
    with open(path, "rb") as file:
        start = file.read(300)
    for offset, mark, found in _OTHERS:
        if start.startswith(mark, offset):
            raise GenesisError(f"{path}: expected a checkpoint, found {found}")
    if start.startswith(ZIP):
        try:
            check_archive(path)
        except BadZipFile as error:
            raise GenesisError(_damaged(path, error)) from error


def _refusal(path: Path, error: Exception) -> str:
    """Name what torch refused to build."""
    found = set(re.findall(r"GLOBAL (\S+)", str(error)))  # of the first; torch lists them all for its zip format alone
    with contextlib.suppress(Exception):
        found |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    if not found:
        return _damaged(path, error)
    return (
        f"{path}: refused. It holds Python objects besides tensors and plain data ({some_keys(sorted(found))}), which "
        "could run code when loaded. Expected a checkpoint_*.pth of nnUNetv2_genesis_pretrain or of nnU-Net."
    )


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"{path}: can't be read as a checkpoint ({type(error).__name__}); it is damaged, truncated or of another "
        "format. Copy it again, or use another checkpoint."
    )
