"""Finding scans: what counts as one, how it is named, what is left out and why, and reading for nnU-Net."""

import functools
import gzip
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nnunetv2.dataset_conversion.convert_MSD_dataset import split_4d_nifti
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_genesis.errors import GenesisError
from pretraining.scans.find import find_scans
from pretraining.scans.patients import patients_of
from pretraining.scans.reading import ScanReader, read_scan
from pretraining.scans.scan import ScanError, digest, sample
from tests.pretraining.scans.dicom_series import SERIES, make_series, make_slice


def make_image(path: Path, shape: tuple[int, int, int] = (5, 6, 7), spacing: float = 1.0, seed: int = 0) -> Path:
    """Write a small volume of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.random.default_rng(seed).integers(0, 99, shape).astype(np.int16))
    image.SetSpacing((spacing,) * 3)
    SimpleITK.WriteImage(image, str(path))
    return path


def reasons(folder: Path) -> dict[str, str]:
    """What is left out below a folder, by source."""
    return {out.source: out.reason for out in find_scans([folder])[1]}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"])
def test_every_format_is_found_and_read(tmp_path, ending):
    make_image(tmp_path / f"a{ending}")
    (scan,), left_out = find_scans([tmp_path])
    assert left_out == []
    assert (scan.shape, scan.spacing, scan.modality, scan.group) == ((5, 6, 7), (1, 1, 1), None, scan.case)
    assert read_scan(scan)[0].shape == (1, 5, 6, 7)


@pytest.mark.parametrize(
    "name", ["A.NII.GZ", "ein Bild.nii.gz", "图像.nii.gz", "x" * 90 + ".nii.gz", "a.b+c(1).nii.gz"]
)
def test_case_names_are_plain_and_short(tmp_path, name):
    make_image(tmp_path / "a.nii.gz").rename(tmp_path / name)
    (scan,), _ = find_scans([tmp_path])
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}_[0-9a-f]{8}", scan.case)
    assert scan.source == name
    assert read_scan(scan)[0].shape == (1, 5, 6, 7)


def test_same_names_in_different_folders_are_different_cases(tmp_path):
    for seed, folder in enumerate(("p1", "p2")):
        make_image(tmp_path / folder / "image.nii.gz", seed=seed)
    scans, _ = find_scans([tmp_path])
    assert [s.source for s in scans] == ["p1/image.nii.gz", "p2/image.nii.gz"]
    assert len({s.case for s in scans}) == 2


def test_case_name_does_not_depend_on_where_the_root_lies(tmp_path):
    make_image(tmp_path / "here" / "data" / "a.nii.gz")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    first, second = (find_scans([tmp_path / place / "data"])[0][0] for place in ("here", "there"))
    assert first.case == second.case


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mhd", "a.nhdr", "a.hdr"])
@pytest.mark.parametrize("seed", [0, 1])
def test_second_scan_of_the_same_name_is_another_unless_it_is_a_copy(tmp_path, seed, name):
    for place in ("here", "there"):
        make_image(tmp_path / place / "data" / name, seed=seed if place == "there" else 0)
    scans, left_out = find_scans([tmp_path / "here" / "data", tmp_path / "there" / "data"])
    assert len({scan.case for scan in scans}) == 1 + seed
    copies = [(out.source, out.reason, out.expected) for out in left_out]
    assert copies == [(f"there/data/{name}", f"same content as here/data/{name}", True)] * (1 - seed)


def test_sources_tell_roots_apart_and_cases_keep_their_names(tmp_path):
    for seed, site in enumerate("AB"):
        make_image(tmp_path / site / "data" / "ct.nii.gz", seed=seed)
        (tmp_path / site / "data" / "zero.nii.gz").touch()
        (tmp_path / site / "data" / ".git").mkdir()
        make_series(tmp_path / site / "data" / "blank", SeriesInstanceUID="", PixelData=bytes(range(seed, seed + 48)))
    sites = [tmp_path / site / "data" for site in "BA"]
    scans, left_out = find_scans(sites)
    assert [scan.source for scan in scans if scan.kind == "image"] == ["A/data/ct.nii.gz", "B/data/ct.nii.gz"]
    zero = [out.source for out in left_out if "empty" in out.reason]
    assert zero == ["A/data/zero.nii.gz", "B/data/zero.nii.gz"]
    first, second = (scan.case for scan in reversed(scans) if scan.kind == "image")
    assert first == find_scans(sites[:1])[0][-1].case == f"ct_{digest('data/ct.nii.gz', 8)}" != second
    (blank,) = [scan for scan in find_scans(sites[:1])[0] if scan.kind == "dicom"]
    assert blank.case == f"dicom_{digest('data/blank')[:12]}"


def test_copies_under_other_names_count_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("pretraining.scans.find.sample", lambda *a, **k: read.append(a[0].source) or sample(*a, **k))
    make_image(tmp_path / "a" / "x.nii.gz")
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "x.nii.gz", tmp_path / "b" / "y.nii.gz")
    make_image(tmp_path / "c.nii.gz", spacing=2.0)
    scans, left_out = find_scans([tmp_path])
    assert [scan.source for scan in scans] == ["a/x.nii.gz", "c.nii.gz"]
    assert [(out.source, out.reason, out.expected) for out in left_out] == [
        ("b/y.nii.gz", "same content as a/x.nii.gz", True)
    ]
    assert set(read) == {"a/x.nii.gz", "b/y.nii.gz"}


def test_scans_with_the_same_margins_are_no_copies(tmp_path):
    voxels = np.zeros((2, 40, 80, 80), np.float32)
    voxels[:, 10:15] = np.random.default_rng(0).normal(size=(2, 5, 80, 80))
    for name, image in zip("ab", voxels, strict=True):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), str(tmp_path / f"{name}.nii"))
    scans, left_out = find_scans([tmp_path])
    assert sample(scans[0]) == sample(scans[1])
    assert left_out == []


def test_order_does_not_depend_on_the_order_of_creation(tmp_path):
    for folder, names in (("one", "abc"), ("two", "cba")):
        for name in names:
            make_image(tmp_path / folder / "r" / f"{name}.nii.gz", seed=ord(name))
    one, two = ([s.case for s in find_scans([tmp_path / folder / "r"])[0]] for folder in ("one", "two"))
    assert one == two


def test_scan_survives_pickling(tmp_path):
    make_image(tmp_path / "a.nii.gz")
    scans, _ = find_scans([tmp_path])
    assert pickle.loads(pickle.dumps(scans)) == scans  # noqa: S301 - our own bytes


def test_channels_of_one_case_in_order(tmp_path, capsys):
    for i in (1, 0, 2):
        for name in ("p", "q"):
            make_image(tmp_path / f"{name}_{i:04d}.nii.gz", seed=i + ord(name))
    (scan, _), left_out = find_scans([tmp_path])
    assert left_out == []
    assert "6 files are channels of 2 cases" in capsys.readouterr().out
    assert scan.case.startswith("p_")
    assert [Path(f).name for (f,) in scan.channels] == ["p_0000.nii.gz", "p_0001.nii.gz", "p_0002.nii.gz"]
    expected, properties = SimpleITKIO().read_images([f for (f,) in scan.channels])
    image, ours = read_scan(scan)
    assert np.array_equal(image, expected)
    assert ours == properties


PATIENTS = [f"p_{i:04d}" for i in range(3)]


@pytest.mark.parametrize(
    ("names", "dataset", "asked", "channels"),
    [
        (PATIENTS, None, None, [1, 1, 1]),
        (PATIENTS, None, True, [3]),
        (PATIENTS, None, 3, [3]),
        (PATIENTS, 3, None, [3]),
        (PATIENTS, 3, False, [1, 1, 1]),
        (PATIENTS[:2], None, None, [2]),
        (PATIENTS[:2], 1, None, [1, 1]),
        (PATIENTS[:2], None, 1, [1, 1]),
        ([*PATIENTS, "q_0000", "q_0001", "q_0002"], None, None, [3, 3]),
        ([*PATIENTS, "r/q_0000", "r/q_0001", "r/q_0002"], None, None, [3, 3]),
        ([*PATIENTS, "r/p_0000", "r/p_0001", "r/p_0002"], None, None, [1] * 6),
        ([f"{site}_{i:04d}" for site in "ab" for i in range(12)], None, None, [1] * 24),
        (["p_0000", "p_0002", "p_0007"], None, None, [1, 1, 1]),
    ],
)
def test_numbers_are_channels_where_the_folder_says_so(tmp_path, capsys, names, dataset, asked, channels):
    for seed, name in enumerate(names):
        make_image(tmp_path / "imagesTr" / f"{name}.nii.gz", seed=seed)
    if dataset:
        content = {"channel_names": {str(i): "CT" for i in range(dataset)}}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
    scans, left_out = find_scans([tmp_path / "imagesTr"], asked)
    assert ([len(scan.channels) for scan in scans], left_out) == (channels, [])
    out = capsys.readouterr().out
    assert (f"{len(names)} files are channels of {len(scans)} cases" in out) == (channels[0] > 1)
    assert ("scans of their own" in out) == (channels[0] == 1)


def write_4d(path: Path, count: int) -> np.ndarray:
    """Write a 4D NIfTI file, and each of its volumes as nnU-Net's converter of MSD's data sets does."""
    voxels = np.random.default_rng(0).integers(0, 99, (count, 5, 6, 7)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array([[0, -2.0, 0, 10], [1.5, 0, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(voxels.T, affine), path)
    (path.parent / "split").mkdir()
    split_4d_nifti(str(path), str(path.parent / "split"))
    return voxels


@pytest.mark.parametrize("key", ["modality", "channel_names"])
@pytest.mark.parametrize("place", ["imagesTr", "imagesTs"])
def test_4d_file_is_a_case_of_channels_where_dataset_json_says_so(tmp_path, key, place):
    write_4d(tmp_path / "Task01_BrainTumour" / place / "BRATS_001.nii.gz", 4)
    split = (tmp_path / "Task01_BrainTumour" / place / "split").rename(tmp_path / "split")
    (tmp_path / "Task01_BrainTumour" / place / "._BRATS_001.nii.gz").write_bytes(b"\0\5\x16\7" * 99)
    (tmp_path / "Task01_BrainTumour" / "dataset.json").write_text(json.dumps({key: {str(i): "MR" for i in range(4)}}))
    (scan,), left_out = find_scans([tmp_path / "Task01_BrainTumour"])
    assert left_out == []
    assert len(scan.channels) == 4
    expected, properties = SimpleITKIO().read_images(sorted(map(str, split.iterdir())))
    image, ours = read_scan(scan)
    assert np.array_equal(image, expected)
    assert ours == properties
    assert scan.shape == image.shape[1:]


@pytest.mark.parametrize(
    ("dataset", "asked", "taken"),
    [(None, None, False), (None, 3, True), (None, True, False), (1, None, False), (4, None, False), (4, 3, True)],
)
def test_4d_file_that_nothing_says_is_of_channels(tmp_path, dataset, asked, taken):
    write_4d(tmp_path / "scans" / "bold.nii.gz", 3)
    shutil.rmtree(tmp_path / "scans" / "split")
    if dataset:
        content = {"channel_names": {str(i): "CT" for i in range(dataset)}}
        (tmp_path / "scans" / "dataset.json").write_text(json.dumps(content))
    scans, left_out = find_scans([tmp_path / "scans"], asked)
    assert [len(scan.channels) for scan in scans] == ([3] if taken else [])
    assert taken or "4D: 3 volumes in one file" in left_out[0].reason
    assert taken or "--channels 3" in left_out[0].reason


P1, P2, P3 = ("BraTS-000-1", "BraTS-001-1", "BraTS-002-1")


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        ([f"{p}/{p}-{role}" for p in (P1, P2) for role in ("t1", "flair", "seg")], 2),
        (["p1/flair", "p1/t1ce", "p2/flair"], 2),
        (["sub-1/ses-1/anat/T1w", "sub-1/ses-2/anat/T1w", "sub-2/ses-1/anat/T1w"], 2),
        (["data/p1/flair", "data/p1/t1", "data/p2/t1", "data/p2/flair", "more/a", "more/b"], 4),
        (["CT/p1", "CT/p2", "CT/p3", "PET/p1", "PET/p2", "PET/p3"], 3),
        (["P1_T1", "P1_T2", "P2_T1", "P3_T1"], 3),
        (["patient1_frame01_0000", "patient1_frame12_0000", "patient2_frame01_0000", "patient2_frame13_0000"], 2),
        (["imagesTr/a_1", "imagesTr/a_2", "imagesTs/a_3", "imagesTs/a_4", "labelsTr/a_1", "labelsTr/a_2"], 4),
        (["subset0/1.3.6.1", "subset0/1.3.6.2", "subset1/1.3.6.3", "subset1/1.3.6.4"], 4),
        (["liver_1", "liver_2", "lung_1", "lung_2"], 4),
        (["site1_001", "site1_002", "site1_003", "site2_001", "site2_002", "site2_003"], 6),
        ([f"a/scan{i}" for i in range(4)] + [f"b/scan{i}" for i in range(4)], 4),
        ([f"{p}/{i}" for p in "abc" for i in range(30)], 30),
    ],
)
def test_scans_of_one_patient_are_one_group(tmp_path, names, groups):
    for seed, name in enumerate(names):
        make_image(tmp_path / f"{name}.nii.gz", seed=seed)
    scans, _ = find_scans([tmp_path])
    assert len(scans) == len(names)
    labels = [name for name in names if "labels" in name or "seg" in name]
    assert len({scan.group for scan in scans}) == groups + len(labels)


ROLES = ("T1w", "T2w", "FLAIR", "PD")
NESTED = [f"sub-{i:02d}/ses-{j}/anat/sub-{i:02d}_ses-{j}_{m}" for i in range(10) for j in range(3) for m in ROLES]
BOLD = [f"sub-00/func/sub-00_run-{k}_bold" for k in range(21)]


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (NESTED, 10),
        ([*NESTED, *BOLD, *(name.replace("sub-0", "sub-1") for name in NESTED)], 20),
        ([*NESTED, *(f"derivatives/x/{name}_desc-brain" for name in NESTED), "tpl-MNI_T1w", "other"], 10),
        ([*(f"bids/{name}" for name in NESTED), *(f"liver/liver_{i}" for i in range(200))], 10),
        ([f"sub-{i:02d}_ses-{j}_T1w" for i in range(30) for j in (1, 2)], 30),
        (["sub-01_T1w", *(f"liver_{i}" for i in range(20))], 0),
        (["P1/sub-01_t1", "P1/flair", "P2/flair", "P2/t1"], 2),
    ],
)
def test_bids_names_patients(names, patients):
    found = patients_of(names)
    assert len(set(found.values())) == patients


@pytest.mark.parametrize(
    ("pattern", "names", "groups"),
    [
        ("P*", [f"P{i}/{role}" for i in range(3) for role in ("T1", "T2")], 3),
        ("P*.nii.gz", [f"P{i}_{role}" for i in range(3) for role in ("T1", "T2")], 3),
        ("*", [f"{time}/P{i}" for i in range(3) for time in ("baseline", "followup")], 3),
        ("*/scans", [f"{site}/scans/P{i}/{role}" for i in range(3) for site in "ab" for role in ("T1", "T2")], 6),
    ],
)
def test_patients_over_several_roots(tmp_path, pattern, names, groups):
    for seed, name in enumerate(names):
        make_image(tmp_path / f"{name}.nii.gz", seed=seed)
    scans, left_out = find_scans(sorted(tmp_path.glob(pattern)))
    assert (len({scan.group for scan in scans}), len(scans) + len(left_out)) == (groups, len(names))


def test_channels_that_are_given_file_by_file(tmp_path):
    for case in range(2):
        for channel in range(3):
            make_image(tmp_path / f"C{case}_{channel:04d}.nii.gz", seed=3 * case + channel)
    scans, left_out = find_scans(sorted(tmp_path.glob("C*_000?.nii.gz")))
    assert ([len(scan.channels) for scan in scans], left_out) == ([3, 3], [])
    assert scans == find_scans([tmp_path])[0]


def test_this_folder_has_its_name(tmp_path, monkeypatch):
    make_series(tmp_path / "P1", 1)
    monkeypatch.chdir(tmp_path / "P1")
    assert [out.source for out in find_scans([Path()])[1]] == ["0.dcm"]
    make_slice(Path("1.dcm"), 7)
    make_slice(Path("2.dcm"), 8)
    assert [out.source for out in find_scans([Path()])[1]] == ["P1"]


def test_missing_channel(tmp_path):
    for i in (0, 2):
        make_image(tmp_path / f"p_{i:04d}.nii.gz")
    assert "channel 1 is missing" in reasons(tmp_path)["p_0000.nii.gz"]


@pytest.mark.parametrize(("change", "word"), [({"shape": (5, 6, 8)}, "shape"), ({"spacing": 2.0}, "spacing")])
def test_channels_of_different_geometry(tmp_path, change, word):
    make_image(tmp_path / "p_0000.nii.gz")
    make_image(tmp_path / "p_0001.nii.gz", **change)
    assert f"differ in {word}" in reasons(tmp_path)["p_0000.nii.gz"]


@pytest.mark.parametrize(("spacing", "taken"), [(1.0005, True), (1.002, False)])
def test_channels_of_nearly_the_same_spacing(tmp_path, spacing, taken):
    make_image(tmp_path / "p_0000.nii.gz")
    make_image(tmp_path / "p_0001.nii.gz", spacing=spacing, seed=1)
    scans, left_out = find_scans([tmp_path])
    assert [len(read_scan(scan)[0]) for scan in scans] == [2] * taken
    assert len(left_out) == 1 - taken


def test_numbers_without_a_channel_0_are_part_of_the_name(tmp_path):
    for i in (17, 18):
        make_image(tmp_path / f"patient_{i:04d}.nii.gz", seed=i)
    scans, left_out = find_scans([tmp_path])
    assert [s.case[:13] for s in scans] == ["patient_0017_", "patient_0018_"]
    assert left_out == []


def test_brain_tumour_has_two_channels(data):
    scans, left_out = find_scans([data / "Dataset008_BrainTumour" / "imagesTr"])
    assert left_out == []
    assert [len(s.channels) for s in scans] == [2, 2]
    image, properties = read_scan(scans[0])
    expected, expected_properties = SimpleITKIO().read_images([f for (f,) in scans[0].channels])
    assert np.array_equal(image, expected)
    assert properties == expected_properties


def test_all_real_scans_but_the_tilted_one(data):
    scans, left_out = find_scans([data / name for name in ("ct_unlabeled", "mr_unlabeled", "dicom")])
    files = [file for name in ("ct_unlabeled", "mr_unlabeled") for file in (data / name).rglob("*.nii.gz")]
    assert len(scans) == len(files) + 3  # series
    assert [out.source for out in left_out] == ["dicom/ct_head_tilt"]


def test_other_files_are_ignored(tmp_path):
    make_image(tmp_path / "a.nii.gz")
    for name in ("notes.txt", "a.json", "b.raw", "DICOMDIR", "README", ".DS_Store", "._a.nii.gz"):
        (tmp_path / name).write_bytes(b"something else")
    scans, left_out = find_scans([tmp_path])
    assert len(scans) == 1
    assert left_out == []


@pytest.mark.parametrize(
    "name",
    [
        "a.nii.bz2",
        "a.nii.xz",
        "a.tar.gz",
        "a.dcm.gz",
        "a.mnc.gz",
        "a.par",
        "a.REC",
        "a.mgz",
        "a.tiff",
        "a.npz",
        "a.zip",
    ],
)
def test_other_formats_of_images_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"something")
    assert "not supported" in reasons(tmp_path)[name]


def test_every_file_that_may_be_an_image_has_a_row(tmp_path):
    names = ["b.nii.gz.part", "c.nii.gz.1", "d.mif", "e.nia", "f.v", "g.nii.gz~"]
    for name in names:
        (tmp_path / name).write_bytes(b"something")
    for number, file in enumerate(make_series(tmp_path / "s", 6)):
        file.rename(tmp_path / "s" / f"IM{number}")
    (tmp_path / "s" / "IM5").write_bytes(b"x" + (tmp_path / "s" / "IM5").read_bytes()[:127] + b"DIXM")
    (scan,), left_out = find_scans([tmp_path])
    assert scan.shape[0] == 5
    assert {out.source: out.expected for out in left_out} == {**dict.fromkeys(names, True), "s/IM5": False}
    assert all("not recognised as an image" in out.reason for out in left_out)


def test_img_without_its_header(tmp_path):
    (tmp_path / "a.img").write_bytes(b"something")
    assert "no .hdr" in reasons(tmp_path)["a.img"]


@pytest.mark.parametrize("ending", [".img", ".img.gz"])
def test_files_beside_a_header_are_no_scans(tmp_path, ending):
    nibabel.save(nibabel.Nifti1Pair(np.random.default_rng(0).integers(0, 9, (4, 5, 6), np.int16), np.eye(4)),
                 tmp_path / "a.b.img")  # fmt: skip
    if ending == ".img.gz":
        (tmp_path / "a.b.img.gz").write_bytes(gzip.compress((tmp_path / "a.b.img").read_bytes()))
        (tmp_path / "a.b.img").unlink()
    for name in ("physio.tsv.gz", "sidecar.json.gz"):
        (tmp_path / name).write_bytes(b"something")
    (scan,), left_out = find_scans([tmp_path])
    assert (scan.source, left_out) == ("a.b.hdr", [])


def test_channel_without_content_is_remarked_on(tmp_path):
    make_image(tmp_path / "p_0000.nii.gz")
    image = SimpleITK.ReadImage(str(tmp_path / "p_0000.nii.gz")) * 0
    SimpleITK.WriteImage(image, str(tmp_path / "p_0001.nii.gz"))
    (scan,), _ = find_scans([tmp_path])
    voxels, properties = read_scan(scan)
    expected, _ = SimpleITKIO().read_images([f for (f,) in scan.channels])
    assert np.array_equal(voxels, expected)
    assert "channel 1 has one value everywhere" in properties["remarks"][0]
    SimpleITK.WriteImage(image, str(tmp_path / "p_0000.nii.gz"))
    with pytest.raises(ScanError, match="every voxel of every channel"):
        read_scan(scan)


@pytest.mark.parametrize(("degrees", "taken"), [(0.8, True), (3, False)])
def test_channels_of_nearly_the_same_direction(tmp_path, degrees, taken):
    make_image(tmp_path / "p_0000.nii.gz")
    image = SimpleITK.ReadImage(str(make_image(tmp_path / "p_0001.nii.gz", seed=1)))
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(tmp_path / "p_0001.nii.gz"))
    scans, left_out = find_scans([tmp_path])
    assert (len(scans), len(left_out)) == ((1, 0) if taken else (0, 1))
    assert not taken or "differ by 0.8 degrees" in scans[0].corrections[0]
    assert not taken or read_scan(scans[0])[1]["remarks"] == list(scans[0].corrections)


def test_company_and_copies_are_expected(tmp_path):
    make_series(tmp_path / "one")
    make_series(tmp_path / "two")
    make_slice(tmp_path / "one" / "scout.dcm", 99, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    make_series(tmp_path / "short", 1, SeriesInstanceUID=f"{SERIES}.2")
    _, left_out = find_scans([tmp_path])
    assert [(out.source, out.expected) for out in left_out] == [
        ("one/scout.dcm", True), ("short/0.dcm", False), ("two", True)
    ]  # fmt: skip


def test_useless_files_and_folders_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.nii.gz").touch()
    (tmp_path / "zero.dcm").touch()
    (tmp_path / "broken.nii.gz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.mgz").write_bytes(b"not supported")
    found = reasons(tmp_path)
    assert found["empty"] == "empty folder"
    assert found["zero.nii.gz"] == found["zero.dcm"] == "empty file (0 bytes)"
    assert "No such file" in found["broken.nii.gz"]
    assert "not supported" in found["b.mgz"]
    assert len(found) == 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    make_image(tmp_path / "a.nii.gz").chmod(0)
    make_image(tmp_path / "a.mha").chmod(0)
    make_image(tmp_path / "closed" / "b.nii.gz").parent.chmod(0)
    found = reasons(tmp_path)
    (tmp_path / "closed").chmod(0o700)
    assert found == dict.fromkeys(["a.nii.gz", "a.mha", "closed"], "no permission to read it")


def test_pipes_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    assert find_scans([tmp_path]) == ([], [])


def test_symbolic_links_are_followed_once(tmp_path):
    make_image(tmp_path / "real" / "a.nii.gz")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "root")
    scans, _ = find_scans([tmp_path / "root"])
    assert [s.source for s in scans] == ["link/a.nii.gz"]


def test_hidden_folders_are_not_searched(tmp_path):
    root = tmp_path / ".cache" / "ds"  # named by the user
    for seed, name in enumerate(f"sub-0{i}/anat/sub-0{i}_{role}" for i in range(1, 5) for role in ("T1w", "T2w")):
        kept = make_image(root / ".git" / "annex" / "objects" / f"{seed}" / f"MD5E-s1--{seed}.nii.gz", seed=seed)
        link = root / f"{name}.nii.gz"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(kept, link.parent))
    make_image(root / "sub-01" / ".snapshot" / "a.nii.gz", seed=9)
    scans, left_out = find_scans([root])
    assert len({scan.group for scan in scans}) == 4
    assert [scan.source for scan in scans][:2] == [f"sub-01/anat/sub-01_T{i}w.nii.gz" for i in (1, 2)]
    hidden = [(out.source, out.reason, out.expected) for out in left_out]
    assert hidden == [(name, "hidden folder: not searched", True) for name in (".git", "sub-01/.snapshot")]


def test_endings_tell_files_apart(tmp_path):
    make_image(tmp_path / "y.nii.gz").rename(tmp_path / "x.NII.GZ")
    make_image(tmp_path / "x.nii.gz", seed=1)
    make_image(tmp_path / "P1.nrrd", seed=2)
    (tmp_path / "P1.tar.gz").write_bytes(b"\x1f\x8bsomething")
    scans, left_out = find_scans([tmp_path])
    assert [scan.source for scan in scans] == ["P1.nrrd", "x.NII.GZ", "x.nii.gz"]
    assert len({scan.case for scan in scans}) == 3
    assert [out.source for out in left_out] == ["P1.tar.gz"]


def test_overlapping_roots_give_each_scan_once(tmp_path):
    make_image(tmp_path / "sub" / "a.nii.gz")
    make_series(tmp_path / "sub" / "series")
    assert len(find_scans([tmp_path, tmp_path / "sub", tmp_path / "sub" / "a.nii.gz"])[0]) == 2


def test_root_may_be_a_file(tmp_path):
    make_image(tmp_path / "a.nii.gz")
    make_image(tmp_path / "b.nii.gz")
    assert [s.source for s in find_scans([tmp_path / "a.nii.gz"])[0]] == ["a.nii.gz"]


def test_missing_root_is_an_error_that_names_it(tmp_path):
    with pytest.raises(GenesisError, match="nowhere does not exist"):
        find_scans([tmp_path / "nowhere"])
    with pytest.raises(GenesisError, match="nnn does not exist, can't be reached"):
        find_scans([tmp_path / ("n" * 300)])


def test_scan_that_changes_after_discovery(tmp_path):
    f = make_image(tmp_path / "a.nii.gz")
    (scan,), _ = find_scans([tmp_path])
    make_image(f, shape=(5, 6, 9))
    with pytest.raises(ScanError, match="changed since it was found"):
        read_scan(scan)
    f.unlink()
    with pytest.raises(ScanError, match="No such file"):
        read_scan(scan)


def test_nnunets_fingerprint_reads_scans(data):
    (scan,), _ = find_scans([data / "ct_unlabeled" / "kits_00072_partial.nii.gz"])
    reader = functools.partial(ScanReader, asked="CT")
    shape, spacing, intensities, statistics, _ = DatasetFingerprintExtractor.analyze_case(scan, scan, reader, 1000)
    assert tuple(shape) == scan.shape
    assert tuple(spacing) == scan.spacing
    assert len(intensities[0]) == 1000
    assert -200 < statistics[0]["median"] < 100  # of the body: the image's own median is far lower or air


def test_reader_gives_a_mask_for_the_scan_that_it_is_asked_for(data):
    scans, _ = find_scans([data / "ct_unlabeled" / "kits_00072_partial.nii.gz", data / "dicom" / "ct_abdomen"])
    reader = ScanReader()
    reader.read_images(scans[0])
    mask, properties = reader.read_seg(scans[1])
    assert mask.shape == (1, *scans[1].shape)
    assert mask.dtype == np.int8
    assert tuple(properties["spacing"]) == scans[1].spacing
