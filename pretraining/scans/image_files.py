"""Image files that hold one volume each: NIfTI, MetaImage, NRRD. Stricter than SimpleITK, else equal to it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from pretraining.scans.itk_files import read_itk, read_itk_geometry, verify_itk_data
from pretraining.scans.nifti import check_nifti_header, read_nifti
from pretraining.scans.scan import Geometry, ScanError, Triple

NIFTI_ENDINGS = (".nii", ".nii.gz")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd")
ENDINGS = NIFTI_ENDINGS + ITK_ENDINGS

T = TypeVar("T")


def ending_of(name: str) -> str | None:
    """The supported ending of a file name, in lower case, or None."""
    return next((e for e in reversed(sorted(ENDINGS, key=len)) if name.lower().endswith(e)), None)


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith(NIFTI_ENDINGS)


def read_geometry(path: Path) -> Geometry:
    """The grid of an image file, from its header alone.

    Raises:
        ScanError: not a 3D scalar image with finite, positive spacing, or its header can't be read.
    """

    def read() -> Geometry:
        if is_nifti(path):
            check_nifti_header(path)
        geometry = read_itk_geometry(path)
        _check_geometry(geometry)
        return geometry

    return _without_os_errors(read)


def check_image_file(path: Path) -> tuple[tuple[int, int, int], Triple]:
    """Shape in voxels and spacing in mm of an image file, both (z, y, x), from its header alone.

    Raises:
        ScanError: as :func:`read_geometry`.
    """
    geometry = read_geometry(path)
    return geometry.shape, geometry.spacing_zyx


def read_image_file(path: Path) -> tuple[np.ndarray, dict]:
    """Read and verify one volume.

    Args:
        path: a file with one of :data:`ENDINGS`.

    Returns:
        The voxels, float32 (Z, Y, X), with the file's intensity scaling applied, and the properties that nnU-Net's
        SimpleITKIO gives for it.

    Raises:
        ScanError: the header is unusable, the data are damaged or truncated, or the values are constant or not finite.
    """
    # A damaged NIfTI is best explained by its checksum; the others need a sound header before their data are verified.
    if is_nifti(path):
        voxels = _without_os_errors(lambda: read_nifti(path))
        geometry = read_geometry(path)
    else:
        geometry = read_geometry(path)
        voxels = _without_os_errors(lambda: _read_verified(path))
    if voxels.shape != geometry.shape:
        raise ScanError(f"its data have the shape {voxels.shape}, its header says {geometry.shape} (z, y, x)")
    check_values(voxels)
    return voxels, geometry.properties()


def _read_verified(path: Path) -> np.ndarray:
    verify_itk_data(path)
    return read_itk(path)


def check_values(voxels: np.ndarray) -> None:
    """Raise ScanError for voxels that nothing can be learned from: NaN, Inf, or one value everywhere."""
    lowest, highest = voxels.min(), voxels.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        count = voxels.size - int(np.isfinite(voxels).sum())
        raise ScanError(f"{count} of {voxels.size} voxels are NaN or infinite")
    if lowest == highest:
        raise ScanError(f"every voxel has the same value ({lowest:g})")


def _check_geometry(geometry: Geometry) -> None:
    if not all(math.isfinite(v) for v in (*geometry.spacing, *geometry.origin, *geometry.direction)):
        raise ScanError("its header has a position, direction or spacing that is not a finite number")
    if min(geometry.spacing) <= 0:
        raise ScanError(f"voxel spacing {geometry.spacing_zyx} mm (z, y, x) is not positive")
    if min(geometry.size) < 2:
        raise ScanError(f"2D: shape {geometry.shape} (z, y, x) has an axis of one voxel; a volume is needed")


def _without_os_errors(read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError as e:
        raise ScanError(f"can't be read: {e.strerror or type(e).__name__}") from e
