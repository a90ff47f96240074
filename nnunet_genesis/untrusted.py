"""Checks of a stranger's file: of its bytes before torch reads it, of its tensors before anything touches them."""

import contextlib
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from nnunet_genesis.errors import GenesisError

ZIP, HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = (*_FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)  # what networks' parameters and buffers are

_LEVELS = 100  # of nested tuples; torch's own have 3


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
                _check_nesting(archive.read(entry), path)


def check_legacy(path: Path) -> None:
    """As :func:`check_archive`, for torch's old format: five pickles, then the numbers.

    Raises:
        GenesisError: a pickle would crash its reader.
    """
    with open(path, "rb") as file, contextlib.suppress(ValueError, IndexError, KeyError, TypeError):
        for _ in range(5):  # what is no pickle, torch refuses
            _check_nesting(file, path)


def _check_nesting(pickled: bytes | IO[bytes], path: Path) -> None:
    """Follow the pickle's stack without building anything, and refuse tuples nested too deep.

    Python hashes a tuple by recursion in C, without a limit: one of a million levels, as a key, ends the process.
    """
    stack: list[Any] = []  # tuple levels of each object on the pickle machine's stack
    memo: dict[Any, int] = {}
    for operation, argument, _ in pickletools.genops(pickled):
        name = operation.name
        if name == "MEMOIZE" or "PUT" in name:
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
            continue
        if name.endswith("GET"):
            stack.append(memo[argument])
            continue
        levels = _take(stack, operation)
        level = 1 + max(levels, default=0) if name.startswith("TUPLE") else levels[0] if name == "DUP" else 0
        if level > _LEVELS:
            raise GenesisError(
                f"{path}: refused. Expected plain data, found tuples nested more than {_LEVELS} deep. The file was "
                "made to crash its reader: get the original file."
            )
        stack += [None if kind is pickletools.markobject else level for kind in operation.stack_after]


def _take(stack: list[Any], operation: pickletools.OpcodeInfo) -> list[int]:
    """Pop what the operation consumes; a mark (None on ``stack``) ends a run of any length."""
    before, taken = list(operation.stack_before), []
    if pickletools.markobject in before:
        while (level := stack.pop()) is not None:
            taken.append(level)
        before = before[: before.index(pickletools.markobject)]
    taken += [stack.pop() for _ in before]
    return taken


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
