"""Where in a preprocessed image: candidates in mm, regions, and the windows that cover them.

Coordinates are ITK's LPS in mm, as (x, y, z); voxels are those of nnU-Net's preprocessed array, in its order of axes.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

from nnunet_genesis.errors import GenesisError

_RAS = np.array([-1.0, -1.0, 1.0])


def to_voxels(
    points: np.ndarray, properties: Mapping[str, Any], transpose: Sequence[int], shape: Sequence[int]
) -> np.ndarray:
    """Carry points, (n, 3) in mm, through what nnU-Net's preprocessing did: transposition, crop, resampling.

    Args:
        properties: nnU-Net's, of the preprocessed case.
        transpose: the plans' ``transpose_forward``.
        shape: of the preprocessed image, three axes.

    Returns:
        (n, 3) voxels, not rounded; they may lie outside the image.

    Raises:
        GenesisError: the reader of the images knows no position in space.
    """
    found = _indices(np.asarray(points, float), properties)[:, list(transpose)]
    start = [axis[0] for axis in properties["bbox_used_for_cropping"]]
    cropped = properties["shape_after_cropping_and_before_resampling"]
    return (found - start + 0.5) * (np.asarray(shape) / np.asarray(cropped)) - 0.5


def inside(points: np.ndarray, properties: Mapping[str, Any], transpose: Sequence[int]) -> np.ndarray:
    """Tell which of the points, (n, 3) in mm, lie in the scan as it was before the crop."""
    found = _indices(np.asarray(points, float), properties)[:, list(transpose)]
    return np.all((found >= -0.5) & (found <= np.array(properties["shape_before_cropping"]) - 0.5), axis=1)


def _indices(points: np.ndarray, properties: Mapping[str, Any]) -> np.ndarray:
    """Voxels of the image as it was read, (n, 3), z, y, x."""
    if itk := properties.get("sitk_stuff"):
        if len(itk["spacing"]) == 3:
            rotated = (points - itk["origin"]) @ np.linalg.inv(np.reshape(itk["direction"], (3, 3))).T
            return (rotated / itk["spacing"])[:, ::-1]
    elif nibabel := properties.get("nibabel_stuff"):
        inverse = np.linalg.inv(nibabel.get("reoriented_affine", nibabel["original_affine"]))
        return (points * _RAS @ inverse[:3, :3].T + inverse[:3, 3])[:, ::-1]
    raise GenesisError(
        "Candidates need 3D images with a position in space, read by SimpleITKIO, NibabelIO or NibabelIOWithReorient "
        "(overwrite_image_reader_writer in dataset.json). Convert the images to NIfTI or MetaImage."
    )


def region(properties: Mapping[str, Any], shape: Sequence[int]) -> np.ndarray:
    """Bounding box of a case's foreground (the body, or a labelled region): (3, 2) voxels, half open.

    It is that of the voxels that nnU-Net has drawn for sampling; the whole image where there is no foreground.
    """
    found = [np.asarray(v)[:, 1:] for v in properties.get("class_locations", {}).values() if len(v)]
    if not found:
        return np.stack([np.zeros(3, int), np.asarray(shape)], 1)
    voxels = np.concatenate(found)
    return np.stack([voxels.min(0), voxels.max(0) + 1], 1).astype(int)


def starts_of(
    points: np.ndarray | None,
    shape: Sequence[int],
    properties: Mapping[str, Any],
    patch: Sequence[int],
    transpose: Sequence[int],
) -> list[Sequence[int]]:
    """Where a preprocessed case's patches begin: one on each of its candidates (n, 3), in mm, or windows over it."""
    if points is None:
        return list(windows(region(properties, shape), patch))
    return centred(to_voxels(points, properties, transpose, shape), patch).tolist()


def window_range(box: np.ndarray, patch: Any) -> tuple[np.ndarray, np.ndarray]:
    """First and last start, along each axis, of windows that cover ``box``; the same where it fits into one."""
    space = box[:, 1] - box[:, 0] - np.asarray(patch)
    first = box[:, 0] + np.minimum(space, 0) // 2
    return first, first + np.maximum(space, 0)


def windows(box: np.ndarray, patch: Sequence[int]) -> list[tuple[int, ...]]:
    """Starts of sliding windows over ``box``, half a patch apart; one, centred on it, along an axis where it fits."""
    first, last = window_range(box, patch)
    sizes = tuple((last - first + np.asarray(patch)).tolist())
    steps = compute_steps_for_sliding_window(sizes, tuple(patch), 0.5)
    return list(itertools.product(*([int(f) + step for step in axis] for f, axis in zip(first, steps, strict=True))))


def centred(voxels: np.ndarray, patch: Any) -> np.ndarray:
    """Starts of the patches whose middle voxel (index ``patch // 2``) is nearest to each of ``voxels``, (n, 3)."""
    return np.floor(np.asarray(voxels) + 0.5).astype(int) - np.asarray(patch) // 2
