"""Checks of an untrusted file: of its bytes before torch reads it, of its content before anything uses it."""

import itertools
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_genesis.errors import GenesisError

ZIP, HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = (*_FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)  # what networks' parameters and buffers are

_ELEMENTS = 200_000  # of a record; ours have thousands
_DEPTH = 32  # of nested containers; nnU-Net's plans have 6


def check_archive(path: Path) -> None:
    """Refuse a zip archive that claims more than it holds.

    torch writes its archives uncompressed. So no entry may be compressed, and together they can't be larger than the
    file; a small file that unpacks to gigabytes (compressed or overlapping entries) is neither.

    Raises:
        GenesisError: it is such an archive.
        zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        found = some_keys(entry.filename for entry in entries)
        raise GenesisError(
            f"{path}: expected a checkpoint, found a zip archive of {found}. Unpack it, and give the file inside."
        )
    packed = next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if packed is not None or claimed > size:
        found = f"the compressed entry {packed!r}" if packed is not None else f"entries of {claimed} bytes in {size}"
        raise GenesisError(
            f"{path}: refused. Expected an archive as torch.save writes it, uncompressed, found {found}. It was "
            "packed by another program or made to fill the memory: get the original file."
        )


def check_sizes(content: Any, path: Path) -> None:
    """Refuse loaded content whose tensors claim more bytes than the file has; touches no tensor's values.

    Raises:
        GenesisError: they do.
    """
    storages: dict[int, int] = {}
    stack, seen = [content], set()
    while stack:
        value = stack.pop()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type != "meta":
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            stack += [*value, *value.values()] if isinstance(value, dict) else value
    claimed, size = sum(storages.values()), path.stat().st_size
    if claimed > size:
        raise GenesisError(
            f"{path}: refused. Expected no more than the file holds, found tensors of {claimed} bytes in a file of "
            f"{size}. It was made to fill the memory: get the original file."
        )


def check_tensors(state: Mapping[Any, Any], file: Path, advice: str) -> None:
    """Refuse a state dict that holds anything but dense tensors of finite numbers, by names.

    Takes no more memory than the tensors in truth have. nnU-Net's state dict holds most of them under four names.

    Raises:
        GenesisError: it does; ``advice`` ends the message.
    """
    finite: set[Any] = set()
    problems = [(name, problem) for name, value in state.items() if (problem := _problem(name, value, finite))]
    if problems:
        name, problem = problems[0]
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise GenesisError(
            f"{file}: {str(name)[:200]!r} {problem}{more}; expected dense tensors of finite numbers. {advice}"
        )


def _problem(name: Any, value: Any, finite: set[Any]) -> str | None:
    if not isinstance(name, str):
        return "has a name that is no text"
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}"
    plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided and not value.is_nested
    if not plain or value.dtype not in _DTYPES:
        return f"is a sparse, quantised or special tensor ({type(value).__name__}, {value.layout}, {value.dtype})"
    if value.device.type == "meta":
        return "is a tensor without values"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"claims the shape {list(value.shape)} but holds {value.untyped_storage().nbytes()} bytes"
    key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
    if key not in finite and value.is_floating_point() and not bool(torch.isfinite(value).all()):
        return "holds values that are not finite"
    finite.add(key)
    return None


def plain(content: Any, file: Path) -> Any:
    """Return ``content`` as plain types: dict with text keys, list, str, int, float, bool, None.

    Raises:
        GenesisError: it holds anything else, is nested more than 32 deep, or has more than 200,000 elements (a list
            in a list in a list, each twice, is small in a file).
    """
    count = itertools.count(1)

    def copied(value: Any, depth: int) -> Any:
        if depth == _DEPTH or next(count) > _ELEMENTS:
            found = f"more than {_DEPTH} levels" if depth == _DEPTH else f"more than {_ELEMENTS} elements"
        elif isinstance(value, dict):
            return {str(key): copied(entry, depth + 1) for key, entry in value.items()}
        elif isinstance(value, (list, tuple)):
            return [copied(entry, depth + 1) for entry in value]
        elif isinstance(value, np.generic):
            return value.item()
        elif value is None or isinstance(value, (str, bool, int, float)):
            return value
        else:
            found = f"a {type(value).__name__}"
        raise GenesisError(f"{file}: expected plain data in its record and plans, found {found}. The file is damaged.")

    return copied(content, 0)


def some_keys(content: Iterable[Any]) -> str:
    """List the first keys, for a message."""
    return ", ".join(str(key)[:40] for key in list(content)[:8])
