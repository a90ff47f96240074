"""Small files that claim tensors of gigabytes are refused before memory of that size is taken."""

import json
from pathlib import Path

import pytest
import torch

from nnunet_genesis import checkpoint, importers
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json
from tests.faults.bombs import BOMBS, HUGE, as_archive, as_legacy
from tests.faults.peak import peak_growth

MOST = 50  # MB


@pytest.mark.parametrize(
    ("name", "write"),
    [(name, write) for name in BOMBS for write in (as_archive, as_legacy) if name != "lists in lists"],
)
def test_pickles(tmp_path, name, write):
    path = write(tmp_path / "c.pth", BOMBS[name])
    with pytest.raises(GenesisError) as error, peak_growth() as growth:
        importers.convert(path)
    assert str(error.value).startswith(f"{path}: ")
    assert growth[0] < MOST
    print(f"survived: {name}, {path.stat().st_size} bytes, {write.__name__}: {growth[0]:.0f} MB taken")


def test_deep_lists_are_read_and_not_followed(tmp_path):
    with peak_growth() as growth:
        content = checkpoint.load(as_archive(tmp_path / "c.pth", BOMBS["lists in lists"]))
        content["genesis"], content["network_weights"] = content.pop("a"), {}
        with pytest.raises(GenesisError):
            checkpoint.check(content, tmp_path / "c.pth")
    assert growth[0] < MOST
    print(f"survived: 100000 lists in lists: {growth[0]:.0f} MB taken")


@pytest.mark.parametrize("bomb", ["lists of lists", "a list in itself"])
def test_records_that_grow_when_they_are_copied(tmp_path, bomb):
    content = checkpoint.load(as_archive(tmp_path / "c.pth", BOMBS[bomb]))
    record = {"schema_version": 1, "plans": content["a"], "configuration": "3d_fullres"}
    with pytest.raises(GenesisError, match="found more than"), peak_growth() as growth:
        checkpoint.check({"network_weights": {}, "genesis": record}, tmp_path / "c.pth")
    assert growth[0] < MOST


def tensors(count: int, shape: list[int], length: int) -> bytes:
    header = {f"t{i}": {"dtype": "F32", "shape": shape, "data_offsets": [0, length]} for i in range(count)}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(min(length, 1000))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a million empty tensors", tensors(1_000_000, [0], 0)),
        ("a shape of 2^40", tensors(1, [2**40], 4)),
        ("a shape of 2^40 with its bytes claimed", tensors(1, [2**40], 2**42)),
        ("an empty shape times 2^62", tensors(1, [0, 2**62, 2**62], 0)),
        ("a header of 2^50 bytes", (2**50).to_bytes(8, "little") + b"{" + bytes(100)),
    ],
)
def test_safetensors(tmp_path, name, content):
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(GenesisError) as error, peak_growth() as growth:
        checkpoint.load_weights(tmp_path / "c.safetensors")
    assert growth[0] < MOST
    assert str(error.value).startswith(f"{tmp_path / 'c.safetensors'}: ")
    print(f"survived: safetensors with {name}: {growth[0]:.0f} MB taken")


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py", reason="Keras files need the optional h5py")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for number in range(3000):
            file.create_dataset(f"depth_{number}_conv/kernel", (2**30,), "f4", chunks=(2**16,))
    with pytest.raises(GenesisError, match="refused"), peak_growth() as growth:
        importers.convert(tmp_path / "f.h5")
    assert growth[0] < MOST
    print(f"survived: HDF5 that claims {3000 * 2**32 >> 40} TB: {growth[0]:.0f} MB taken")


def test_a_tensor_with_more_storage_than_the_file(tmp_path):
    """However torch came to allocate it."""
    from nnunet_genesis.checkpoint.untrusted import check_sizes

    (tmp_path / "c.pth").write_bytes(bytes(100))
    with pytest.raises(GenesisError, match=f"tensors of {HUGE} bytes in a file of 100"), peak_growth() as growth:
        check_sizes({"a": torch.empty(HUGE, dtype=torch.uint8)}, tmp_path / "c.pth")
    assert growth[0] < MOST
    print("survived: an allocated tensor that the file doesn't hold")


def test_deep_json(tmp_path):
    Path(tmp_path / "s.json").write_text("[" * 100_000)
    with pytest.raises(GenesisError, match="expected JSON, found something else"):
        read_json(tmp_path / "s.json")
    print("survived: 100000 brackets in JSON")
