"""Preparation from nothing: windows, MR, refusals, the held-out set."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK

from nnunet_genesis.errors import GenesisError
from pretraining.__main__ import prepare
from pretraining.intensity_range import measured_range
from pretraining.preparation import preprocess
from pretraining.preparation.fingerprint import analyse
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.scans import channels, reading
from pretraining.scans.find import find_scans
from tests.faults.preparations import without_processes
from tests.pretraining.preparation.synthetic_scans import (
    World,
    manifest,
    preprocessed,
    truncate,
    use_folders,
    write_scan,
)
from tests.pretraining.scans.dicom_series import make_slice


@pytest.fixture
def empty(tmp_path, monkeypatch) -> World:
    """Nothing prepared yet, no scans."""
    use_folders(monkeypatch, tmp_path)
    return World(tmp_path, {})


def test_hu_window_is_the_clipping_and_can_not_change(empty):
    write_scan(empty.root / "scans" / "0.nii.gz")
    assert prepare_dataset(empty.options(hu_window=(-1000.0, 1000.0))) == []
    plans = empty.json("nnUNetPlans.json")
    statistics = plans["foreground_intensity_properties_per_channel"]["0"]
    assert (statistics["percentile_00_5"], statistics["percentile_99_5"]) == (-1000, 1000)
    data = blosc2.open(str(empty.data / f"{empty.cases()['0.nii.gz']}.b2nd"), mode="r")[:]
    assert data.min() == pytest.approx((-1000 - statistics["mean"]) / statistics["std"], rel=1e-4)
    before = empty.times()
    for changes in ({}, {"hu_window": (-900.0, 1000.0)}, {"like": "701"}):
        with pytest.raises(GenesisError, match=r"Dataset701_CT: was prepared with .* now .*repeat the earlier option"):
            prepare_dataset(empty.options(**changes))
    assert empty.times() == before


@pytest.mark.parametrize("exact", [True, False])
def test_exact_is_nnunets_own_resampling_bit_by_bit(empty, exact):
    for seed, spacing in enumerate((3.0, 3.0, 2.4)):
        write_scan(empty.root / "scans" / f"{seed}.nii.gz", seed, spacing)
    assert prepare_dataset(empty.options(exact=exact)) == []
    found = blosc2.open(str(empty.data / f"{empty.cases()['2.nii.gz']}.b2nd"), mode="r")[:]
    expected = preprocessed(empty, empty.root / "scans" / "2.nii.gz", empty.json("nnUNetPlans.json"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if exact else 1e-5)
    assert (found == expected).all() == exact


def test_mr_is_z_scored_and_its_ranges_are_measured(empty):
    write_scan(empty.root / "scans" / "0.nii.gz", modality="MR")
    assert prepare_dataset(empty.options()) == []
    assert empty.json("dataset.json")["channel_names"] == {"0": "MR"}
    assert empty.json("genesis_intensity_ranges_nnUNetPlans_3d_fullres.json") == {
        case: measured_range(blosc2.open(str(empty.data / f"{case}.b2nd"), mode="r")[:])
        for case in empty.cases().values()
    }
    (fold,) = empty.json("splits_final.json")
    assert fold["train"] == fold["val"] == sorted(empty.cases().values())


def test_folder_without_a_usable_scan_lists_the_reasons(empty):
    write_scan(empty.root / "scans" / "broken.nii.gz").write_text("no NIfTI")
    truncate(write_scan(empty.root / "scans" / "half.nii.gz"))
    with pytest.raises(GenesisError) as error:
        prepare_dataset(empty.options())
    rows = manifest(empty.base)
    assert [row["source"] for row in rows] == ["broken.nii.gz", "half.nii.gz"]
    assert {row["status"] for row in rows} == {"left out"}
    assert "no usable scan. Expected DICOM series, .nii" in str(error.value)
    assert all(f"{row['source']}: {row['reason']}" in str(error.value) for row in rows)
    assert not list(empty.base.glob("*Plans*"))


@pytest.mark.parametrize("root", ["raw", "preprocessed", "results"])
def test_an_id_that_is_taken_is_refused(empty, monkeypatch, root):
    (empty.root / "scans").mkdir()
    (empty.root / root / "Dataset701_Other").mkdir(parents=True)
    monkeypatch.setenv(f"nnUNet_{root}", str(empty.root / root))
    with pytest.raises(GenesisError, match=r"-d 701: nnU-Net's folders have Dataset701_Other already. Choose another"):
        prepare_dataset(empty.options())


def test_data_sets_of_others_are_not_touched(empty):
    write_scan(empty.root / "scans" / "a.nii.gz")
    other = empty.base.with_name("Dataset701_Other")
    other.mkdir()
    (other / "dataset.json").write_text('{"labels": {"background": 0}}')
    with pytest.raises(GenesisError, match=r"Dataset701_Other: is a data set that nnunet-genesis did not make"):
        prepare_dataset(empty.options(name="Other"))
    assert [path.name for path in other.iterdir()] == ["dataset.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planner": "NoPlanner"}, "-pl NoPlanner: nnU-Net has no such planner"),
        ({"like": "44"}, "--like 44: "),
        ({"like": "Dataset044_X"}, r"Dataset044_X/nnUNetPlans.json: no such plans.*nnUNetv2_plan_and_preprocess"),
        ({"inputs": (Path("/nowhere/at/all"),)}, "/nowhere/at/all does not exist"),
    ],
)
def test_impossible_wish_leaves_nothing_behind(empty, changes, message):
    (empty.root / "scans").mkdir()
    with pytest.raises(GenesisError, match=message):
        prepare_dataset(empty.options(**changes))
    assert list((empty.root / "preprocessed").iterdir()) == []


def test_unset_folder_is_named(empty, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(GenesisError, match="nnUNet_preprocessed is not set"):
        prepare_dataset(empty.options())


def test_asked_modality_counts_after_a_run_that_guessed_another(empty):
    file = write_scan(empty.root / "scans" / "liver.nii.gz")
    voxels = np.random.default_rng(0).normal(60, 35, (24, 40, 40)).astype(np.int16)  # without air and fat
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(file))
    (scan,), _ = find_scans([file])
    assert analyse(scan, None, 10_000, empty.root).modality == "MR"
    assert analyse(scan, "CT", 10_000, empty.root).modality == "CT"


def test_manifest_says_where_no_body_was_found(empty, monkeypatch):
    write_scan(empty.root / "scans" / "0.nii.gz")
    crop = write_scan(empty.root / "scans" / "crop.nii.gz", 1)
    image = SimpleITK.ReadImage(str(crop))
    SimpleITK.WriteImage(image[14:26, 14:26, 8:16], str(crop))  # from within the body
    for _ in range(2):  # the second call finds both finished
        assert prepare_dataset(empty.options(modality="CT")) == []
        remarks = {row["source"]: row["remark"] for row in manifest(empty.base)}
        assert remarks["0.nii.gz"] == ""
        assert "the whole image counts as body" in remarks["crop.nii.gz"]


def test_manifest_of_an_older_version_is_read(empty):
    write_scan(empty.root / "scans" / "0.nii.gz")
    prepare_dataset(empty.options())
    file = empty.base / "genesis_manifest.csv"
    file.write_text("".join(f"{line.rpartition(',')[0]}\r\n" for line in file.read_text().splitlines()))
    write_scan(empty.root / "scans" / "1.nii.gz", 1)
    assert prepare_dataset(empty.options()) == []
    assert [row["status"] for row in manifest(empty.base)] == ["prepared", "prepared"]


@pytest.mark.parametrize("at", ["analysing", "preprocessing", "finding"])
def test_error_of_our_own_is_shown_as_one_and_the_others_are_prepared(empty, monkeypatch, capsys, at):
    for seed in range(2):
        write_scan(empty.root / "scans" / f"{seed}.nii.gz", seed)
    (empty.root / "scans" / "2.nii.gz").write_text("not an image")
    without_processes(monkeypatch)
    module, name = {
        "analysing": (reading, "body_mask"),
        "preprocessing": (preprocess, "_complete_properties"),
        "finding": (channels, "_difference"),
    }[at]
    calls = []

    def fail(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise TypeError("unsupported operand")
        return original(*arguments)

    original = getattr(module, name)
    monkeypatch.setattr(module, name, fail)
    arguments = ["prepare", "-i", str(empty.root / "scans"), "-d", "701", "-n", "CT", "-np", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        prepare()
    assert stop.value.code == 1
    rows = {row["source"]: (row["status"], row["reason"]) for row in manifest(empty.base)}
    assert rows["0.nii.gz"] == ("left out", "internal error (TypeError), see genesis_errors.log")
    assert rows["1.nii.gz"] == ("prepared", "")
    log = (empty.base / "genesis_errors.log").read_text()
    assert "0.nii.gz" in log
    assert "Traceback" in log
    assert "TypeError: unsupported operand" in log
    assert "2.nii.gz" not in log
    assert "genesis_errors.log" in capsys.readouterr().out
    monkeypatch.setattr(module, name, original)
    with pytest.raises(SystemExit) as stop:
        prepare()
    assert stop.value.code == 3  # only 2.nii.gz


def test_localizers_alone_are_no_failure(empty, monkeypatch):
    write_scan(empty.root / "scans" / "0.nii.gz")
    make_slice(empty.root / "scans" / "scout.dcm", 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    without_processes(monkeypatch)
    arguments = ["prepare", "-i", str(empty.root / "scans"), "-d", "701", "-n", "CT", "-np", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        prepare()
    assert stop.value.code == 0
    assert [row["status"] for row in manifest(empty.base)] == ["prepared", "left out"]


@pytest.fixture
def read_only(empty) -> Iterator[World]:
    """nnUNet_preprocessed can't be written to, by root either."""
    folder = str(empty.base.parent)
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder]
    if not hasattr(os, "geteuid") or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield empty
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_read_only_folder_is_named(read_only):
    write_scan(read_only.root / "scans" / "0.nii.gz")
    with pytest.raises(GenesisError, match=r"Dataset701_CT: not written: Read-only file system. Make it writable"):
        prepare_dataset(read_only.options())


def test_folder_without_permission_is_named(empty, monkeypatch):
    write_scan(empty.root / "scans" / "0.nii.gz")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(empty.base))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(GenesisError, match=r"Dataset701_CT: .*Permission denied"):
        prepare_dataset(empty.options())
