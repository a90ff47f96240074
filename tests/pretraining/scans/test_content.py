"""What volumes show: label maps and CTs, told from scans of any kind by their voxels."""

import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from scipy.spatial import cKDTree

from pretraining.scans.content import is_ct_name, is_label_map, looks_like_ct, may_be_probability, named_like_labels
from pretraining.scans.find import find_scans
from pretraining.scans.reading import ScanReader, read_scan
from pretraining.scans.scan import LeftOut, ScanError

SHAPE = (24, 48, 48)
RNG = np.random.default_rng(0)


def regions(count: int, radius: float = np.inf) -> np.ndarray:
    """Voronoi regions, 1 to ``count``, with a background of 0 farther than ``radius`` from their centres."""
    centres = np.stack([RNG.uniform(0, length, count) for length in SHAPE], 1)
    distance, nearest = cKDTree(centres).query(np.argwhere(np.ones(SHAPE, bool)))
    return np.where(distance < radius, nearest + 1, 0).reshape(SHAPE).astype(np.float32)


def ct() -> np.ndarray:
    """A body of fat and soft tissue in air, with noise."""
    body = regions(6, 16)
    tissue = np.select([body == 0, body == 1, body == 2, body == 3], [-1000, -100, 700, -850], 40)
    return (gaussian_filter(tissue.astype(np.float32), 0.7) + RNG.normal(0, 15, SHAPE)).round().clip(-1024)


ORGANS, BODY = regions(5, 9), ct()
ORGAN = (ORGANS == 1).astype(np.float32)
INSIDE = distance_transform_edt(ORGAN) - distance_transform_edt(1 - ORGAN)
VESSELS = np.zeros(SHAPE, np.float32)
VESSELS[:, 10:12, 20:22], VESSELS[5:7, :, 30:32], VESSELS[9, 40, :] = 1, 2, 3
LANDMARKS = np.zeros(SHAPE, np.float32)
LANDMARKS[3, 4, 5], LANDMARKS[9, 9, 9], LANDMARKS[20, 30, 40] = 1, 2, 3
MR = np.abs(np.where(BODY > -500, BODY * 0.3 + 600, 0) + RNG.normal(0, 12, SHAPE)).round()

LABELS = {
    "organs": ORGANS,
    "0 and 255": ORGAN * 255,
    "rescaled": ORGANS * 0.0039 + 1,
    "a voxel": LANDMARKS == 2,
    "instances": regions(150, 6),
    "parcellation": regions(100),
    "vessels": VESSELS,
    "landmarks": LANDMARKS,
    "blurred": gaussian_filter(ORGAN, 1),
    "probability": 1 / (1 + np.exp(-2 * INSIDE + RNG.normal(0, 0.5, SHAPE))),
    "binary image": np.where(BODY > -500, 40, -1000),
}
SCANS = {
    "CT": BODY,
    "CT of 8 bits": ((BODY + 1024) / 16).round().clip(0, 255),
    "CT in a window": BODY.clip(-160, 240),
    "CT from 0 to 1": ((BODY + 1000) / 1400).clip(0, 1),
    "CT with padding": np.where(np.indices(SHAPE)[2] < 12, -3024, BODY),
    "MR": MR,
    "MR of a brain": np.where(BODY > -500, MR, 0),
    "MR from 0 to 1": np.where(BODY > -500, MR, 0) / MR.max(),
    "dark MR": (MR / 20).round(),
    "slices repeated": BODY[:4].repeat(6, 0),
    "doubled": BODY[:12, :24, :24].repeat(2, 0).repeat(2, 1).repeat(2, 2),
    "PET": gaussian_filter(RNG.gamma(0.3, 5, SHAPE), 1.5),
    "counts": RNG.poisson(1, SHAPE),
    "X-ray-like": RNG.integers(0, 65535, SHAPE),
    "tiny": RNG.normal(0, 100, (3, 3, 3)),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels(name):
    assert is_label_map(np.asarray(LABELS[name], np.float32))


@pytest.mark.parametrize("name", SCANS)
def test_scans(name):
    assert not is_label_map(np.asarray(SCANS[name], np.float32))


def test_smooth_values_from_0_to_1_may_be_a_probability(tmp_path):
    blurred = gaussian_filter(ORGAN, 2)
    scan = gaussian_filter(((BODY + 160) / 400).clip(0, 1), 1)  # a CT in a window, scaled and blurred
    for image in (blurred, scan):
        assert may_be_probability(image)
        assert not is_label_map(image)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image.astype(np.float32)), str(tmp_path / "a.nii.gz"))
        (found,), _ = find_scans([tmp_path / "a.nii.gz"])
        with pytest.raises(ScanError, match=r"smooth values from 0 to 1.*--include_labels") as error:
            ScanReader().read_images(found)
        assert not LeftOut.because("a", error.value).expected
    assert not any(may_be_probability(np.asarray(image)) for image in SCANS.values())


def test_of_what_is_unclear_the_name_decides():
    noisy = np.where(RNG.random(SHAPE) < 0.6, 0, regions(30))
    assert (is_label_map(noisy), is_label_map(noisy, named=True)) == (False, True)
    percent = (gaussian_filter(ORGAN, 1.5) * 100).round()
    assert (is_label_map(percent), is_label_map(percent, named=True)) == (False, True)
    assert not any(is_label_map(image, named=True) for image in (BODY, MR, SCANS["MR of a brain"]))


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ("labelsTr/liver_1.nii.gz", True),
        ("s0000/segmentations/spleen.nii.gz", True),
        ("p/BraTS20_Training_001_seg.nii.gz", True),
        ("p/case-label.nrrd", True),
        ("p/case.seg.nrrd", True),
        ("p/segmentation-0.nii", True),
        ("instances/kidney_instance-1_annotation-1.nii.gz", True),
        ("imagesTr/liver_1.nii.gz", False),
        ("segovia/gtv/ct.nii.gz", False),
        ("p/T1_masked.nii.gz", False),
    ],
)
def test_names_of_labels(path, labels):
    assert named_like_labels(path) == labels


def spline(image: np.ndarray, scale: float) -> np.ndarray:
    return zoom(image, 1.3, order=3) * scale


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (BODY, True),
        (SCANS["CT with padding"], True),
        (SCANS["CT in a window"], True),
        (RNG.normal(np.where(RNG.random(SHAPE) < 0.9, -870, -100), 60).clip(-1040, 64), True),
        (RNG.normal(*np.where(RNG.random(SHAPE) < 0.6, [[[[-650]]], [[[180]]]], [[[[40]]], [[[30]]]])), True),
        (RNG.normal(np.where(RNG.random(SHAPE) < 0.3, -100, 45), 20), True),
        *((np.where(RNG.random(SHAPE) < 0.3, RNG.normal(45, 20, SHAPE), fill), is_ct)
          for fill, is_ct in ((-1024, True), (-2000, True), (-3024, True), (0, False), (-9999, False))),
        (np.where(RNG.random(SHAPE) < 0.1, -3024, BODY), True),
        (MR, False),
        (spline(np.where(BODY > -500, MR, 0), 1), False),
        (spline(np.where(BODY > -500, MR, 0), 12), False),
        (RNG.uniform(-4096, 4095, SHAPE), False),
        ((MR - MR.mean()) / MR.std(), False),
        (SCANS["PET"], False),
        (SCANS["X-ray-like"], False),
        (SCANS["tiny"], False),
        (RNG.normal(1000, 300, SHAPE), False),
    ],
)  # fmt: skip
def test_cts_by_their_shares_of_voxels(image, expected):
    assert looks_like_ct(np.asarray(image, np.float32)) == expected


def test_names_of_kinds_of_ct():
    assert all(map(is_ct_name, ("CT", "CTA", "CBCT", "PETCT", "PET-CT", "ct_0")))
    assert not any(map(is_ct_name, ("MR", "PET", "SPECT", "T1", "OCT", "tract")))


def test_all_real_scans_and_labels(data):
    folders = {"Dataset003_Liver": True, "Dataset041_OpenKBP": True, "Dataset044_LIDCNodule": True,
               "Dataset004_Hippocampus": False, "Dataset027_ACDC": False, "Dataset008_BrainTumour": False}  # fmt: skip
    for folder, is_ct in folders.items():
        for kind in ("imagesTr", "labelsTr"):
            for scan in find_scans([data / folder / kind], 1)[0][:: 1 if is_ct else 9]:
                image = read_scan(scan)[0][0]
                assert is_label_map(image) == (kind == "labelsTr"), scan.source
                assert looks_like_ct(image) == (is_ct and kind == "imagesTr"), scan.source
