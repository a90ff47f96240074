"""The body mask: contains the body with its cavities, not the table or the noise; never empty."""

import time

import numpy as np
import pytest

from pretraining.scans.body import body_mask
from pretraining.scans.find import find_scans
from pretraining.scans.reading import read_scan

SPACING = (3.0, 2.0, 2.0)


def phantom(background: float, body: float, cavity: float, table: float) -> np.ndarray:
    """A cylinder along z, open at both ends, with a cavity off its axis and a flat sheet below: (1, 20, 100, 120)."""
    y, x = np.mgrid[:100, :120]
    plane = np.full((100, 120), background, np.float32)
    plane[(y - 45) ** 2 + (x - 60) ** 2 < 35**2] = body
    plane[(y - 45) ** 2 + (x - 75) ** 2 < 12**2] = cavity
    plane[82:84] = table
    return np.repeat(plane[None, None], 20, axis=1)


def test_ct_table_and_air_are_out_and_lungs_are_in():
    mask = body_mask(phantom(-1000, 40, -850, 200), SPACING, "CT")
    assert mask.shape == (20, 100, 120)
    assert mask.dtype == np.int8
    assert mask[:, 45, 60].all()
    assert mask[:, 45, 75].all()
    assert not mask[:, 82:].any()
    assert not mask[:, :5].any()
    assert mask.mean() == pytest.approx(np.pi * 35**2 / (100 * 120), rel=0.05)


@pytest.mark.parametrize("noise", [0, 20])
def test_mr_with_zero_or_noisy_background(noise):
    image = phantom(0, 500, 0, 0)
    image = image + np.abs(np.random.default_rng(0).normal(0, noise, image.shape)).astype(np.float32)
    mask = body_mask(image, SPACING, "MR")
    assert mask[:, 45, 75].all()
    assert mask.mean() == pytest.approx(np.pi * 35**2 / (100 * 120), rel=0.08)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (10.0, 0.3, 0.3)])
def test_mask_has_the_size_of_the_image_at_any_spacing(spacing):
    image = np.full((1, 31, 97, 101), -1000, np.float32)
    image[:, 8:25, 20:80, 20:80] = 40
    mask = body_mask(image, spacing, "CT")
    assert mask.shape == image.shape[1:]
    assert mask[16, 50, 50] == 1
    assert mask[0, 0, 0] == 0


@pytest.mark.parametrize(
    ("value", "modality", "shape"),
    [(40, "CT", (5, 6, 7)), (-1000, "CT", (40, 50, 60)), (7, "MR", (40, 50, 60)), (7, "MR", (2, 2, 2))],
)
def test_never_empty(value, modality, shape):
    assert body_mask(np.full((1, *shape), value, np.float32), (3, 3, 3), modality).all()


def test_crop_from_within_is_all_body():
    image = np.random.default_rng(0).normal(40, 200, (1, 40, 60, 60)).astype(np.float32)
    image[..., 30:] -= 900  # lung
    assert body_mask(image, (2, 2, 2), "CT").all()
    assert body_mask(np.abs(image), (1, 1, 1), "MR").all()


def test_a_voxel_is_body_if_any_channel_says_so():
    left = np.zeros((1, 40, 60, 60), np.float32)
    right = left.copy()
    left[..., 10:50, 10:32], right[..., 10:50, 28:50] = 100, 300
    mask = body_mask(np.concatenate([left, right]), (3, 3, 3), "MR")
    assert mask[20, 30, 15] == mask[20, 30, 45] == 1


def test_body_of_all_real_ct(data):
    scans, _ = find_scans(
        [data / "ct_unlabeled", data / "Dataset003_Liver" / "imagesTr", data / "dicom" / "ct_abdomen"]
    )
    assert len(scans) == len(list((data / "ct_unlabeled").glob("*.nii.gz"))) + 5
    for scan in scans:
        image, _ = read_scan(scan)
        mask = body_mask(image, scan.spacing, "CT")
        assert 0.1 < mask.mean() <= 1, scan.case
        soft_tissue = (image[0] > -100) & (image[0] < 200)
        assert mask[soft_tissue].mean() > 0.9, scan.case


def test_body_of_real_mr(data):
    roots = [data / "mr_unlabeled", data / "Dataset008_BrainTumour" / "imagesTr"]
    roots += sorted((data / "Dataset004_Hippocampus" / "imagesTr").iterdir())[:5]
    roots += sorted((data / "Dataset027_ACDC" / "imagesTr").iterdir())[:4]
    scans, _ = find_scans(roots)
    assert len(scans) == 15
    for scan in scans:
        image, _ = read_scan(scan)
        mask = body_mask(image, scan.spacing, "MR")
        assert 0.1 < mask.mean() <= 1, scan.case
        assert image[:, mask == 1].mean() >= image.mean(), scan.case


def test_large_ct_takes_about_a_second(data):
    (scan,), _ = find_scans([data / "Dataset003_Liver" / "imagesTr" / "ircadb17_0000.nii.gz"])
    image, _ = read_scan(scan)
    start = time.process_time()
    body_mask(image, scan.spacing, "CT")
    assert time.process_time() - start < 3  # 0.5 s on an idle core
