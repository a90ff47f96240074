"""Folders as they are downloaded: labels beside scans, CT and MR together, other modalities, plans of any kind."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK
from nnunetv2.dataset_conversion.convert_MSD_dataset import split_4d_nifti

from nnunet_genesis.errors import GenesisError
from pretraining.__main__ import prepare
from pretraining.classification.labelling import names_of
from pretraining.preparation import fingerprint
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.scans.image_files import ENDINGS
from tests.faults.preparations import without_processes
from tests.pretraining.preparation.synthetic_scans import World, manifest, preprocessed, use_folders, write_scan
from tests.pretraining.scans.dicom_series import make_series, make_slice


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    use_folders(monkeypatch, tmp_path)
    without_processes(monkeypatch)
    return World(tmp_path, {})


def write_labels(path: Path, of: Path, scale: float = 1) -> None:
    """An ellipsoid's two halves; with ``scale`` 0 it is empty."""
    image = SimpleITK.ReadImage(str(of))
    z, y, x = np.mgrid[-12:12, -20:20, -20:20]
    labels = ((z / 8) ** 2 + (y / 9) ** 2 + (x / 9) ** 2 < 1) * (1 + (x > 0)) * scale
    labels = SimpleITK.GetImageFromArray(labels.astype(np.float32 if scale % 1 else np.uint8))
    labels.CopyInformation(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(labels, str(path))


def status(monkeypatch: pytest.MonkeyPatch, world: World, *more: str) -> int | str:
    """What the command's exit status is; a message stands for 1."""
    arguments = ["prepare", "-i", str(world.root / "scans"), "-d", "701", "-n", "CT", "-np", "1", *more]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        prepare()
    return stop.value.code


LAYOUTS = {  # scans with the labels that lie beside each of them, in the words of the data sets' authors
    "MSD": {f"imagesTr/liver_{i}.nii.gz": [f"labelsTr/liver_{i}.nii.gz"] for i in range(2)},
    "KiTS": {f"case_0000{i}/imaging.nii.gz": [f"case_0000{i}/segmentation.nii.gz",
             f"case_0000{i}/instances/tumor_instance-1_annotation-1.nii.gz"] for i in range(2)},
    "TotalSegmentator": {f"s000{i}/ct.nii.gz": [f"s000{i}/segmentations/{organ}.nii.gz" for organ in ("liver", "aorta")]
                         for i in range(2)},
    "LiTS": {f"volume-{i}.nii": [f"segmentation-{i}.nii"] for i in range(2)},
    "LUNA16": {f"subset{i}/1.3.6.1.4.1.{i}.mhd": [f"seg-lungs-LUNA16/1.3.6.1.4.1.{i}.mhd"] for i in range(2)},
    "Slicer": {f"p{i}/scan.nrrd": [f"p{i}/a.seg.nrrd", f"p{i}/scan-label.nrrd"] for i in range(2)},
}  # fmt: skip


def test_labels_beside_scans_are_left_out_and_no_failure(world, monkeypatch):
    expected = set()
    for layout, scans in LAYOUTS.items():
        for scan, labels in scans.items():
            image = write_scan(world.root / "scans" / layout / scan, len(expected))
            for name, scale in zip(labels, (1, 0 if "aorta" in labels[-1] else 0.5), strict=False):
                write_labels(world.root / "scans" / layout / name, image, scale)
                expected.add(f"{layout}/{name}")
        (world.root / "scans" / layout / "dataset.json").write_text('{"modality": {"0": "CT"}}')
    assert status(monkeypatch, world, "--no_pp") == 0
    rows = {row["source"]: row["reason"] for row in manifest(world.base)}
    assert rows.keys() == expected
    assert all(reason.startswith("label map") for reason in rows.values())
    assert world.json("dataset.json")["numTraining"] == 2 * len(LAYOUTS)


def test_msd_with_channels_in_one_file_equals_nnunets_own(world, monkeypatch):
    task, split = world.root / "scans" / "Task05_Prostate", world.root / "split"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (task / folder).mkdir(parents=True)
    for i, folder in enumerate(("imagesTr", "imagesTr", "imagesTs")):
        channels = [write_scan(world.root / f"{i}_{c}.nii.gz", 2 * i + c, modality="MR") for c in range(2)]
        joined = SimpleITK.JoinSeries([SimpleITK.ReadImage(str(f)) for f in channels])
        SimpleITK.WriteImage(joined, str(task / folder / f"prostate_{i:02}.nii.gz"))
        (task / folder / f"._prostate_{i:02}.nii.gz").write_bytes(b"\0\5\x16\7" * 50)
        if folder == "imagesTr":
            write_labels(task / "labelsTr" / f"prostate_{i:02}.nii.gz", channels[0])
    (task / "dataset.json").write_text('{"name": "PROSTATE", "modality": {"0": "T2", "1": "ADC"}, "labels": {}}')
    assert status(monkeypatch, world) == 0
    assert sorted(world.cases()) == [f"Task05_Prostate/{folder}/prostate_{i:02}.nii.gz"
                                     for i, folder in enumerate(("imagesTr", "imagesTr", "imagesTs"))]  # fmt: skip
    rows = {row["source"]: row["reason"][:9] for row in manifest(world.base) if row["status"] != "prepared"}
    assert rows == {f"Task05_Prostate/labelsTr/prostate_{i:02}.nii.gz": "label map" for i in range(2)}
    split.mkdir()
    for source, case in world.cases().items():
        split_4d_nifti(str(world.root / "scans" / source), str(split))
        files = sorted(split.glob(f"{Path(source).name[:-7]}_*"))
        expected = preprocessed(world, files[0], world.json("nnUNetPlans.json"), *files[1:])
        np.testing.assert_allclose(blosc2.open(str(world.data / f"{case}.b2nd"), mode="r")[:], expected, atol=2e-5)


def test_channels_that_are_asked_for(world, monkeypatch, capsys):
    both = [SimpleITK.ReadImage(str(write_scan(world.root / "a.nii.gz", seed, modality="MR"))) for seed in range(2)]
    (world.root / "scans").mkdir()
    SimpleITK.WriteImage(SimpleITK.JoinSeries(both), str(world.root / "scans" / "b.nii.gz"))
    for seed in range(2):
        write_scan(world.root / "scans" / f"c{seed}x.nii.gz", seed, modality="MR")
    assert status(monkeypatch, world, "--channels", "2") == 3
    assert list(world.cases()) == ["b.nii.gz"]
    assert world.json("dataset.json")["channel_names"] == {"0": "MR_0", "1": "MR_1"}
    assert "expected at least 1" in str(status(monkeypatch, world, "--channels", "0"))
    assert status(monkeypatch, world, "--channels", "two") == 2


def test_brats_channels_without_labels(world, monkeypatch):
    for i in range(2):
        for seed, name in enumerate(("flair", "t1ce")):
            image = write_scan(world.root / "scans" / f"B{i}" / f"B{i}_{name}.nii.gz", 2 * i + seed, modality="MR")
        write_labels(world.root / "scans" / f"B{i}" / f"B{i}_seg.nii.gz", image)
    assert status(monkeypatch, world) == 0
    assert sorted(world.cases()) == [f"B{i}/B{i}_{name}.nii.gz" for i in range(2) for name in ("flair", "t1ce")]


@pytest.mark.parametrize("ending", ENDINGS)
def test_label_file_may_leave_out_the_ending(ending):
    assert names_of("case", f"a/P1_0000{ending}") >= {"P1", f"P1_0000{ending}", "a/P1"}


def test_label_maps_on_request(world):
    image = write_scan(world.root / "scans" / "a.nii.gz", modality="MR")
    write_labels(world.root / "scans" / "labels.nii.gz", image)
    assert prepare_dataset(world.options(include_labels=True)) == []
    assert sorted(world.cases()) == ["a.nii.gz", "labels.nii.gz"]


@pytest.mark.parametrize("backwards", [False, True])
def test_ct_and_mr_are_counted_and_the_modality_is_asked_for(world, monkeypatch, backwards):
    for seed in range(3):
        write_scan(world.root / "scans" / f"ct_{seed}.nii.gz", seed)
        image = write_scan(world.root / "scans" / f"mr_{seed}.nii.gz", seed, modality="MR")
        write_labels(world.root / "scans" / f"seg_{seed}.nii.gz", image)
    write_scan(world.root / "scans" / "mr_3.nii.gz", 3, modality="MR")
    in_order = fingerprint.for_each_scan

    def as_they_finish(work: Any, scans: Sequence[Any], processes: int, title: str) -> Any:
        return in_order(work, scans[::-1] if backwards else scans, processes, title)

    monkeypatch.setattr(fingerprint, "for_each_scan", as_they_finish)
    message = str(status(monkeypatch, world))
    assert "3 CT and 4 MR scans" in message
    assert "--modality CT or --modality MR" in message
    assert "CT: ct_0.nii.gz, ct_1.nii.gz, ct_2.nii.gz\n  MR: mr_0.nii.gz, mr_1.nii.gz, mr_2.nii.gz, …" in message
    assert len(manifest(world.base)) == 10
    assert status(monkeypatch, world, "--modality", "MR") == 3
    assert sorted(world.cases()) == [f"mr_{i}.nii.gz" for i in range(4)]
    reasons = {row["reason"].partition(":")[0] for row in manifest(world.base) if row["status"] == "left out"}
    assert reasons == {"modality CT among MR scans", "label map"}


@pytest.mark.parametrize(("asked", "case"), [("PET", "pet"), ("CBCT", "a"), ("CT", "a")])
def test_modality_takes_any_name(world, monkeypatch, asked, case):
    make_series(world.root / "scans" / "pet", Modality="PT")
    write_scan(world.root / "scans" / "a.nii.gz")
    assert "1 CT and 1 PT scans" in str(status(monkeypatch, world))
    assert status(monkeypatch, world, "--modality", asked) == 3
    assert [source.removesuffix(".nii.gz") for source in world.cases()] == [case]
    schemes = world.json("nnUNetPlans.json")["configurations"]["3d_fullres"]["normalization_schemes"]
    assert schemes == ["CTNormalization" if asked == "CT" else "ZScoreNormalization"]
    assert status(monkeypatch, world) == 3  # the name is remembered
    assert status(monkeypatch, world, "--modality", "MR") not in (0, 3)


def test_scans_are_added_under_another_name_of_their_modality(world, monkeypatch):
    make_series(world.root / "scans" / "pet", Modality="PT")
    assert status(monkeypatch, world) == 0
    write_scan(world.root / "scans" / "a.nii.gz", modality="MR")
    assert status(monkeypatch, world, "--modality", "pet") == 0
    assert sorted(world.cases()) == ["a.nii.gz", "pet"]


def planned(world: World, names: dict[str, str], scheme: str, reader: str = "SimpleITKIO") -> None:
    """Make of data set 701, a CT's, one with other names and plans."""
    write_scan(world.root / "planned" / "a.nii.gz")
    prepare_dataset(world.options(inputs=(world.root / "planned",), no_pp=True))
    plans, dataset = world.json("nnUNetPlans.json"), world.json("dataset.json")
    plans["image_reader_writer"] = reader
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = [scheme]
    (world.base / "nnUNetPlans.json").write_text(json.dumps(plans))
    (world.base / "dataset.json").write_text(json.dumps({**dataset, "channel_names": names}))


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("CT", "ZScoreNormalization"), ("CTA", "ZScoreNormalization"), ("x", "CTNormalization")],
)
def test_like_takes_the_plans_normalisation_whatever_the_modality_is_called(world, name, scheme):
    planned(world, {"0": name}, scheme)
    scan = write_scan(world.root / "scans" / "b.nii.gz", 1)
    write_scan(world.root / "scans" / "mr.nii.gz", 2, modality="MR")
    (left_out,) = prepare_dataset(world.options(dataset_id=702, like="701"))
    assert left_out.source == "mr.nii.gz"
    assert "modality MR among" in left_out.reason
    (file,) = world.base.with_name("Dataset702_CT").glob("*/*[0-9a-f].b2nd")
    expected = preprocessed(world, scan, world.json("nnUNetPlans.json"))
    np.testing.assert_allclose(blosc2.open(str(file), mode="r")[:], expected, atol=1e-5)


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIOWithReorient", "NibabelIO"])
def test_like_reads_axes_as_the_plans_reader_does(world, reader):
    planned(world, {"0": "CT"}, "CTNormalization", reader)
    scan = write_scan(world.root / "scans" / "b.nii.gz", 1)
    image = SimpleITK.ReadImage(str(scan))
    image.SetSpacing((3, 3, 4))
    image.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
    image.SetOrigin((10, 20, 30))
    SimpleITK.WriteImage(image, str(scan))
    assert prepare_dataset(world.options(dataset_id=702, like="701")) == []
    (file,) = world.base.with_name("Dataset702_CT").glob("*/*[0-9a-f].b2nd")
    expected = preprocessed(world, scan, world.json("nnUNetPlans.json"))
    np.testing.assert_allclose(blosc2.open(str(file), mode="r")[:], expected, atol=1e-5)


def test_lidc_folders_with_radiographs_and_annotations(world, monkeypatch):
    for i in range(2):
        patient, of_all = world.root / "scans" / f"LIDC-000{i}", {"PatientID": str(i)}
        pixels = np.random.default_rng(i).integers(0, 40, 24) + 1020 * (np.arange(24) % 2)
        make_series(patient / "ct", SeriesInstanceUID=f"1.2.{i}", PixelData=pixels.astype(np.int16).tobytes(), **of_all)
        (patient / "ct" / "069.xml").write_text("<LidcReadMessage/>")
        make_slice(patient / "dx" / "1.dcm", 0, Modality="DX", SeriesInstanceUID=f"1.3.{i}", ImagePositionPatient=None,
                   ImageOrientationPatient=None, **of_all)  # fmt: skip
    found = status(monkeypatch, world, "--modality", "CT", "--no_pp")
    rows = {row["source"]: row["reason"] for row in manifest(world.base)}
    assert rows == dict.fromkeys([f"LIDC-000{i}/dx/1.dcm" for i in range(2)], "a radiograph (DX)")
    assert found == 0


def test_channels_of_ct_and_pet_are_named_by_somebody(world, monkeypatch):
    write_scan(world.root / "scans" / "p_0000.nii.gz")
    write_scan(world.root / "scans" / "p_0001.nii.gz", 1, modality="MR")
    assert "its channels are CT and others" in str(status(monkeypatch, world))
    assert status(monkeypatch, world, "--modality", "PETCT") == 0
    assert world.json("dataset.json")["channel_names"] == {"0": "PETCT_0", "1": "PETCT_1"}


def test_no_scan_but_labels(world):
    image = write_scan(world.root / "a.nii.gz")
    write_labels(world.root / "scans" / "a.nii.gz", image)
    with pytest.raises(GenesisError, match="no usable scan"):
        prepare_dataset(world.options())
