"""nnU-Net's resampling, one axis after the other, as resampling is linear and separable.

An axis' weights are what scipy's ``zoom(mode="nearest", grid_mode=True)``, with which nnU-Net resamples, makes of the
identity matrix, so images differ by rounding only (to float32 after each axis); segmentations don't differ.
"""

import itertools
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
from scipy.ndimage import zoom

from pretraining.scans.scan import ScanError

_BLOCK = 32  # new voxels along an axis that are made together
_NEGLIGIBLE = 1e-12  # of a weight: float32 rounds at 6e-8


class FastConfiguration(ConfigurationManager):
    """nnU-Net's configuration, with :func:`resample` in the place of the function that it does faster.

    Unless ``exact``. Either raises ScanError for what is hardly larger than a voxel of the plans: nnU-Net would divide
    by 0, or not notice.
    """

    def __init__(self, configuration: dict[str, Any], exact: bool = False) -> None:
        super().__init__(configuration)
        self._exact = exact

    @property
    def resampling_fn_data(self) -> Any:
        """Resamples images."""
        return partial(_checked, self._fast("resampling_fn_data") or super().resampling_fn_data)

    @property
    def resampling_fn_seg(self) -> Any:
        """Resamples segmentations."""
        return partial(_checked, self._fast("resampling_fn_seg") or super().resampling_fn_seg)

    def _fast(self, key: str) -> Any:
        if self._exact or self.configuration[key] != resample_data_or_seg_to_shape.__name__:
            return None
        return partial(resample, **self.configuration[f"{key}_kwargs"])


def _checked(function: Any, data: Any, new_shape: Sequence[int], *spacings: Sequence[float]) -> Any:
    if min(new_shape) < 2:
        raise ScanError(f"{' x '.join(map(str, new_shape))} voxels at the planned spacing, smaller than two voxels "
                        "along an axis: its spacing is wrong, or it is no scan of this kind")  # fmt: skip
    return function(data, new_shape, *spacings)


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
    """Resample (C, X, Y, Z) as nnU-Net's ``resample_data_or_seg_to_shape``, whose arguments these are.

    What nnU-Net doesn't plan by itself (orders other than 3 for images, 1 for segmentations and 0 for the axis of
    thick slices; images that aren't float32) is left to it. Where the shape stays, ``data`` itself is returned.
    """
    planned = order == (1 if is_seg else 3) and order_z == 0 and isinstance(data, np.ndarray) and data.size > 0
    if not planned or not (data.dtype.kind in "iu" if is_seg else data.dtype == np.float32):
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


def _image(image: np.ndarray, shape: tuple[int, ...], thick: int | None) -> np.ndarray:
    """Interpolate by cubic splines, within each channel's extremes; along axis ``thick`` take the nearest slice.

    With ``thick`` the extremes are each slice's.
    """
    extent = tuple(axis for axis in (1, 2, 3) if thick is None or axis != thick + 1)
    low, high = image.min(extent, keepdims=True), image.max(extent, keepdims=True)
    for axis in _shrinking_first(image.shape[1:], shape):
        old, new = image.shape[axis + 1], shape[axis]
        if axis == thick:
            image, low, high = (values.take(_nearest(old, new), axis + 1) for values in (image, low, high))
        elif old != new:
            # The weight of each old voxel in each new one, float64 (new, old).
            weights = zoom(np.eye(old), (new / old, 1), order=3, mode="nearest", grid_mode=True)
            image = _weighted(image, axis + 1, weights)
    return np.clip(image, low, high, out=image)


def _shrinking_first(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """Order the axes such that least is left to do for the later ones."""
    return sorted(range(3), key=lambda axis: new[axis] / old[axis])


def _weighted(image: np.ndarray, axis: int, weights: np.ndarray) -> np.ndarray:
    """Multiply the lines of ``image`` along ``axis`` by ``weights`` (new, old), in float64, one slice at a time."""
    out = np.empty((*image.shape[:axis], len(weights), *image.shape[axis + 1 :]), image.dtype)
    across, blocks = 2 if axis == 1 else 1, []
    for first in range(0, len(weights), _BLOCK):  # new voxels, and the old ones that count there: weights fall fast
        used = np.flatnonzero((np.abs(weights[first : first + _BLOCK]) > _NEGLIGIBLE).any(0))
        blocks.append((slice(first, first + _BLOCK), slice(used[0], used[-1] + 1)))
    for source, target in zip(np.moveaxis(image, across, 0), np.moveaxis(out, across, 0), strict=True):
        lines = source.astype(np.float64)
        for new, old in blocks:
            if axis == 3:
                target[..., new] = lines[..., old] @ weights[new, old].T
            else:
                target[..., new, :] = weights[new, old] @ lines[..., old, :]
    return out


def _segmentation(labels: np.ndarray, shape: tuple[int, ...], thick: int | None) -> np.ndarray:
    """Give each voxel the label with the largest share by linear interpolation; see :func:`_vote` for ties.

    Along axis ``thick`` the nearest slice is taken. Only where a voxel's eight neighbours differ is anything
    interpolated.
    """
    lengths = list(zip(labels.shape[1:], shape, strict=True))
    taps = [_taps(old, new, axis == thick) for axis, (old, new) in enumerate(lengths)]
    lowest = highest = labels
    for axis in _shrinking_first(labels.shape[1:], shape):
        one, two = taps[axis][0]
        lowest = np.minimum(lowest.take(one, axis + 1), lowest.take(two, axis + 1))
        highest = np.maximum(highest.take(one, axis + 1), highest.take(two, axis + 1))
    differ = np.nonzero(lowest != highest)
    if not len(differ[0]):
        return lowest
    channel, *where = differ
    nearest = (channel, *(_nearest(old, new)[w] for (old, new), w in zip(lengths, where, strict=True)))
    (x, a), (y, b), (z, c) = ((index[:, w], weight[:, w]) for (index, weight), w in zip(taps, where, strict=True))
    corners = list(itertools.product((0, 1), repeat=3))
    found = [labels[channel, x[i], y[j], z[k]] for i, j, k in corners]
    lowest[differ] = _vote(found, [a[i] * b[j] * c[k] for i, j, k in corners], labels[nearest])
    return lowest


def _vote(labels: Sequence[np.ndarray], shares: Sequence[np.ndarray], nearest: np.ndarray) -> np.ndarray:
    """Return the labels (N,) with the largest sum of shares.

    Where several have the same: that of the nearest voxel if it is one of them, else the smallest.
    """
    names = np.unique(labels)[:, None]
    # One after the other, as scipy, so that even rounding, and with it ties, are scipy's.
    total = sum(share * (label == names) for label, share in zip(labels, shares, strict=True))
    tied = (total == total.max(0)) & (names == nearest)
    return np.where(tied.any(0), nearest, names[total.argmax(0), 0])


def _nearest(old: int, new: int) -> np.ndarray:
    """Return for each of ``new`` voxels the nearest of ``old`` ones, int64."""
    return np.floor(_positions(old, new) + 0.5).clip(0, old - 1).astype(np.int64)


def _taps(old: int, new: int, thick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of ``new`` voxels two of ``old`` ones, int64 (2, new), and their weights, float64 (2, new)."""
    if thick:
        return np.stack([_nearest(old, new)] * 2), np.stack([np.ones(new), np.zeros(new)])
    where = _positions(old, new)
    first = np.floor(where)
    weight = 1 - (where - first)
    return np.stack([first, first + 1]).clip(0, old - 1).astype(np.int64), np.stack([weight, 1 - weight])


def _positions(old: int, new: int) -> np.ndarray:
    """Return where ``new`` voxels lie among ``old`` ones that cover the same field of view; float64, in old voxels."""
    return (np.arange(new) + 0.5) * (old / new) - 0.5
