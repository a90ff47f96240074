"""The checkpoint file: round trip, atomic write, and that a foreign file is refused without running anything in it."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_genesis import checkpoint, importers
from nnunet_genesis.checkpoint.record import software_versions
from nnunet_genesis.errors import GenesisError

METADATA = {"schema_version": checkpoint.SCHEMA_VERSION, "plans": {"a": [1, 2.5]}, "configuration": "3d_fullres"}


def content(**changes: Any) -> dict[str, Any]:
    """A small Genesis checkpoint."""
    weights = {"encoder.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3)}
    return {"network_weights": weights, "genesis": dict(METADATA), "current_epoch": 2, **changes}


def refusal(path: Path) -> str:
    """The message with which a file is refused, without the file's path, with which it begins."""
    with pytest.raises(GenesisError) as error:
        checkpoint.load_weights(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


def test_the_usual_workaround_for_old_checkpoints_neither_harms_nor_loosens(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    checkpoint.save(content(), tmp_path / "c.pth")
    assert checkpoint.load(tmp_path / "c.pth")["current_epoch"] == 2
    torch.save(content(path=tmp_path), tmp_path / "c.pth")  # a pathlib object
    assert "Path" in refusal(tmp_path / "c.pth")
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    checkpoint.save(content(), tmp_path / "c.pth")
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, who may read all
    for read in (checkpoint.load, importers.read):
        with pytest.raises(GenesisError, match=r"c\.pth: no permission to read it"):
            read(tmp_path / "c.pth")


def test_round_trip(tmp_path):
    checkpoint.save(content(), tmp_path / "c.pth")
    found = checkpoint.load(tmp_path / "c.pth")
    assert found.keys() == content().keys()
    assert (found["genesis"], found["current_epoch"]) == (METADATA, 2)
    weights = checkpoint.load_weights(str(tmp_path / "c.pth"))
    assert (weights.path, weights.record) == (tmp_path / "c.pth", checkpoint.Record(**METADATA))
    assert torch.equal(weights.network_weights["encoder.weight"], torch.arange(6.0).reshape(2, 3))


def test_plain_torch_load_reads_it(tmp_path):
    checkpoint.save(content(), tmp_path / "c.pth")
    found = torch.load(tmp_path / "c.pth", weights_only=True)
    assert torch.equal(found["network_weights"]["encoder.weight"], content()["network_weights"]["encoder.weight"])


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "c.pth"
    checkpoint.save(content(), file)
    before = file.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(content(bad=lambda: 0), file)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.pth"]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def write_payload(form: str, file: Path, marker: Path) -> None:
    if form.startswith("pickle"):
        file.write_bytes(pickle.dumps(content(bad=Payload(marker)), protocol=int(form[-1])))
    else:
        torch.save(content(bad=Payload(marker)), file, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle2"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, form):
    write_payload(form, tmp_path / "c.pth", tmp_path / "ran")
    message = refusal(tmp_path / "c.pth")
    assert not (tmp_path / "ran").exists()
    assert "refused" in message
    assert "could run code" in message
    assert "nnUNetv2_genesis_pretrain" in message


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["pickle4", "pickle5"])
def test_code_in_a_pickle_that_torch_does_not_know_is_not_run(tmp_path, form):
    write_payload(form, tmp_path / "c.pth", tmp_path / "ran")
    assert "checkpoint" in refusal(tmp_path / "c.pth")
    assert not (tmp_path / "ran").exists()


def test_objects_that_are_no_plain_data_are_refused(tmp_path):
    torch.save(content(array=np.zeros(3)), tmp_path / "c.pth")
    assert "refused. It holds Python objects" in refusal(tmp_path / "c.pth")


def test_the_payload_would_have_run(tmp_path):
    write_payload("zip", tmp_path / "c.pth", tmp_path / "ran")
    torch.load(tmp_path / "c.pth", weights_only=False)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("damage", ["random", "html", "empty", "truncated", "flipped"])
def test_damaged_file_is_called_damaged(tmp_path, damage):
    checkpoint.save(content(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    damaged = {
        "random": np.random.default_rng(0).bytes(1000),
        "html": b"<!DOCTYPE html><html><body>Please log in</body></html>",
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "flipped": whole[:30] + bytes(byte ^ 255 for byte in whole[30:-30]) + whole[-30:],
    }
    (tmp_path / "c.pth").write_bytes(damaged[damage])
    message = refusal(tmp_path / "c.pth")
    assert "damaged" in message
    assert "another checkpoint" in message


@pytest.mark.parametrize(("make", "found"), [(lambda path: None, "no such file"), (Path.mkdir, "found a folder")])
def test_missing_file_and_folder(tmp_path, make, found):
    make(tmp_path / "c.pth")
    message = refusal(tmp_path / "c.pth")
    assert found in message
    assert "Check the path" in message


@pytest.mark.parametrize("wrong", [[1, 2], torch.zeros(3), "text"])
def test_wrong_top_level_type(tmp_path, wrong):
    torch.save(wrong, tmp_path / "c.pth")
    message = refusal(tmp_path / "c.pth")
    assert f"found a {type(wrong).__name__}" in message
    assert "checkpoint_*.pth" in message


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"genesis": None}, "an nnU-Net checkpoint without Genesis metadata"),
        ({"genesis": "text"}, "an nnU-Net checkpoint without Genesis metadata"),
        ({"network_weights": None}, "no network weights"),
    ],
)
def test_checkpoint_of_another_kind(tmp_path, changes, found):
    torch.save(content(**changes), tmp_path / "c.pth")
    message = refusal(tmp_path / "c.pth")
    assert "expected a Genesis checkpoint" in message
    assert f"found {found} (keys: network_weights, genesis, current_epoch)" in message
    assert "nnUNetv2_genesis_pretrain" in message


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({**METADATA, "schema_version": checkpoint.SCHEMA_VERSION + 1}, f"version {checkpoint.SCHEMA_VERSION + 1}"),
        ({**METADATA, "schema_version": "1"}, "version '1'"),
        ({"schema_version": 1}, "missing plans, configuration"),
        ({}, "missing schema_version, plans, configuration"),
    ],
)
def test_unknown_schema(tmp_path, metadata, found):
    torch.save(content(genesis=metadata), tmp_path / "c.pth")
    message = refusal(tmp_path / "c.pth")
    assert found in message
    assert "pip install -U nnunet-genesis" in message


@pytest.mark.parametrize("bad", [torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")]), "text", 1.0])
def test_weights_that_are_no_finite_numbers(tmp_path, bad):
    torch.save(content(network_weights={"good": torch.zeros(2), "encoder.bad": bad}), tmp_path / "c.pth")
    message = refusal(tmp_path / "c.pth")
    assert "finite" in message
    assert "'encoder.bad' " in message
    assert "earlier checkpoint" in message


def test_numpy_scalars_in_nnunets_log_are_allowed(tmp_path):
    log = {"ema_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.25)], "val_losses": [np.float16(1)]}
    torch.save(content(logging=log, _best_ema=np.float64(0.5)), tmp_path / "c.pth")
    found = checkpoint.load(tmp_path / "c.pth")
    assert found["logging"] == log
    assert isinstance(found["_best_ema"], np.float64)
    with pytest.raises(pickle.UnpicklingError):  # and the permission ends with the call
        torch.load(tmp_path / "c.pth", weights_only=True)


def test_versions_are_plain_texts():
    versions = software_versions()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {type(value) for value in versions.values()} == {str}
