"""Files that are there whole or not at all, whatever ends the process; and what a full disk is told."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import save_json

from nnunet_genesis.checkpoint import atomic_path
from nnunet_genesis.errors import GenesisError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_json(content: Any, file: Path, sort_keys: bool = False) -> None:
    """Write JSON as nnU-Net does, whole or not at all."""
    with atomic_path(file) as path:
        save_json(content, path, sort_keys=sort_keys)


def move_whole(file: Path, target: Path) -> None:
    """Rename a file once its content is on the disk: after a power cut a renamed file must not be empty."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(file, target)


def remove_unfinished(base: Path) -> None:
    """Remove what processes that were killed while they wrote have left in a folder."""
    for file in base.glob("*.tmp[0-9]*"):
        file.unlink()


def check_space(folder: Path) -> None:
    """Raise OSError if the disk has no room for another megabyte."""
    file = folder / "space"
    try:
        file.write_bytes(bytes(1_000_000))
    finally:
        file.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that no space is left on the device, or within the quota."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextlib.contextmanager
def disk_full_in_words(base: Path) -> Iterator[None]:
    """Turn the error of a full disk into a :class:`GenesisError`."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise GenesisError(
            f"{base}: no space is left on its disk, or within your quota ({error.strerror}). Free some, and run the "
            "same command again: finished scans are kept."
        ) from error
