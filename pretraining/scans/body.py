"""Where the body is: the foreground of scans that have no labels."""

from collections.abc import Sequence

import numpy as np
from acvl_utils.morphology.morphology_helper import generic_filter_components_cc3d
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes, generate_binary_structure
from skimage.filters import threshold_otsu

# Halfway between air (-1000 HU) and soft tissue (0): the skin's edge. Clothes and table foam (-950 to -700) lie below.
CT_THRESHOLD = -500.0
_LUNG = -930.0  # HU: if all that is left is denser, it is lung (about -850) that a crop cuts open, not air (-1000)
_COARSE = 3.0  # mm: enough to find the body, and fast
_TABLE = 5.0  # mm: sheets thinner than twice this are taken away, which severs the table from the back
_WHOLE_BODY = 100.0  # mm: nothing is scanned whole within a field of view smaller than this in every axis
_ARM = 0.03  # a part smaller than this share of the largest one is no arm
_LEAST = 0.01  # share of the image: a smaller body was not found


def body_mask(image: np.ndarray, spacing: Sequence[float], modality: str) -> np.ndarray:
    """Mark the body: table and air around it are left out, lungs, bowel gas and ventricles belong to it.

    Args:
        image: (C, Z, Y, X), HU for CT. A voxel that is body in any channel is body.
        spacing: mm as (z, y, x).
        modality: "CT" or "MR".

    Returns:
        int8 (Z, Y, X), 1 in the body, 0 elsewhere; 1 everywhere if no body can be told from the background (a crop
        from within the body). Never empty.
    """
    shape = image.shape[1:]
    steps = [max(1, round(_COARSE / s)) for s in spacing]
    if modality == "MR" and all(n * s < _WHOLE_BODY for n, s in zip(shape, spacing, strict=True)):
        return np.ones(shape, np.int8)
    coarse = image[:, :: steps[0], :: steps[1], :: steps[2]]
    coarse_spacing = [s * k for s, k in zip(spacing, steps, strict=True)]
    mask = _foreground(coarse, modality)
    if modality == "MR":  # shows no table, and the dark skull would sever the scalp from the brain
        mask = _fill_slices(mask)
    mask = _fill_slices(_solid_parts(mask, coarse_spacing))
    within = modality == "CT" and not mask.all() and np.median(coarse[0][~mask]) > _LUNG
    if within or mask.mean() < _LEAST:
        return np.ones(shape, np.int8)
    for axis, k in enumerate(steps):
        mask = mask.repeat(k, axis)
    return mask[tuple(slice(n) for n in shape)].astype(np.int8)


def _foreground(image: np.ndarray, modality: str) -> np.ndarray:
    thresholds = [CT_THRESHOLD if modality == "CT" else _mr_threshold(channel) for channel in image]
    return np.any([channel > t for channel, t in zip(image, thresholds, strict=True)], axis=0)


def _mr_threshold(channel: np.ndarray) -> float:
    """Between background and tissue: half of Otsu's threshold, which itself often lies between dark and bright tissue.

    The brightest percent (vessels, fat near a coil) is clipped, or it would draw the threshold up.
    """
    low, high = (float(v) for v in np.percentile(channel, (0.5, 99)))
    if high <= low:
        return low
    otsu = float(threshold_otsu(np.clip(channel, low, high)))
    return low + (otsu - low) / 2


def _solid_parts(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Open with a ball (in mm, so that it is round whatever the spacing), then keep the large components."""
    if mask.all() or not mask.any():
        return mask
    axes = np.ogrid[tuple(slice(-int(_TABLE / s), int(_TABLE / s) + 1) for s in spacing)]
    ball = np.sqrt(sum((axis * s) ** 2 for axis, s in zip(axes, spacing, strict=True))) <= _TABLE
    core = binary_erosion(mask, ball, border_value=1)
    if not core.any():
        return _large_components(mask)
    return mask & binary_dilation(_large_components(core), ball)


def _large_components(mask: np.ndarray) -> np.ndarray:
    """Keep the largest component, and those that may be arms beside a trunk."""

    def at_least_an_arm(components: list[int], sizes: list[int]) -> list[int]:
        return [n for n, size in zip(components, sizes, strict=True) if size >= _ARM * max(sizes)]

    return generic_filter_components_cc3d(mask, at_least_an_arm, connectivity=6)


def _fill_slices(mask: np.ndarray) -> np.ndarray:
    """Fill what is enclosed within a slice along any axis: lungs are open to the outside in 3D where the scan ends."""
    filled = mask.copy()
    for axis in range(3):  # all slices along it at once
        within = generate_binary_structure(3, 1)
        within[tuple(slice(None) if a != axis else [0, 2] for a in range(3))] = False
        filled |= binary_fill_holes(mask, within)
    return filled
