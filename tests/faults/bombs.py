"""Small files that claim gigabytes: pickles by hand, in archives as torch.save makes them."""

import io
import pickle
import zipfile
from pathlib import Path

import torch

HUGE = 1_500_000_000  # bytes; enough to be seen, little enough to survive a failing test

START, END = b"\x80\x02}", b"."  # of a dict
ENTRY, SET = b"X\x01\x00\x00\x00a", b"s"  # its key 'a', and the value before goes in


def number(value: int) -> bytes:
    """The opcode that pushes ``value``."""
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def made(cls: bytes, *arguments: bytes) -> bytes:
    """``cls.__new__(cls, *arguments)``."""
    return cls + b"(" + b"".join(arguments) + b"t\x81"


def entry(value: bytes) -> bytes:
    """A pickled dict with this one value."""
    return START + ENTRY + value + SET + END


def grown_tensor(elements: int) -> bytes:
    """A tensor of many numbers over a storage of one, which torch makes larger."""
    return name("torch._utils", "_rebuild_tensor_v2") + _arguments(number(elements) + b"\x85") + b"R"


def _arguments(shape: bytes) -> bytes:
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x01tQ"
    hooks = called(name("collections", "OrderedDict"))
    return b"(" + storage + b"K\x00" + shape + b"K\x01\x85" + b"\x89" + hooks + b"t"


def list_of_lists(levels: int) -> bytes:
    """[[…], the same]: few bytes, 2^levels elements for whoever copies or prints it."""
    return b"](]q\x00" + b"".join(b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(levels)) + b"e"


def a_cycle() -> bytes:
    return b"]q\x01h\x01a"


BOMBS = {
    "tensor": entry(called(name("torch", "Tensor"), number(HUGE // 4))),
    "tensor by __new__": entry(made(name("torch", "FloatTensor"), number(HUGE // 4))),
    "storage of a type": entry(called(name("torch.storage", "TypedStorage"), number(HUGE // 4))),
    "shape beyond its storage": entry(grown_tensor(HUGE // 4)),
    "shape of 2^40": entry(grown_tensor(2**40)),
    "lists of lists": entry(list_of_lists(60)),
    "a list in itself": entry(a_cycle()),
    "lists in lists": entry(b"]" * 100_000 + b"a" * 99_999),
}


def as_archive(path: Path, pickled: bytes, archive: bytes | None = None) -> Path:
    """torch.save's format, with this pickle in place of ``archive``'s (of one tensor, where none is given)."""
    buffer = io.BytesIO(archive or b"")
    if archive is None:
        torch.save({"a": torch.zeros(1)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.infolist():
            new.writestr(item.filename, pickled if item.filename.endswith("data.pkl") else old.read(item))
    return path


def as_legacy(path: Path, pickled: bytes) -> Path:
    """torch's format until 1.5: magic number, version, system, content, keys of the storages."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    around = [pickle.dumps(item, protocol=2) for item in (0x1950A86A20F9469CFC6C, 1001, system)]
    path.write_bytes(b"".join(around) + pickled + pickle.dumps([], protocol=2))
    return path
