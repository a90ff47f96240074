"""Genesis_Chest_CT.h5: the same output as the Keras network in training, and files that were made to do harm."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_genesis import importers
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers import keras
from nnunet_genesis.importers.base import Source
from tests.nnunet_genesis.importers import foreign_files as foreign
from tests.nnunet_genesis.importers.test_authors_files import build, difference, noise

NAME = "{layer}/{layer}/{kind}:0"
h5py = pytest.importorskip("h5py", reason="Keras files need the optional h5py")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return foreign.random_state(foreign.keras_shapes())


def write(path: Path, state: dict[str, torch.Tensor], name: str = f"model_weights/{NAME}") -> Path:
    """A file as Keras lays it out."""
    with h5py.File(path, "w") as file:
        for key, value in state.items():
            layer, kind = key.split("/")
            file[name.format(layer=layer, kind=kind)] = value.numpy()
        file["optimizer_weights/SGD/depth_0_conv/kernel:0"] = np.zeros(3)
    return path


@torch.no_grad()
@pytest.mark.parametrize("keep_axes", [True, False])
def test_same_output_with_the_statistics_of_the_batch(state, keep_axes):
    imported = keras.convert(Source(Path("f.h5"), state), keep_axes)
    assert (len(imported.placed), imported.not_placed) == (86, {})
    x = noise(16, 16, 8)
    axes = [0, 1, 2, 3, 4] if keep_axes else [0, 1, 4, 3, 2]
    found = build(imported.checkpoint)(x.permute(axes)).permute(axes)
    assert difference(found, foreign.keras_output(state, x)) < 1e-4
    assert imported.record["axis_order"] == ("xyz" if keep_axes else "zyx")


@torch.no_grad()
def test_the_decoders_layer_numbers_do_not_matter(state):
    order = (12, 8, 13, 11, 9, 10)
    renumbered = {
        foreign_name: state[name]
        for foreign_name, name in zip(foreign.keras_shapes(order), foreign.keras_shapes(), strict=True)
    }
    first = keras.convert(Source(Path("f"), state)).checkpoint["network_weights"]
    second = keras.convert(Source(Path("f"), renumbered)).checkpoint["network_weights"]
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    "name", ["model_weights/{layer}/{layer}/{kind}:0", "{layer}/{layer}/{kind}:0", "{layer}/{kind}"]
)
def test_weights_are_found_wherever_keras_puts_them(state, tmp_path, name):
    found = importers.convert(write(tmp_path / "f.h5", state, name))
    assert len(found.placed) == 86
    assert found.record["imported"]["format"] == "keras"
    assert any("moving statistics at inference" in note for note in found.notes)
    assert any("up-sampled map comes before the skip" in note for note in found.notes)


def test_a_file_without_an_output_layer(state):
    without = {name: value for name, value in state.items() if not name.startswith("conv3d")}
    imported = keras.convert(Source(Path("f"), without))
    assert len(imported.placed) == 84
    assert not imported.checkpoint["network_weights"]["decoder.seg_layers.2.weight"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_3_conv/kernel": None}, "expected a tensor 'depth_3_conv/kernel'"),
        ({"depth_3_bn/gamma": None}, "expected a tensor 'depth_3_bn/gamma'"),
        ({"depth_3_conv/kernel": torch.zeros(3, 3)}, "'depth_3_conv/kernel' of shape"),
        ({"depth_9_conv/kernel": torch.zeros(3, 3, 3, 9, 9)}, "decoder.stages.0.convs.1.conv.weight"),
        (
            {"depth_3_conv/bias": torch.full((128,), float("nan"))},
            "'depth_3_conv/bias' holds values that are not finite",
        ),
    ],
)
def test_what_is_wrong_is_named(state, change, message):
    changed = {name: value for name, value in (state | change).items() if value is not None}
    with pytest.raises(GenesisError, match=f"f.h5: .*{message}"):
        keras.convert(Source(Path("f.h5"), changed))


def external_link(file, folder):
    file["x"] = h5py.ExternalLink("/etc/hostname", "/")


def soft_link(file, folder):
    file["depth_0_conv/kernel"] = h5py.SoftLink("/elsewhere")


def external_storage(file, folder):
    (folder / "secret").write_bytes(bytes(32))
    file.create_dataset("depth_0_conv/bias", (8,), "f4", external=[(str(folder / "secret"), 0, 32)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((8,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (8,))
    file.create_virtual_dataset("depth_0_conv/bias", layout)


def never_written(file, folder):
    file.create_dataset("depth_0_conv/bias", (10**12,), "f4")


def chunked(file, folder):
    file.create_dataset("depth_0_conv/bias", (10**12,), "f4", chunks=(10,))


def compressed(file, folder):
    file.create_dataset("depth_0_conv/bias", data=np.zeros(10**5, np.float32), compression="gzip")


def of_text(file, folder):
    file["depth_0_conv/bias"] = "text"


def six_axes(file, folder):
    file["depth_0_conv/bias"] = np.zeros([1] * 6)


def a_cycle(file, folder):
    file.create_group("depth_0_conv")["again"] = file["/"]
    file["more/depth_0_conv"] = file["depth_0_conv"]
    for index in range(9):
        file[f"hub{index}"] = file["/"]


def thousands(file, folder):
    for index in range(101):
        for inside in range(100):
            file.create_group(f"{index}/{inside}")


def two_of_one(file, folder):
    file["a/depth_0_conv/bias"] = file["b/depth_0_conv/bias"] = np.zeros(3)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (external_link, "the link 'x', which could point at other files"),
        (soft_link, "the link 'depth_0_conv/kernel'"),
        (external_storage, "data outside the file"),
        (virtual, "data outside the file"),
        (never_written, r"the shape \[1000000000000\] with 0 bytes of data"),
        (chunked, r"the shape \[1000000000000\] with 0 bytes of data"),
        (compressed, "compressed data"),
        (of_text, "Expected an array of numbers"),
        (six_axes, "shape .*1, 1"),
        (a_cycle, "expected weights in one of the formats"),
        (thousands, "more than 10000 nodes"),
        (two_of_one, "expected one depth_0_conv/bias, found two"),
    ],
)
def test_a_file_that_reaches_outside_or_claims_too_much_is_refused(tmp_path, harm, message):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        harm(file, tmp_path)
    with pytest.raises(GenesisError, match=message) as error:
        importers.convert(tmp_path / "f.h5")
    assert str(error.value).startswith(f"{tmp_path / 'f.h5'}: ")


@pytest.mark.parametrize("length", [8, 100, 2000])
def test_a_truncated_file_is_called_damaged(tmp_path, length):
    whole = write(tmp_path / "whole.h5", {"depth_0_conv/bias": torch.zeros(1000)}).read_bytes()
    (tmp_path / "f.h5").write_bytes(whole[:length])
    with pytest.raises(GenesisError, match=r"f\.h5: can't be read as a Keras file .*damaged"):
        importers.convert(tmp_path / "f.h5")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "f.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(GenesisError, match=r'pip install "nnunet-genesis\[keras\]"'):
        importers.convert(tmp_path / "f.h5")
