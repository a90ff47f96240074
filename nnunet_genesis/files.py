"""Files on disk: whole or not at all, regular only, JSON, and a full or read-only disk in words."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_genesis.errors import GenesisError, printable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM)
# What torch's writer says; it loses the reason.
_TORCH = ("inline_container", "PytorchStreamWriter", "iostream")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it to ``path``.

    Whatever stood at ``path`` stays whole until the new file is complete.
    """
    temporary = f"{os.fspath(path)}.tmp{os.getpid()}"
    try:
        yield temporary
        move_whole(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


@contextlib.contextmanager
def rows_path(file: Path) -> Iterator[Path]:
    """Yield ``NAME.partial.csv`` beside ``NAME.csv``, renamed to that on success.

    After an error or Ctrl-C the rows stay there, which is said, and what stood at ``file`` stays whole.
    """
    partial = file.with_name(f"{file.stem}.partial{file.suffix}")
    try:
        yield partial
    except BaseException:
        if partial.is_file():
            print(f"{partial} has the rows that are finished; the same command begins anew.")
        raise
    move_whole(partial, file)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder``, which takes its place on success; an empty one there is filled."""
    folder = folder.resolve()  # "." has no name
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.is_dir():  # stays: a shell may be in it
            for entry in partial.iterdir():
                entry.rename(folder / entry.name)
        else:
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def move_whole(file: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a file once its content is on the disk: after a power cut a renamed file must not be empty."""
    flush(file)
    os.replace(file, target)
    if os.name == "posix":  # the new name too must survive; Windows can't open folders
        flush(os.path.dirname(os.path.abspath(target)))


def flush(path: str | os.PathLike[str], forget: bool = False) -> None:
    """Wait until a file's content, or a folder's names, are on the disk.

    Args:
        path: the file or folder.
        forget: also drop the content from memory, where the system can, so that it is then read from the disk.
    """
    handle = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(handle)
        if forget and hasattr(os, "posix_fadvise"):  # not on macOS and Windows
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed in :func:`atomic_path` have left in a folder."""
    for file in folder.glob("*.tmp[0-9]*"):
        file.unlink()


def write_json(content: Any, file: Path, sort_keys: bool = False) -> None:
    """Write JSON as nnU-Net does, whole or not at all."""
    with atomic_path(file) as path, open(path, "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=4, sort_keys=sort_keys)


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        GenesisError: it is missing, not a regular file or not JSON.
    """
    try:
        return json.loads(regular_file(file, "a JSON file").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise GenesisError(f"{file}: expected JSON, found something else ({error}). Restore or remove it.") from error


def regular_file(path: str | os.PathLike[str], expected: str = "a checkpoint (.pth)") -> Path:
    """Return ``path`` if it is a file; a device or a pipe (``/dev/zero``) could give bytes, or none, for ever.

    Raises:
        GenesisError: there is no such file, it may not be read, or it is a folder, a device, a pipe or an address.
    """
    if "://" in os.fspath(path) or os.fspath(path).startswith("hf:"):
        raise GenesisError(
            f"{path}: expected the path of {expected}, found an address. Nothing is downloaded here: fetch the file "
            "(hf:ORG/NAME: nnUNetv2_genesis_import), then give its path."
        )
    path = Path(path)
    try:
        if path.is_file():
            if os.access(path, os.R_OK):
                return path
            raise GenesisError(f"{path}: no permission to read it. Check the file's owner and mode.")
        found = "found a folder" if path.is_dir() else "found a device or a pipe" if path.exists() else "no such file"
    except (OSError, ValueError) as error:  # e.g. a name of 10,000 letters
        found = f"no such file ({getattr(error, 'strerror', None) or error})"
    raise GenesisError(f"{printable(path, 300)}: {found}; expected {expected}. Check the path.")


def check_writable(folder: Path, size: int = 0) -> None:
    """Make a folder, and raise OSError if a file of ``size`` bytes can't be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(size))


def sha256(path: str | os.PathLike[str]) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits, read a megabyte at a time."""
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def not_writable(error: BaseException) -> bool:
    """Say whether the disk is why: it, a quota or a limit of the file's size is full, or it is closed to writing."""
    return isinstance(error, OSError) and error.errno in (*_FULL, *_FORBIDDEN, errno.EROFS)


@contextlib.contextmanager
def disk_in_words(path: str | os.PathLike[str], then: str) -> Iterator[None]:
    """Turn the error of a disk that is full, read-only or closed to this user into a message.

    Args:
        path: the file or folder that is written to within the block, named where the error names none.
        then: what to do when there is room, e.g. ``run the same command again``.

    Raises:
        GenesisError: the message.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if message := _in_words(error, path, then):
            raise GenesisError(message) from error
        raise


def _in_words(error: BaseException, path: str | os.PathLike[str], then: str) -> str | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    if not isinstance(cause, OSError):
        if not any(name in str(error) for name in _TORCH):
            return None
        cause = OSError(errno.ENOSPC, "is the disk full?")
    file = str(cause.filename or path).split(".tmp")[0]
    if cause.errno in _FULL:
        free = shutil.disk_usage(path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))).free // 2**20
        return f"{file}: not written: {cause.strerror} ({free} MiB are free there). Free some space, then {then}"
    if cause.errno == errno.EROFS:
        return f"{file}: not written: {cause.strerror}. Make it writable, or choose another folder, then {then}"
    if cause.errno in _FORBIDDEN:
        return f"{file}: {cause.strerror}. Check the owner and mode of the file and its folder, then {then}"
    return None
