"""Checkpoints read without running code in them; the only ``torch.load`` in the project."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from nnunet_genesis.checkpoint import safetensors_format
from nnunet_genesis.checkpoint.record import SCHEMA_VERSION
from nnunet_genesis.checkpoint.untrusted import (
    HDF5,
    ZIP,
    check_archive,
    check_content,
    check_legacy,
    first_problem,
    plain,
    sha256,
    some_keys,
)
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file
from nnunet_genesis.folders import environment
from nnunet_genesis.numpy_scalars import numpy_scalars

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch's own, and stronger than weights_only=False
_GZIP, _TAR = "a gzip archive", (257, "a tar archive")
_REQUIRED = ("schema_version", "plans", "configuration")


@dataclasses.dataclass(frozen=True)
class GenesisWeights:
    """A Genesis checkpoint as read from disk.

    Attributes:
        path: the file.
        network_weights: state dict of the pretrained network (nnU-Net's parameter names), on the CPU.
        metadata: the ``genesis`` record: plans, configuration, normalisation, corruption, data, software, …
        sha256: of the file, in hexadecimal digits; empty where it wasn't computed.
    """

    path: Path
    network_weights: dict[str, torch.Tensor]
    metadata: dict[str, Any]
    sha256: str = ""


def load(path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running any code in it; torch's formats, old and new, and our safetensors.

    nnU-Net's own checkpoints hold numpy scalars in their logs; exactly those types are allowed besides tensors and
    plain containers. Tensors may claim more than they hold: :mod:`nnunet_genesis.checkpoint.untrusted` checks them.

    Raises:
        GenesisError: the file is missing, unreadable, no checkpoint, or holds anything else.
    """
    path = regular_file(path)
    try:
        read = safetensors_format.read if safetensors_format.is_safetensors(path) else _read_torch
        checkpoint = read(path, map_location)
    except PermissionError as error:
        raise GenesisError(f"{path}: no permission to read it. Check the file's owner and mode.") from error
    check_content(checkpoint, path)
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
    """The weights and the record of ``checkpoint``, as :func:`load` gave it; ``digest``: the file's SHA-256.

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
    missing = [key for key in _REQUIRED if key not in metadata]
    if missing or not isinstance(metadata["schema_version"], int) or metadata["schema_version"] > SCHEMA_VERSION:
        found = f"missing {', '.join(missing)}" if missing else f"version {metadata['schema_version']!r}"
        raise GenesisError(
            f"{path}: expected Genesis schema version {SCHEMA_VERSION} or older, found {found}. It comes from a newer "
            "nnunet-genesis or is damaged: upgrade with 'pip install -U nnunet-genesis', or write it anew."
        )
    _check_weights(weights, path)
    return GenesisWeights(Path(path), weights, plain(metadata, Path(path)), digest)


def _check_weights(weights: dict[str, Any], path: str | os.PathLike[str]) -> None:
    if problem := first_problem(weights):
        name, found, more = problem
        raise GenesisError(
            f"{path}: expected tensors of finite numbers, found something else in {name!r} (and {more} more): it "
            f"{found}. The pretraining diverged or the file is damaged: use an earlier checkpoint."
        )
    flat = next((name for name, value in weights.items() if value.ndim == 4), None)
    if flat is not None:
        raise GenesisError(
            f"{path}: expected 3D kernels, found a 2D one, {list(weights[flat].shape)}, in {flat!r}. Genesis weights "
            "are 3D: use those of a 3d_fullres or 3d_lowres configuration."
        )


def _read_torch(path: Path, map_location: str | torch.device = "cpu") -> Any:
    """Content of the file: tensors, plain data, and numpy's floats as in nnU-Net's logs.

    Raises:
        GenesisError: the file is damaged, no checkpoint, or holds anything else.
        PermissionError: it may not be read.
    """
    try:
        check_file(path)
        with restricted():
            return torch.load(path, map_location=map_location, weights_only=True)
    except (GenesisError, PermissionError):
        raise
    except Exception as error:  # torch raises a dozen types for a file that isn't a checkpoint
        raise GenesisError(unreadable(path, error)) from error


def check_file(path: Path) -> None:
    """Refuse what would crash torch or fill the memory; see :mod:`nnunet_genesis.checkpoint.untrusted`.

    Raises:
        GenesisError: it is such a file, or Keras'.
        zipfile.BadZipFile: it is damaged.
    """
    with open(path, "rb") as file:
        start = file.read(len(HDF5))
        file.seek(_TAR[0])
        packed = _GZIP if start.startswith(b"\x1f\x8b") else _TAR[1] if file.read(5) == b"ustar" else None
    if packed:
        raise GenesisError(f"{path}: expected a checkpoint, found {packed}. Unpack it, and give the file inside.")
    if start == HDF5:
        raise GenesisError(
            f"{path}: expected a checkpoint, found an HDF5 file (Keras'). Convert it first: nnUNetv2_genesis_import "
            "FILE -o genesis.pth."
        )
    (check_archive if start.startswith(ZIP) else check_legacy)(path)


@contextlib.contextmanager
def restricted() -> Iterator[None]:
    """Within the block every ``torch.load`` builds tensors and plain data alone, even with ``weights_only=False``."""
    with environment(**{_FORCE: "1"}), torch.serialization.safe_globals(numpy_scalars()):
        yield


def unreadable(path: Path, error: Exception) -> str:
    """What torch's ``error`` means, and what to do."""
    # "Unsupported operand": the bytes aren't even a pickle that torch knows.
    if isinstance(error, UnpicklingError) and "Unsupported operand" not in str(error):
        return (
            f"{path}: refused. It holds Python objects besides tensors and plain data, which could run code when "
            "loaded. Expected a checkpoint_*.pth of nnUNetv2_genesis_pretrain or of nnU-Net."
        )
    return (
        f"{path}: can't be read as a checkpoint ({type(error).__name__}); it is damaged, truncated or of another "
        "format. Copy it again, or use another checkpoint."
    )
