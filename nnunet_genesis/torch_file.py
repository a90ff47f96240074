"""torch's checkpoint files, old and new, read without running code in them: the only ``torch.load`` in the project."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.numpy_scalars import numpy_scalars
from nnunet_genesis.untrusted import HDF5, ZIP, check_archive, check_legacy

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch's own, and stronger than weights_only=False
_GZIP, _TAR = "a gzip archive", (257, "a tar archive")


def read(path: Path, map_location: str | torch.device = "cpu") -> Any:
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
    """Refuse what would crash torch or fill the memory; see :mod:`nnunet_genesis.untrusted`.

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
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals(numpy_scalars()):
            yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


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
