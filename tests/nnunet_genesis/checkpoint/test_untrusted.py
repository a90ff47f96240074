"""Files made to do harm: one message each, nothing run, no tensor larger than the file."""

import copy
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nnunet_genesis import checkpoint
from nnunet_genesis.errors import GenesisError

RECORD = {"schema_version": checkpoint.SCHEMA_VERSION, "plans": {}, "configuration": "3d_fullres"}


def content(value: object = None) -> dict:
    weights = {"encoder.good": torch.zeros(2, 3), "encoder.bad": torch.zeros(3) if value is None else value}
    return {"network_weights": weights, "genesis": dict(RECORD)}


def refusal(path: Path) -> str:
    with pytest.raises(GenesisError) as error:
        checkpoint.load_weights(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def rewrite(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """A torch archive at ``path`` with each entry changed."""
    torch.save(content(), path.with_suffix(".old"))
    with zipfile.ZipFile(path.with_suffix(".old")) as old, zipfile.ZipFile(path, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))


def with_pickle(path: Path, pickled: bytes) -> None:
    rewrite(path, lambda name, data: pickled if name.endswith("data.pkl") else data)


def test_a_rewritten_archive_is_read_where_nothing_is_wrong(tmp_path):
    rewrite(tmp_path / "c.pth", lambda name, data: data)
    assert checkpoint.load_weights(tmp_path / "c.pth").record == checkpoint.Record(**RECORD)


def test_compressed_entries_are_refused(tmp_path):
    rewrite(tmp_path / "c.pth", lambda name, data: data + bytes(10**6), zipfile.ZIP_DEFLATED)
    assert "found the compressed entry" in refusal(tmp_path / "c.pth")


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("c/data.pkl", bytes(10_000))
        for index in range(100):
            entry = copy.copy(archive.filelist[0])
            entry.filename = f"c/data/{index}"
            archive.filelist.append(entry)
    assert "found entries of 1010000 bytes in" in refusal(tmp_path / "c.pth")


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.zeros(1).expand(10**6, 10**6), "claims the shape [1000000, 1000000] but holds 4 bytes"),
        (torch.zeros(15).as_strided((8, 8), (1, 1)), "claims the shape [8, 8] but holds 60 bytes"),
        (torch.zeros(3).to_sparse(), "is a sparse"),
        (torch.zeros(3, 3).to_sparse_csr(), "is a sparse"),
        (torch.zeros(3, dtype=torch.complex64), "is a sparse, quantised or special tensor"),
        (torch.zeros(3, device="meta"), "is a tensor without values"),
        ([1, 2], "is a list"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_odd_tensors_are_named(tmp_path, value, found, legacy):
    try:
        torch.save(content(value), tmp_path / "c.pth", _use_new_zipfile_serialization=not legacy)
    except Exception:
        pytest.skip("torch can't write it in its old format")
    message = refusal(tmp_path / "c.pth")
    assert "'encoder.bad' " in message
    assert found in message


def test_numbers_of_8_bits_are_named(tmp_path):
    torch.save(content(torch.zeros(3).to(torch.float8_e4m3fn)), tmp_path / "c.pth")
    assert "is a sparse, quantised or special tensor" in refusal(tmp_path / "c.pth")


def test_2d_weights_are_refused(tmp_path):
    torch.save(content(torch.zeros(4, 1, 3, 3)), tmp_path / "c.pth")
    assert "expected 3D kernels, found a 2D one, [4, 1, 3, 3], in 'encoder.bad'" in refusal(tmp_path / "c.pth")


def test_an_nnunet_checkpoint_is_told_how_to_become_one(tmp_path):
    torch.save({"network_weights": {}, "init_args": {}}, tmp_path / "c.pth")
    assert "nnUNetv2_genesis_import" in refusal(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("pickled", "found"),
    [
        (b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", "found a list"),
        (b"\x80\x02", "damaged"),
        (b"", "damaged"),
    ],
)
def test_absurd_pickles(tmp_path, pickled, found):
    with_pickle(tmp_path / "c.pth", pickled)
    assert found in refusal(tmp_path / "c.pth")


class Foreign:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.makedirs, ("never",)


@pytest.mark.parametrize("legacy", [True, False])
def test_what_could_run_code_is_named(tmp_path, legacy):
    torch.save(content(Foreign()), tmp_path / "c.pth", _use_new_zipfile_serialization=not legacy)
    message = refusal(tmp_path / "c.pth")
    assert "Python objects besides tensors and plain data (os.makedirs)" in message


def test_numbers_shorter_than_claimed(tmp_path):
    rewrite(tmp_path / "c.pth", lambda name, data: data[:4] if name.endswith("data/0") else data)
    assert "damaged" in refusal(tmp_path / "c.pth")


def test_an_old_file_that_claims_more_numbers_than_it_has(tmp_path):
    torch.save(content(), tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "c.pth").read_bytes()
    assert whole.count(b"K\x06") == 1  # 2 · 3 elements
    (tmp_path / "c.pth").write_bytes(whole.replace(b"K\x06", b"\x8a\x06" + (10**13).to_bytes(6, "little")))
    assert "damaged" in refusal(tmp_path / "c.pth")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_files(tmp_path, form, kept):
    path = tmp_path / ("c.safetensors" if form == "safetensors" else "c.pth")
    if form == "legacy":
        torch.save(content(torch.zeros(10_000)), path, _use_new_zipfile_serialization=False)
    else:
        checkpoint.save(content(torch.zeros(10_000)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert "damaged" in refusal(path)


def test_old_files_still_load(tmp_path):
    torch.save(content(), tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    assert checkpoint.load_weights(tmp_path / "c.pth").record == checkpoint.Record(**RECORD)


def test_keras_files_are_told_apart(tmp_path):
    (tmp_path / "c.pth").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "found an HDF5 file" in refusal(tmp_path / "c.pth")


def crafted(header: dict | bytes, numbers: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(numbers)


def tensor(shape: list, begin: int, end: int, kind: str = "F32") -> dict:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)},  # one inside the other
        {"a": tensor([10**6, 10**6], 0, 8)},
        {"a": tensor([2**40, 2**40], 0, 8)},
        {"a": tensor([10**12], 0, 4 * 10**12)},
        {"a": tensor([1], 4, 8)},  # a hole before it
        {"a": tensor([2], 8, 0)},
        {"a": tensor([-2], 0, 8)},
        {"a": tensor([2], 0, 8, "F33")},
        {"__metadata__": {"genesis": "{not json"}, "a": tensor([2], 0, 8)},
        {"__metadata__": {"genesis": "[" * 10**5}, "a": tensor([2], 0, 8)},
        {"__metadata__": {"aliases": '{"b": "missing"}'}, "a": tensor([2], 0, 8)},
        {"__metadata__": {"aliases": "[1]"}, "a": tensor([2], 0, 8)},
        {"__metadata__": {"aliases": '{"b": {}}'}, "a": tensor([2], 0, 8)},
        {"__metadata__": {"genesis": 3}, "a": tensor([2], 0, 8)},
        b"{" + b'"a":' * 1000,
        b"{" + b"\xff" * 100,
    ],
)
def test_crafted_safetensors(tmp_path, header):
    (tmp_path / "c.safetensors").write_bytes(crafted(header))
    assert "can't be read as safetensors" in refusal(tmp_path / "c.safetensors")


def test_somebody_elses_safetensors(tmp_path):
    (tmp_path / "c.safetensors").write_bytes(crafted({"a": tensor([2], 0, 8)}))
    assert "found an nnU-Net checkpoint without Genesis metadata" in refusal(tmp_path / "c.safetensors")


def test_a_header_longer_than_the_file(tmp_path):
    (tmp_path / "c.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}" + bytes(100))
    assert "damaged" in refusal(tmp_path / "c.safetensors")
