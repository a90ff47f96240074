"""Small files that claim, or would grow to, gigabytes: pickles by hand, in archives as torch.save makes them."""

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


def hexed(times: int) -> bytes:
    """A text of 100 letters, twice as long with every call."""
    value = text("a" * 100)
    value = called(name("_codecs", "encode"), value, text("latin1"))
    for _ in range(times):
        value = called(name("_codecs", "encode"), value, text("hex"))
    return value


def encoded_again_and_again(length: int, times: int) -> bytes:
    """One long text in the file, copied by every call: ``times · length`` bytes."""
    kept = text("a" * length) + b"q\x01" + text("latin1") + b"q\x02" + name("_codecs", "encode") + b"q\x03"
    return b"](" + kept + b"h\x03h\x01h\x02\x86R" * times + b"e"


def many_tensors(count: int) -> bytes:
    """``count`` tensors over one storage of four bytes."""
    kept = name("torch._utils", "_rebuild_tensor_v2") + b"q\x01" + _arguments(b"K\x01\x85") + b"q\x02"
    return b"](" + kept + b"h\x01h\x02R" * count + b"e"


def grown_tensor(elements: int) -> bytes:
    """A tensor of many numbers over a storage of one, which torch makes larger."""
    return name("torch._utils", "_rebuild_tensor_v2") + _arguments(number(elements) + b"\x85") + b"R"


def _arguments(shape: bytes) -> bytes:
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x01tQ"
    hooks = called(name("collections", "OrderedDict"))
    return b"(" + storage + b"K\x00" + shape + b"K\x01\x85" + b"\x89" + hooks + b"t"


def tuple_of_tuples(levels: int) -> bytes:
    """As a dict's key, a tuple of two, each of two, …: hashing it takes 2^levels steps."""
    return START + b"K\x01" + b"q\x01h\x01\x86" * levels + b"K\x01s" + END


def list_of_lists(levels: int) -> bytes:
    """[[…], the same]: few bytes, 2^levels elements for whoever copies or prints it."""
    return b"](]q\x00" + b"".join(b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(levels)) + b"e"


def a_cycle() -> bytes:
    return b"]q\x01h\x01a"


BOMBS = {
    "bytearray": entry(called(name("builtins", "bytearray"), number(HUGE))),
    "bytearray, old name": entry(called(name("__builtin__", "bytearray"), number(HUGE))),
    "tensor": entry(called(name("torch", "Tensor"), number(HUGE // 4))),
    "tensor by __new__": entry(made(name("torch", "FloatTensor"), number(HUGE // 4))),
    "storage": entry(called(name("torch.storage", "UntypedStorage"), number(HUGE))),
    "storage of a type": entry(called(name("torch.storage", "TypedStorage"), number(HUGE // 4))),
    "texts that double": entry(hexed(24)),
    "copies of a text": entry(encoded_again_and_again(1_000_000, 1500)),
    "numpy scalar": entry(
        called(name("numpy._core.multiarray", "scalar"), called(name("numpy", "dtype"), text(f"V{HUGE}")))
    ),
    "shape beyond its storage": entry(grown_tensor(HUGE // 4)),
    "shape of 2^40": entry(grown_tensor(2**40)),
    "a million tensors": entry(many_tensors(1_000_000)),
    "empty dicts": entry(b"](" + b"}" * 20_000_000 + b"e"),
    "tuples of tuples": tuple_of_tuples(60),
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
