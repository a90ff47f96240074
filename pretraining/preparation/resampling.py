"""nnU-Net's resampling, one axis after the other: 4 knots an axis instead of 64 a voxel, in compiled loops.

The splines are those of scipy's ``zoom(mode="nearest", grid_mode=True)``, so images differ by rounding only (float32
instead of float64); segmentations don't differ.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from pretraining.preparation.splines import linear_taps, nearest_taps, resize_axis, vote


class FastConfiguration(ConfigurationManager):
    """nnU-Net's configuration, with :func:`resample` in the place of the function that it does faster."""

    @property
    def resampling_fn_data(self) -> Any:
        """Resamples images."""
        return self._fast("resampling_fn_data") or super().resampling_fn_data

    @property
    def resampling_fn_seg(self) -> Any:
        """Resamples segmentations."""
        return self._fast("resampling_fn_seg") or super().resampling_fn_seg

    def _fast(self, key: str) -> Any:
        if self.configuration[key] != resample_data_or_seg_to_shape.__name__:
            return None
        return partial(resample, **self.configuration[f"{key}_kwargs"])


def resample(
    data: np.ndarray,
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    is_seg: bool = False,
    order: int = 3,
    order_z: int = 0,
    force_separate_z: bool | None = False,
    separate_z_anisotropy_threshold: float = ANISO_THRESHOLD,
) -> np.ndarray:
    """nnU-Net's ``resample_data_or_seg_to_shape``, arguments and all.

    What nnU-Net doesn't plan by itself (orders other than 3 for images, 1 for segmentations and 0 for the axis of
    thick slices; images that aren't float32) is left to it.

    Args:
        data: (C, X, Y, Z).
        new_shape: voxels (X, Y, Z).
        current_spacing: mm (X, Y, Z).
        new_spacing: mm (X, Y, Z).
        is_seg: labels, not intensities.
        order: of the splines.
        order_z: of those along the axis of thick slices.
        force_separate_z: treat that axis apart; ``None`` where the spacing is anisotropic enough.
        separate_z_anisotropy_threshold: largest over smallest spacing that is.

    Returns:
        (C, X, Y, Z) of ``data``'s type; ``data`` itself where the shape stays.
    """
    if order != (1 if is_seg else 3) or order_z != 0 or not _is_usual(data, is_seg):
        return resample_data_or_seg_to_shape(
            data, new_shape, current_spacing, new_spacing, is_seg, order, order_z, force_separate_z,
            separate_z_anisotropy_threshold,
        )  # fmt: skip
    shape = tuple(int(length) for length in new_shape)
    if data.shape[1:] == shape:
        return data
    _, thick = determine_do_sep_z_and_axis(
        force_separate_z, current_spacing, new_spacing, separate_z_anisotropy_threshold
    )
    return _segmentation(data, shape, thick) if is_seg else _image(data, shape, thick)


def _is_usual(data: Any, is_seg: bool) -> bool:
    if not isinstance(data, np.ndarray) or data.size == 0:
        return False
    return data.dtype.kind in "iu" if is_seg else data.dtype == np.float32


def _image(image: np.ndarray, shape: tuple[int, ...], thick: int | None) -> np.ndarray:
    """Cubic splines, within each channel's extremes; along axis ``thick`` the nearest slice, within its extremes."""
    extent = tuple(axis for axis in (1, 2, 3) if thick is None or axis != thick + 1)
    low, high = image.min(extent, keepdims=True), image.max(extent, keepdims=True)
    image = np.ascontiguousarray(image)
    # What shrinks most comes first: less is left for the others.
    for axis in sorted(range(3), key=lambda axis: shape[axis] / image.shape[axis + 1]):
        old, new = image.shape[axis + 1], shape[axis]
        if axis == thick:
            taken = nearest_taps(old, new)
            image, low, high = (values.take(taken, axis + 1) for values in (image, low, high))
        elif old != new:
            image = resize_axis(image, axis + 1, new)
    return np.clip(image, low, high, out=image)


def _segmentation(labels: np.ndarray, shape: tuple[int, ...], thick: int | None) -> np.ndarray:
    """Each label's share by linear interpolation, along axis ``thick`` the nearest slice's; the largest share wins."""
    lengths = list(zip(labels.shape[1:], shape, strict=True))
    neighbours, weights, nearest = zip(*(linear_taps(old, new) for old, new in lengths), strict=True)
    if thick is not None:
        taken = np.stack([nearest[thick]] * 2, axis=1)
        neighbours = (*neighbours[:thick], taken, *neighbours[thick + 1 :])
        whole = np.broadcast_to([1.0, 0.0], taken.shape).copy()
        weights = (*weights[:thick], whole, *weights[thick + 1 :])
    out = np.empty((len(labels), *shape), labels.dtype)
    for source, target in zip(np.ascontiguousarray(labels), out, strict=True):
        vote(source, target, neighbours, weights, nearest)
    return out
