"""Preparation of small synthetic scans: nnU-Net's own format and values, kept plans, what is left out and why."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK
from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle
from nnunetv2.paths import nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_genesis.errors import GenesisError
from pretraining.__main__ import prepare
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.scans.body import body_mask
from tests.faults.preparations import without_processes
from tests.pretraining.preparation.synthetic_scans import (
    World,
    manifest,
    preprocessed,
    truncate,
    use_folders,
    write_scan,
)
from tests.pretraining.scans.dicom_series import make_series

NAMES = ["a/ct_0.nii.gz", "a/ct_1.nii.gz", "b/ct_2.nii.gz", "b/ct_3.nii.gz", "b/ct_4.nii.gz", "ct_5.nii.gz"]


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> World:
    """Prepared once: 6 CTs, one of another spacing; a truncated CT and an MR are left out. Don't change it."""
    root = tmp_path_factory.mktemp("first")
    for seed, name in enumerate(NAMES):
        write_scan(root / "scans" / name, seed, 2.4 if seed == 5 else 3.0)
    truncate(write_scan(root / "scans" / "broken.nii.gz", 7))
    write_scan(root / "scans" / "mr.nii.gz", 8, modality="MR")
    with pytest.MonkeyPatch.context() as patch:
        use_folders(patch, root)
        left_out = prepare_dataset(World(root, {}, "CT").options())
        assert "nnUNet_raw" not in os.environ
    return World(root, {item.source: item.reason for item in left_out}, "CT")


@pytest.fixture
def world(first, tmp_path, monkeypatch) -> World:
    """A copy of ``first`` to work on."""
    for name in ("scans", "preprocessed"):
        shutil.copytree(first.root / name, tmp_path / name)
    use_folders(monkeypatch, tmp_path)
    return World(tmp_path, first.left_out, "CT")


def test_nnunet_loads_every_case(first):
    dataset = nnUNetDatasetBlosc2(str(first.data))
    assert dataset.identifiers == sorted(first.cases().values())
    assert len(dataset.identifiers) == 6
    for case in dataset.identifiers:
        data, seg, previous, properties = dataset.load_case(case)
        assert (data.dtype, seg.dtype, previous) == (np.float32, np.int16, None)
        assert data.shape[1:] == seg.shape[1:]
        assert {"spacing", "sitk_stuff", "shape_before_cropping", "class_locations"} <= properties.keys()


@pytest.mark.parametrize("source", NAMES)
def test_voxels_are_what_nnunets_preprocessor_makes(first, source):
    found = nnUNetDatasetBlosc2(str(first.data)).load_case(first.cases()[source])[0][:]
    expected = preprocessed(first, first.root / "scans" / source, first.json("nnUNetPlans.json"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found.shape == (1, 24, 40, 40)) is (source != "ct_5.nii.gz")  # the one of another spacing


@pytest.mark.parametrize("source", NAMES)
def test_segmentation_is_the_body_and_locations_lie_in_it(first, source):
    _, seg, _, properties = nnUNetDatasetBlosc2(str(first.data)).load_case(first.cases()[source])
    seg, locations = seg[:], properties["class_locations"][1]
    assert seg[tuple(locations.T)].all()
    assert 0 < len(locations) <= 10_000
    assert 0.15 < seg.mean() < 0.35
    if source != "ct_5.nii.gz":
        image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(first.root / "scans" / source)))
        np.testing.assert_array_equal(seg[0], body_mask(image[None], (3, 3, 3), "CT"))


def test_the_files_of_a_data_set_are_there(first):
    assert {path.name for path in first.base.iterdir()} == {
        "dataset.json", "dataset_fingerprint.json", "genesis.lock", "genesis_index.jsonl",
        "genesis_manifest.csv", "genesis_manifest.html", "nnUNetPlans.json", "nnUNetPlans_3d_fullres",
        "splits_final.json",
    }  # fmt: skip
    dataset, plans = first.json("dataset.json"), first.json("nnUNetPlans.json")
    assert (dataset["channel_names"], dataset["labels"]) == ({"0": "CT"}, {"background": 0, "body": 1})
    assert (dataset["numTraining"], plans["dataset_name"]) == (6, "Dataset701_CT")
    assert plans["configurations"]["3d_fullres"]["normalization_schemes"] == ["CTNormalization"]
    assert len(first.json("dataset_fingerprint.json")["spacings"]) == 6


def test_manifest_has_a_row_for_every_scan(first):
    rows = {row["source"]: row for row in manifest(first.base)}
    assert list(rows) == sorted([*NAMES, "broken.nii.gz", "mr.nii.gz"])
    for source in NAMES:
        row = rows[source]
        spacing = "2.4x2.4x2.4" if source == "ct_5.nii.gz" else "3x3x3"
        assert (row["status"], row["modality"], row["shape"], row["spacing"]) == (
            "prepared", "CT", "24x40x40", spacing)  # fmt: skip
        assert row["case"].startswith(Path(source).name.removesuffix(".nii.gz"))
    for source, reason in first.left_out.items():
        assert (rows[source]["status"], rows[source]["reason"], rows[source]["case"]) == ("left out", reason, "")


def test_left_out_scans_are_returned_with_their_reason(first):
    assert first.left_out.keys() == {"broken.nii.gz", "mr.nii.gz"}
    assert "damaged or truncated" in first.left_out["broken.nii.gz"]
    assert "modality MR among CT scans" in first.left_out["mr.nii.gz"]


def test_one_of_six_is_held_out(first):
    (fold,) = first.json("splits_final.json")
    assert (len(fold["train"]), len(fold["val"])) == (5, 1)
    assert sorted(fold["train"] + fold["val"]) == sorted(first.cases().values())


def test_nothing_tells_where_the_scans_lay(first):
    files = [*first.base.glob("*.json"), *first.base.glob("*.csv"), *first.data.glob("*.pkl")]
    assert len(files) == 11
    assert not [file for file in files if str(first.root).encode() in file.read_bytes()]


def test_interrupted_case_is_redone_and_nothing_else(world, monkeypatch):
    rows, split = manifest(world.base), world.json("splits_final.json")
    case, before = world.cases()["b/ct_3.nii.gz"], world.times()
    (world.data / f"{case}.pkl").unlink()
    scans = str(world.root / "scans")
    monkeypatch.setattr(sys, "argv", ["prepare", "-i", scans, "-d", "701", "-n", "CT", "-np", "2"])
    with pytest.raises(SystemExit) as stop:
        prepare()
    assert stop.value.code == 3  # some are left out, as before
    after = world.times()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"nnUNetPlans_3d_fullres/{case}{end}" for end in (".b2nd", "_seg.b2nd", ".pkl")}
    assert before.keys() == after.keys()
    assert (manifest(world.base), world.json("splits_final.json")) == (rows, split)


def test_added_or_repaired_scan_is_prepared_with_the_same_plans_and_trained_on(world):
    before, held_out = world.times(), world.json("splits_final.json")[0]["val"]
    (world.root / "scans" / "mr.nii.gz").unlink()
    for seed, name in ((9, "new.nii.gz"), (10, "broken.nii.gz")):
        write_scan(world.root / "scans" / name, seed, 2.0)
    assert prepare_dataset(world.options(processes=1)) == []
    after, cases = world.times(), [world.cases()[name] for name in ("new.nii.gz", "broken.nii.gz")]
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {
        f"nnUNetPlans_3d_fullres/{case}{end}" for case in cases for end in (".b2nd", "_seg.b2nd", ".pkl")
    }
    found = nnUNetDatasetBlosc2(str(world.data)).load_case(cases[0])[0][:]
    expected = preprocessed(world, world.root / "scans" / "new.nii.gz", world.json("nnUNetPlans.json"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    (fold,) = world.json("splits_final.json")
    assert fold["val"] == held_out
    assert {*cases} < {*fold["train"]}
    assert [row["status"] for row in manifest(world.base) if row["source"] == "broken.nii.gz"] == ["prepared"]


def test_number_of_cases_follows_what_was_added(world):
    write_scan(world.root / "new" / "new.nii.gz", 9)
    prepare_dataset(world.options(inputs=(world.root / "new",)))
    assert world.json("dataset.json")["numTraining"] == len(world.cases()) == 7


@pytest.fixture
def quick(tmp_path, monkeypatch) -> World:
    """Two scans of one site, prepared; in this process."""
    use_folders(monkeypatch, tmp_path)
    without_processes(monkeypatch)
    world = World(tmp_path, {}, "CT")
    for seed, name in enumerate(("scans/p0.nii.gz", "scans/p1.nii.gz")):
        write_scan(tmp_path / "A" / name, seed)
    assert prepare_dataset(world.options(inputs=(tmp_path / "A" / "scans",))) == []
    return world


def test_scans_of_the_same_name_from_elsewhere_are_others(quick):
    write_scan(quick.root / "B" / "scans" / "p0.nii.gz", 5)
    roots = [quick.root / site / "scans" for site in "BA"]
    for inputs in (roots[:1], roots, roots[::-1]):
        before = quick.times()
        assert prepare_dataset(quick.options(inputs=inputs)) == []
    rows = manifest(quick.base)
    assert [row["source"] for row in rows] == ["A/scans/p0.nii.gz", "A/scans/p1.nii.gz", "B/scans/p0.nii.gz"]
    assert len({row["case"] for row in rows}) == 3
    assert quick.times() == before


def test_scans_that_were_moved_or_are_below_another_folder_are_the_same(quick):
    before, cases = quick.times(), sorted(quick.cases().values())
    assert prepare_dataset(quick.options(inputs=(quick.root / "A",))) == []
    assert quick.cases() == {f"scans/p{i}.nii.gz": case for i, case in enumerate(cases)}
    (quick.root / "A").rename(quick.root / "moved")
    for file in (quick.root / "moved" / "scans").iterdir():
        os.utime(file, (1, 1))
    assert prepare_dataset(quick.options(inputs=(quick.root / "moved" / "scans",))) == []
    assert sorted(quick.cases().values()) == cases
    assert quick.times() == before


def test_changed_scan_is_prepared_again(quick, capsys):
    before, scan = quick.times(), quick.root / "A" / "scans" / "p0.nii.gz"
    write_scan(scan, 9)
    options = quick.options(inputs=(scan.parent,))
    for changed in (True, False):
        assert prepare_dataset(options) == []
        assert ("1 scans have changed" in capsys.readouterr().out) == changed
    after, case = quick.times(), quick.cases()["p0.nii.gz"]
    assert {name for name in after if after[name] != before[name]} == {
        f"nnUNetPlans_3d_fullres/{case}{end}" for end in (".b2nd", "_seg.b2nd", ".pkl")
    }
    found = nnUNetDatasetBlosc2(str(quick.data)).load_case(case)[0][:]
    np.testing.assert_allclose(found, preprocessed(quick, scan, quick.json("nnUNetPlans.json")), atol=1e-6)
    truncate(scan)
    assert [out.source for out in prepare_dataset(options)] == ["p0.nii.gz"]
    assert quick.times() == after  # what was made of it while it was whole is kept


def test_voxels_beside_a_header_tell_a_scan_too(quick, capsys):
    for seed, site in enumerate("AB"):
        write_scan(quick.root / site / "data" / "p.mhd", seed)
        assert prepare_dataset(quick.options(inputs=(quick.root / site / "data",))) == []
    assert len({row["case"] for row in manifest(quick.base)}) == 4
    write_scan(quick.root / "B" / "data" / "p.mhd", 9)
    assert prepare_dataset(quick.options(inputs=(quick.root / "B" / "data",))) == []
    assert "1 scans have changed" in capsys.readouterr().out
    (quick.root / "B" / "data" / "p.raw").unlink()
    (left_out,) = prepare_dataset(quick.options(inputs=(quick.root / "B" / "data",)))
    assert "No such file" in left_out.reason


def test_changed_scan_is_prepared_again_for_every_configuration(quick, capsys):
    plans, scan = quick.json("nnUNetPlans.json"), quick.root / "A" / "scans" / "p0.nii.gz"
    low = {"inherits_from": "3d_fullres", "data_identifier": "low", "spacing": [4.0, 4.0, 4.0]}
    plans["configurations"]["3d_lowres"] = low
    (quick.base / "nnUNetPlans.json").write_text(json.dumps(plans))
    both = quick.options(inputs=(scan.parent,), configurations=("3d_lowres", "3d_fullres"))
    assert prepare_dataset(both) == []
    file = quick.base / "low" / f"{quick.cases()['p0.nii.gz']}.b2nd"
    before = file.read_bytes()
    write_scan(scan, 9)
    capsys.readouterr()
    assert prepare_dataset(quick.options(inputs=(scan.parent,))) == []
    assert file.read_bytes() == before
    assert "WARNING: 3d_lowres lacks 1 of 2 cases: -c didn't name it in every run." in capsys.readouterr().out
    assert prepare_dataset(both) == []
    assert file.read_bytes() != before
    assert "WARNING" not in capsys.readouterr().out


def test_series_that_has_grown_is_prepared_again(quick):
    pixels = np.random.default_rng(0).integers(0, 40, 24) + 1020 * (np.arange(24) % 2)
    for count in (12, 24):
        make_series(quick.root / "series", count, PixelSpacing=[9, 9], PixelData=pixels.astype(np.int16).tobytes())
        assert prepare_dataset(quick.options(inputs=(quick.root / "series",))) == []
        properties = nnUNetDatasetBlosc2(str(quick.data)).load_case(quick.cases()["series"])[3]
        assert properties["shape_before_cropping"] == (count, 4, 6)


def test_case_of_an_earlier_version_is_finished_whatever_its_file_is(quick):
    for file in quick.data.glob("*.pkl"):
        properties = load_pickle(str(file))
        del properties["genesis_files"]
        write_pickle(properties, str(file))
    before = quick.times()
    write_scan(quick.root / "A" / "scans" / "p0.nii.gz", 9)
    assert prepare_dataset(quick.options(inputs=(quick.root / "A" / "scans",))) == []
    assert quick.times() == before


def test_residual_encoder_planner(world):
    before = world.times()
    for name in ("broken.nii.gz", "mr.nii.gz"):
        (world.root / "scans" / name).unlink()
    assert prepare_dataset(world.options(planner="nnUNetPlannerResEncM")) == []
    plans = world.json("nnUNetResEncUNetMPlans.json")
    architecture = plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"]
    assert architecture.endswith("ResidualEncoderUNet")
    assert (world.base / plans["configurations"]["3d_fullres"]["data_identifier"]).is_dir()
    assert {name: time for name, time in world.times().items() if name in before} == before


def test_like_takes_the_other_plans_and_leaves_raw_alone(world, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(world.root / "raw"))
    (world.root / "raw").mkdir()
    scan = write_scan(world.root / "other" / "x.nii.gz", 11)
    options = world.options(inputs=(scan.parent,), dataset_id=702, like="701")
    assert prepare_dataset(options) == []
    base = world.base.with_name("Dataset702_CT")
    copied, plans = json.loads((base / "nnUNetPlans.json").read_text()), world.json("nnUNetPlans.json")
    assert copied == {**plans, "dataset_name": "Dataset702_CT"}
    (case,) = nnUNetDatasetBlosc2.get_identifiers(str(base / "nnUNetPlans_3d_fullres"))
    data = nnUNetDatasetBlosc2(str(base / "nnUNetPlans_3d_fullres")).load_case(case)[0][:]
    np.testing.assert_allclose(data, preprocessed(world, scan, plans), atol=1e-6)
    assert os.environ[nnUNet_raw.env_var_name] == str(world.root / "raw")
    assert list((world.root / "raw").iterdir()) == []


def test_like_refuses_another_number_of_channels(world):
    for channel in range(2):
        write_scan(world.root / "other" / f"x_000{channel}.nii.gz", 11)
    with pytest.raises(GenesisError, match=r"no usable scan.*\n.*2 channel\(s\), expected 1"):
        prepare_dataset(world.options(inputs=(world.root / "other",), dataset_id=702, like="701", channels=True))


def test_like_with_an_unknown_configuration_is_named_and_nothing_is_written(world):
    with pytest.raises(GenesisError, match=r"nnUNetPlans.json: no configuration '3d_ful'; found 2d, 3d_fullres"):
        prepare_dataset(world.options(dataset_id=702, like="701", configurations=("3d_ful",)))
    assert not list((world.root / "preprocessed").glob("Dataset702_*/nnUNetPlans.json"))


def test_like_takes_id_and_name_for_the_same(world):
    prepare_dataset(world.options(dataset_id=702, like="701"))
    prepare_dataset(world.options(dataset_id=702, like=next((world.root / "preprocessed").glob("Dataset701_*")).name))


def test_two_parts_at_the_same_time_and_a_call_that_merges_give_the_same_data_set(first, tmp_path, monkeypatch):
    (tmp_path / "scans").symlink_to(first.root / "scans")  # copies would have an index of their own
    use_folders(monkeypatch, tmp_path)
    world = World(tmp_path, {}, "CT")
    parts = [world.options(num_parts=2, part_id=part, processes=1) for part in (0, 1)]
    with ThreadPoolExecutor(2) as calls:
        list(calls.map(prepare_dataset, parts))
        assert {path.name for path in world.base.iterdir()} == {
            "genesis.lock", "genesis_cache", "genesis_index.jsonl",
        }  # analysed  # fmt: skip
        prepare_dataset(world.options(no_pp=True))
        assert not world.data.exists()
        list(calls.map(prepare_dataset, parts))
        before = world.times()
        assert len(list(world.data.glob("*.pkl"))) == 6  # preprocessed
    assert {out.source: out.reason for out in prepare_dataset(world.options())} == first.left_out
    assert {name: world.times()[name] for name in before} == before
    _assert_same_files(world.base, first.base)


def test_parts_like_another_data_set_preprocess_at_once_and_share_measured_ranges(tmp_path, monkeypatch):
    for seed in range(2):
        write_scan(tmp_path / "scans" / f"{seed}.nii.gz", seed, modality="MR")
    use_folders(monkeypatch, tmp_path)
    world = World(tmp_path, {})
    prepare_dataset(world.options())
    for changes in ({"num_parts": 2, "part_id": 0}, {"num_parts": 2, "part_id": 1}, {}):
        prepare_dataset(world.options(dataset_id=702, like="701", **changes))
    _assert_same_files(world.base.with_name("Dataset702_CT"), world.base, but=("dataset.json", "nnUNetPlans.json"))


def _assert_same_files(one: Path, other: Path, but: Sequence[str] = ()) -> None:
    def contents(base: Path) -> dict[str, bytes]:
        return {str(path.relative_to(base)): _content(path) for path in base.rglob("*") if path.is_file()}

    found, expected = contents(one), contents(other)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} <= {*but}


def _content(path: Path) -> bytes:
    # blosc2's threads write the blocks of an array in any order.
    return blosc2.open(str(path), mode="r")[:].tobytes() if path.suffix == ".b2nd" else path.read_bytes()


def test_like_a_data_set_that_names_its_channels_modality(world):
    dataset = world.json("dataset.json")
    dataset["modality"] = dataset.pop("channel_names")  # as nnU-Net did at first, and still accepts
    (world.base / "dataset.json").write_text(json.dumps(dataset))
    write_scan(world.root / "other" / "x.nii.gz", 11)
    options = world.options(inputs=(world.root / "other",), dataset_id=702, like="701")
    assert prepare_dataset(options) == []
    made = json.loads((world.base.with_name("Dataset702_CT") / "dataset.json").read_text())
    assert made["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("nnUNetPlans.json", {}),
        ("dataset.json", {}),
        ("dataset_fingerprint.json", {}),
        *(
            (name, {"dataset_id": 702, "like": "701"})
            for name in ("nnUNetPlans.json", "dataset.json", "dataset_fingerprint.json")
        ),
    ],
)
def test_cut_file_is_named_and_nothing_is_written(world, name, changes):
    truncate(world.base / name)
    with pytest.raises(GenesisError, match=f"{name}: expected JSON, found"):
        prepare_dataset(world.options(**changes))
    assert not list((world.root / "preprocessed").glob("Dataset702_*/*.json"))


@pytest.mark.parametrize("processes", ["0", "-1"])
def test_number_of_processes_below_1_is_refused(world, monkeypatch, processes):
    scans = str(world.root / "scans")
    monkeypatch.setattr(sys, "argv", ["prepare", "-i", scans, "-d", "701", "-n", "CT", "-np", processes])
    with pytest.raises(SystemExit, match=f"-np {processes}: expected at least 1"):
        prepare()


def test_plans_without_configurations_are_named(world):
    (world.base / "nnUNetPlans.json").write_text("{}")
    for changes in ({}, {"dataset_id": 702, "like": "701"}):
        with pytest.raises(GenesisError, match=r"nnUNetPlans\.json: expected nnU-Net's plans"):
            prepare_dataset(world.options(**changes))
