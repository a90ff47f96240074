"""Resampling axis by axis gives what nnU-Net's function gives: images up to rounding, segmentations voxel by voxel."""

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from pretraining.preparation.resampling import FastConfiguration, resample
from pretraining.scans.image_files import read_image_file
from pretraining.scans.scan import ScanError

ISOTROPIC, THICK = ((1, 1, 1), (1, 1, 1)), ((5, 1, 1), (2, 1, 1))
IMAGE = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
SEGMENTATION = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
SHAPES = [
    ((12, 17, 9), (19, 30, 14)),
    ((19, 30, 14), (12, 17, 9)),
    ((12, 30, 9), (20, 17, 9)),
    ((8, 10, 6), (16, 15, 3)),  # ratios that make ties
    ((1, 20, 15), (1, 33, 8)),
    ((1, 20, 15), (3, 20, 15)),
    ((9, 1, 7), (4, 2, 1)),
]
SPACINGS = [ISOTROPIC, THICK, (THICK[1], THICK[0]), ((1, 5, 1), (1, 1, 1)), ((1, 1, 5), (1, 1, 1))]


@pytest.mark.parametrize("spacings", SPACINGS)
@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_image_is_nnunets(old, new, spacings):
    image = np.random.default_rng(0).normal(size=(2, *old)).astype(np.float32)
    found, expected = resample(image, new, *spacings, **IMAGE), _nnunets(image, new, spacings, IMAGE)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spacings", SPACINGS)
@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_segmentation_is_nnunets_ties_included(old, new, spacings):
    labels = np.random.default_rng(0).integers(-1, 2, (2, *old)).astype(np.int8)
    found, expected = (f(labels, new, *spacings, **SEGMENTATION) for f in (resample, resample_data_or_seg_to_shape))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_segmentation_of_one_label_only():
    found = resample(np.ones((1, 4, 5, 6), np.int8), (6, 5, 4), *THICK, **SEGMENTATION)
    np.testing.assert_array_equal(found, np.ones((1, 6, 5, 4), np.int8))


@pytest.mark.parametrize("kwargs", [IMAGE, SEGMENTATION])
def test_same_shape_is_the_same_array(kwargs):
    data = np.zeros((1, 3, 4, 5), np.int8 if kwargs["is_seg"] else np.float32)
    assert resample(data, (3, 4, 5), *THICK, **kwargs) is data


def test_input_is_not_changed_whatever_its_memory_layout():
    image = np.random.default_rng(0).normal(size=(6, 7, 8, 2)).astype(np.float32).T
    before = image.copy()
    found = resample(image, (9, 7, 5), *THICK, **IMAGE)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_allclose(found, _nnunets(before, (9, 7, 5), THICK, IMAGE), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [(np.float32, {"order": 1}), (np.float32, {"order_z": 1}), (np.float64, {}), (np.int16, {"is_seg": True})],
)
def test_what_is_not_planned_is_left_to_nnunet(dtype, changes):
    data = np.random.default_rng(0).normal(size=(1, 6, 7, 8)).astype(dtype)
    kwargs = {**IMAGE, **changes}
    expected = _nnunets(data, (9, 7, 5), THICK, kwargs)
    np.testing.assert_array_equal(resample(data, (9, 7, 5), *THICK, **kwargs), expected)


def test_other_functions_of_the_plans_stay():
    planned = {"architecture": {}, "resampling_fn_data_kwargs": IMAGE, "resampling_fn_seg_kwargs": SEGMENTATION}
    names = {"resampling_fn_data": "resample_torch_fornnunet", "resampling_fn_seg": "resample_data_or_seg_to_shape"}
    configuration = FastConfiguration({**planned, **names})
    theirs = ConfigurationManager(configuration.configuration)
    (image,), (segmentation,) = configuration.resampling_fn_data.args, configuration.resampling_fn_seg.args
    assert image.func is theirs.resampling_fn_data.func
    assert (segmentation.func, segmentation.keywords) == (resample, SEGMENTATION)


@pytest.mark.parametrize("exact", [True, False])
def test_an_axis_of_less_than_two_voxels_is_refused(exact):
    names = dict.fromkeys(("resampling_fn_data", "resampling_fn_seg"), "resample_data_or_seg_to_shape")
    planned = {"architecture": {}, "resampling_fn_data_kwargs": IMAGE, "resampling_fn_seg_kwargs": SEGMENTATION}
    configuration = FastConfiguration({**planned, **names}, exact)
    for function, kind in ((configuration.resampling_fn_data, np.float32), (configuration.resampling_fn_seg, np.int8)):
        assert function(np.ones((1, 4, 5, 6), kind), (2, 5, 6), *ISOTROPIC).shape == (1, 2, 5, 6)
        for length in (0, 1):
            with pytest.raises(ScanError, match=f"5 x {length} x 6 voxels at the planned spacing, smaller than two"):
                function(np.ones((1, 4, 5, 6), kind), (5, length, 6), *ISOTROPIC)


@pytest.mark.parametrize(("new", "spacings"), [((9, 100, 75), THICK), ((41, 45, 130), ISOTROPIC)])
def test_real_ct(data, new, spacings):
    crop = read_image_file(data / "ct_unlabeled" / "kits_00072_partial.nii.gz")[0][:, :18, 90:170, 60:150]
    image, labels = crop / np.float32(400), (crop > -200).astype(np.int8) - (crop < -900)
    found, expected = resample(image, new, *spacings, **IMAGE), _nnunets(image, new, spacings, IMAGE)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    found, expected = resample(labels, new, *spacings, **SEGMENTATION), _nnunets(labels, new, spacings, SEGMENTATION)
    np.testing.assert_array_equal(found, expected)


def _nnunets(data: np.ndarray, shape: tuple, spacings: tuple, kwargs: dict) -> np.ndarray:
    return resample_data_or_seg_to_shape(data, shape, *spacings, **kwargs)
