"""Checks of a stranger's file: of its bytes before torch reads it, of its tensors before anything touches them."""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.pickled import check_pickle

ZIP, HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = (*_FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)  # what networks' parameters and buffers are

_ELEMENTS = 10_000_000  # of a file's content, as it would be printed
_DEPTH = 32  # of nested containers; nnU-Net's plans have 6


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal digits, read a megabyte at a time."""
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_archive(path: Path) -> None:
    """Refuse a zip archive that claims more than it holds, or a pickle that would crash its reader.

    torch writes its archives uncompressed. So no entry may be compressed, and together they can't be larger than the
    file; a small file that unpacks to gigabytes (compressed or overlapping entries) is neither.

    Raises:
        GenesisError: it is such an archive.
        zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
        if not any(entry.filename.endswith("data.pkl") for entry in entries):
            found = some_keys(entry.filename for entry in entries)
            raise GenesisError(
                f"{path}: expected a checkpoint, found a zip archive of {found}. Unpack it, and give the file inside."
            )
        claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
        if packed is not None or claimed > size:
            found = (
                f"the compressed entry {packed!r}" if packed is not None else f"entries of {claimed} bytes in {size}"
            )
            raise GenesisError(
                f"{path}: refused. Expected an archive as torch.save writes it, uncompressed, found {found}. It was "
                "packed by another program or made to fill the memory: get the original file."
            )
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                check_pickle(archive.read(entry), path)


def check_legacy(path: Path) -> None:
    """As :func:`check_archive`, for torch's old format: five pickles, then the numbers.

    Raises:
        GenesisError: a pickle would crash its reader.
    """
    with open(path, "rb") as file, contextlib.suppress(ValueError, IndexError, KeyError, TypeError):
        for _ in range(5):  # what is no pickle, torch refuses
            check_pickle(file, path)


def check_content(content: Any, path: Path) -> None:
    """Refuse loaded content that grows when it is copied, printed or computed with; touches no tensor's values.

    A list may hold one list twice, and that one another twice: 60 levels of it are 2^60 elements. A tensor may have
    been given more storage than the file has bytes.

    Raises:
        GenesisError: it is such content.
    """
    storages: dict[int, int] = {}
    sizes: dict[int, int] = {}  # elements by id of each container; 0 while it is being counted
    stack = [content]
    while stack:
        value = stack[-1]
        inside = _inside(value) if id(value) not in sizes or sizes[id(value)] == 0 else None
        if inside is None:
            if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type != "meta":
                storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            stack.pop()
        elif id(value) not in sizes:
            sizes[id(value)] = 0
            stack += inside
        else:
            sizes[id(value)] = 1 + sum(sizes.get(id(entry), 1) or _ELEMENTS for entry in inside)  # 0: it holds itself
            stack.pop()
    claimed, size = sum(storages.values()), path.stat().st_size
    if claimed > size or sizes.get(id(content), 1) > _ELEMENTS:
        found = f"tensors of {claimed} bytes in a file of {size}" if claimed > size else "lists in lists without end"
        raise GenesisError(
            f"{path}: refused. Expected no more than the file holds, found {found}. It was made to fill the memory: "
            "get the original file."
        )


def _inside(value: Any) -> list[Any] | None:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else None


def tensor_problem(value: Any, finite: set[Any] | None = None) -> str | None:
    """What is wrong with a tensor of a stranger's file, or None; costs no more memory than the tensor has in truth.

    ``finite`` collects what was found finite: nnU-Net's state dict holds most tensors under four names.
    """
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}"
    plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided and not value.is_nested
    if not plain or value.dtype not in _DTYPES:
        return f"is a sparse, quantised or special tensor ({type(value).__name__}, {value.layout}, {value.dtype})"
    if value.device.type == "meta":
        return "is a tensor without values"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"claims the shape {list(value.shape)} but holds {value.untyped_storage().nbytes()} bytes"
    seen, key = set() if finite is None else finite, (value.data_ptr(), value.shape, value.stride(), value.dtype)
    if key not in seen and value.is_floating_point() and not bool(torch.isfinite(value).all()):
        return "holds values that are not finite"
    seen.add(key)
    return None


def first_problem(weights: Mapping[Any, Any]) -> tuple[str, str, int] | None:
    """Name and problem of the first bad tensor, and how many more there are."""
    finite: set[Any] = set()
    problems = [(str(name), problem) for name, value in weights.items() if (problem := tensor_problem(value, finite))]
    return (*problems[0], len(problems) - 1) if problems else None


def plain(value: Any, file: Path, depth: int = 0) -> Any:
    """``value`` as plain types: dict with text keys, list, str, int, float, bool, None.

    Raises:
        GenesisError: it holds anything else, or is nested more than 32 deep.
    """
    if depth < _DEPTH:
        if isinstance(value, dict):
            return {str(key): plain(entry, file, depth + 1) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(entry, file, depth + 1) for entry in value]
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
    found = f"a {type(value).__name__}" if depth < _DEPTH else f"more than {_DEPTH} levels"
    raise GenesisError(f"{file}: expected plain data in its record and plans, found {found}. The file is damaged.")


def some_keys(content: Iterable[Any]) -> str:
    """The first keys, for a message."""
    return ", ".join(str(key)[:40] for key in list(content)[:8])
