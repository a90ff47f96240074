"""A bright voxel put at a coordinate is in the patch's middle, for every reader, orientation, spacing and plan."""

import itertools

import numpy as np
import pytest
import SimpleITK
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

from nnunet_genesis.classification.places import centred, inside, region, to_voxels, windows
from nnunet_genesis.errors import GenesisError

DIRECTIONS = {
    "LPS": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "RAS": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "sagittal": (0, 0, 1, 1, 0, 0, 0, -1, 0),
    "oblique": (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1),
}
CASES = list(itertools.product([SimpleITKIO, NibabelIO, NibabelIOWithReorient], DIRECTIONS, [(0, 1, 2), (2, 0, 1)]))


def preprocessed(array: np.ndarray, properties: dict, transpose: tuple, target: list[float]) -> np.ndarray:
    """What nnU-Net's preprocessor does, in its own functions."""
    data = array.transpose([0, *(axis + 1 for axis in transpose)])
    spacing = [properties["spacing"][axis] for axis in transpose]
    properties["shape_before_cropping"] = data.shape[1:]
    data, _, properties["bbox_used_for_cropping"] = crop_to_nonzero(data)
    properties["shape_after_cropping_and_before_resampling"] = data.shape[1:]
    return resample_data_or_seg_to_shape(
        data, compute_new_shape(data.shape[1:], spacing, target), spacing, target, order=1
    )


@pytest.mark.parametrize(("reader", "direction", "transpose"), CASES)
def test_the_bright_voxel_is_in_the_middle(tmp_path, reader, direction, transpose):
    image = SimpleITK.Image(40, 36, 28, SimpleITK.sitkFloat32)  # x, y, z
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-120.5, 33, 410))
    image.SetDirection(DIRECTIONS[direction])
    array = SimpleITK.GetArrayFromImage(image)
    array[3:-2, 5:-1, 2:-6] = 10
    array[9:12, 17:20, 23:26] = 1000  # around the voxel x 24, y 18, z 10
    bright = SimpleITK.GetImageFromArray(array)
    bright.CopyInformation(image)
    SimpleITK.WriteImage(bright, str(tmp_path / "scan.nii.gz"))
    point = np.array([image.TransformIndexToPhysicalPoint((24, 18, 10))])

    voxels, properties = reader().read_images([str(tmp_path / "scan.nii.gz")])
    data = preprocessed(voxels, properties, transpose, [1.1, 0.8, 1.3])
    found = to_voxels(point, properties, transpose, data.shape[1:])
    start = centred(found, (9, 9, 9))[0]
    patch = crop_and_pad_nd(data, [[int(s), int(s) + 9] for s in start], 0)[0]
    middle = np.array(np.where(patch > 500)).mean(1)
    np.testing.assert_allclose(middle, 4, atol=0.75)
    assert patch[4, 4, 4] > 900
    assert inside(point, properties, transpose)[0]
    assert not inside(point + 500, properties, transpose)[0]


def test_the_voxels_of_many_points_are_those_of_each():
    properties = {
        "sitk_stuff": {"spacing": (1, 2, 3), "origin": (5, 6, 7), "direction": DIRECTIONS["oblique"]},
        "bbox_used_for_cropping": [[1, 9], [2, 9], [3, 9]],
        "shape_after_cropping_and_before_resampling": (8, 7, 6),
    }
    points = np.random.default_rng(0).normal(size=(50, 3))
    together = to_voxels(points, properties, (1, 2, 0), (16, 7, 3))
    np.testing.assert_allclose(together[7], to_voxels(points[7:8], properties, (1, 2, 0), (16, 7, 3))[0])


def test_images_without_a_position_in_space_are_refused():
    with pytest.raises(GenesisError, match="need 3D images with a position in space"):
        inside(np.zeros((1, 3)), {"spacing": [999, 1, 1]}, (0, 1, 2))


def test_windows_cover_what_is_large_and_are_centred_on_what_is_small():
    box = np.array([[10, 14], [0, 50], [5, 13]])
    starts = np.array(windows(box, (8, 20, 8)))
    assert set(starts[:, 0]) == {8}
    assert set(starts[:, 2]) == {5}
    assert starts[:, 1].min() == 0
    assert starts[:, 1].max() == 30
    assert np.diff(sorted(set(starts[:, 1]))).max() <= 10


def test_the_region_is_that_of_the_foreground_or_everything():
    locations = {1: np.array([[0, 3, 4, 5], [0, 6, 4, 9]]), 2: []}
    np.testing.assert_array_equal(region({"class_locations": locations}, (20, 20, 20)), [[3, 7], [4, 5], [5, 10]])
    np.testing.assert_array_equal(region({}, (20, 21, 22)), [[0, 20], [0, 21], [0, 22]])
