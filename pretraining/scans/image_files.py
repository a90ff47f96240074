"""Image files that hold one volume each: NIfTI, Analyze, MetaImage, NRRD. Stricter than SimpleITK, else equal to it."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.linalg import polar

from pretraining.scans.itk_files import SHEARED, read_itk, read_itk_geometry, verify_itk_data
from pretraining.scans.nifti import check_nifti_header, check_pair, is_gzip, nifti_affine, read_nifti, read_pair
from pretraining.scans.scan import Geometry, ScanError, Triple

NIFTI_ENDINGS = (".nii", ".nii.gz")
PAIR = ".hdr"
ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
ENDINGS = tuple(sorted((*NIFTI_ENDINGS, *ITK_ENDINGS, PAIR), key=len, reverse=True))
# Sines of how far axes are off a right angle: below the first they stay as SimpleITK gives them; up to the second they
# are rounded ones (four decimals make 0.01 degrees of it, chains of tools more).
_EXACT, _MOST_SHEAR = 1e-4, math.sin(math.radians(1.25))

T = TypeVar("T")


def ending_of(name: str) -> str | None:
    """The supported ending of a file name, in lower case, or None."""
    return next((e for e in ENDINGS if name.lower().endswith(e)), None)


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith(NIFTI_ENDINGS)


def read_geometry(path: Path) -> Geometry:
    """The grid of an image file, from its header alone.

    Raises:
        ScanError: not a 3D scalar image with finite, positive spacing, or its header can't be read.
    """

    def read() -> Geometry:
        remarks = []
        if is_nifti(path):
            check_nifti_header(path)
            if path.name.lower().endswith(".gz") and not is_gzip(path):
                remarks = ["named .gz, but not compressed"]
        elif path.name.lower().endswith(PAIR) and not check_pair(path)[0]:
            remarks = ["Analyze: its header has no orientation, so its axes were taken for the patient's"]
        try:
            geometry = read_itk_geometry(path)
        except ScanError as e:
            if str(e) != SHEARED or not path.name.lower().endswith((*NIFTI_ENDINGS, PAIR)):
                raise
            geometry = _nifti_geometry(path)
        _check_geometry(geometry)
        geometry = _at_right_angles(geometry)
        return replace(geometry, corrections=(*remarks, *geometry.corrections))

    return _without_os_errors(read)


def _nifti_geometry(path: Path) -> Geometry:
    """Read the grid of a NIfTI file whose axes SimpleITK refuses."""
    affine, size, spacing = nifti_affine(path)
    affine = np.diag([-1, -1, 1, 1]) @ affine  # RAS to LPS
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    origin = affine[:3, 3].tolist()
    return Geometry(size, spacing, (origin[0], origin[1], origin[2]), tuple(axes.ravel().tolist()))


def _at_right_angles(geometry: Geometry) -> Geometry:
    """Take the nearest orthonormal directions where rounding has turned the axes a little.

    Raises:
        ScanError: more than a little.
    """
    axes = np.reshape(geometry.direction, (3, 3))
    axes = axes / np.linalg.norm(axes, axis=0)
    shear = np.abs(axes.T @ axes - np.eye(3)).max()
    if not shear <= _MOST_SHEAR:
        raise ScanError(SHEARED)
    if shear < _EXACT:
        return geometry
    degrees = math.degrees(math.asin(shear))
    text = f"its axes are {degrees:.2g} degrees off a right angle: the nearest orthonormal ones were taken"
    return replace(geometry, direction=tuple(polar(axes)[0].ravel().tolist()), corrections=(text,))


def check_image_file(path: Path) -> tuple[tuple[int, int, int], Triple]:
    """Shape in voxels and spacing in mm of an image file, both (z, y, x), from its header alone.

    Raises:
        ScanError: as :func:`read_geometry`.
    """
    geometry = read_geometry(path)
    return geometry.shape, geometry.spacing_zyx


def read_image_file(path: Path, may_be_constant: bool = False) -> tuple[np.ndarray, dict]:
    """Read and verify one volume.

    Args:
        path: a file with one of :data:`ENDINGS`.
        may_be_constant: whether one value everywhere is allowed: a modality that a case lacks.

    Returns:
        The voxels, float32 (Z, Y, X), with the file's intensity scaling applied, and the properties that nnU-Net's
        SimpleITKIO gives for it; besides ``remarks``, if there are any.

    Raises:
        ScanError: the header is unusable, the data are damaged or truncated, or the values are constant or not finite.
    """
    # A damaged NIfTI is best explained by its checksum; the others need a sound header before their data are verified.
    remarks: list[str] = []
    if is_nifti(path):
        voxels, remarks = _without_os_errors(lambda: read_nifti(path))
        geometry = read_geometry(path)
    else:
        geometry = read_geometry(path)
        voxels = _without_os_errors(lambda: _read_verified(path))
    if voxels.shape != geometry.shape:
        raise ScanError(f"its data have the shape {voxels.shape}, its header says {geometry.shape} (z, y, x)")
    check_values(voxels, may_be_constant)
    return voxels, geometry.properties() | ({"remarks": remarks} if remarks else {})


def _read_verified(path: Path) -> np.ndarray:
    if path.name.lower().endswith(PAIR):
        nifti, data = check_pair(path, verify=True)
        return read_pair(path, data) if nifti else read_itk(path)
    verify_itk_data(path)
    return read_itk(path)


def check_values(voxels: np.ndarray, may_be_constant: bool = False) -> None:
    """Raise ScanError for voxels that nothing can be learned from: NaN, Inf, or one value everywhere."""
    lowest, highest = voxels.min(), voxels.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        count = voxels.size - int(np.isfinite(voxels).sum())
        raise ScanError(f"{count} of {voxels.size} voxels are NaN or infinite")
    if lowest == highest and not may_be_constant:
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
