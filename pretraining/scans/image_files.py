"""Image files of one volume, or of several channels: NIfTI, Analyze, MetaImage, NRRD. As SimpleITK, but stricter."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.linalg import polar

from pretraining.scans.itk_files import SHEARED, data_names, read_itk, read_itk_geometry, verify_itk_data
from pretraining.scans.nifti import NiftiFile, is_gzip, open_nifti, read_nifti, voxels_beside
from pretraining.scans.scan import Geometry, ScanError

NIFTI_ENDINGS = (".nii.gz", ".nii", ".hdr")  # and Analyze
ENDINGS = (*NIFTI_ENDINGS, ".mha", ".mhd", ".nrrd", ".nhdr")
_MM = {1: 1e3, 3: 1e-3}  # of NIfTI's codes for metres and micrometres
# Sines of how far axes are off a right angle: below the first they stay as SimpleITK gives them; up to the second they
# are rounded ones (four decimals make 0.01 degrees of it, chains of tools more).
_EXACT, _MOST_SHEAR = 1e-4, math.sin(math.radians(1.25))


def ending_of(name: str) -> str | None:
    """Return the supported ending of a file name, in lower case, or None."""
    return next((e for e in ENDINGS if name.lower().endswith(e)), None)


def data_files(path: Path) -> list[Path]:
    """Find the files beside a header that hold its voxels; none if they follow it, or aren't there."""
    ending = ending_of(path.name)
    try:
        if ending in NIFTI_ENDINGS:
            return [voxels_beside(path)] if ending == ".hdr" else []
        return [path.parent / name for name in data_names(path)]
    except (ScanError, OSError):  # the reader says so
        return []


def read_geometry(path: Path) -> Geometry:
    """Read the grid of an image file, from its header alone.

    Raises:
        ScanError: no 3D scalar image, or several, with finite, positive spacing; or its header can't be read.
    """
    with os_errors_in_words():
        return _geometry(path, open_nifti(path) if ending_of(path.name) in NIFTI_ENDINGS else None)


def _geometry(path: Path, nifti: NiftiFile | None) -> Geometry:
    remarks = []
    if nifti and path.name.lower().endswith(".gz") and not is_gzip(path):
        remarks = ["named .gz, but not compressed"]
    elif nifti and nifti.analyze:
        remarks = ["Analyze: its header has no orientation, so its axes were taken for the patient's"]
    try:
        geometry = read_itk_geometry(path)
    except ScanError as e:
        if str(e) != SHEARED or not nifti:
            raise
        geometry = _nifti_geometry(nifti)
    if geometry.volumes > 1 and not nifti:
        raise ScanError(f"4D, {geometry.volumes} volumes: save each as a file of its own")
    if not all(math.isfinite(v) for v in (*geometry.spacing, *geometry.origin, *geometry.direction)):
        raise ScanError("its header has a position, direction or spacing that is not a finite number")
    if min(geometry.spacing) <= 0:
        raise ScanError(f"voxel spacing {geometry.spacing_zyx} mm (z, y, x) is not positive")
    if min(geometry.size) < 2:
        raise ScanError(f"2D: shape {geometry.shape} (z, y, x) has an axis of one voxel; a volume is needed")
    geometry = _at_right_angles(geometry)
    return replace(geometry, corrections=(*remarks, *geometry.corrections))


def _nifti_geometry(nifti: NiftiFile) -> Geometry:
    """Give the grid of a NIfTI file whose axes SimpleITK refuses."""
    affine = np.diag([-1, -1, 1, 1]) @ nifti.header.get_best_affine()  # RAS to LPS
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    unit = _MM.get(int(nifti.header["xyzt_units"]) & 7, 1.0)  # as SimpleITK
    (nx, ny, nz), (x, y, z) = nifti.header.get_data_shape()[:3], (nifti.header["pixdim"][1:4] * unit).tolist()
    origin = tuple((affine[:3, 3] * unit).tolist())
    return Geometry(
        (nx, ny, nz), (x, y, z), origin, tuple(axes.ravel().tolist()), math.prod(nifti.header.get_data_shape()[3:])
    )


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


def read_image_file(path: Path, volumes: int = 1, may_be_constant: bool = False) -> tuple[np.ndarray, dict]:
    """Read and verify a file's volumes.

    Args:
        path: a file with one of :data:`ENDINGS`.
        volumes: how many it must hold: the channels of a case.
        may_be_constant: whether one value everywhere is allowed: a modality that a case lacks.

    Returns:
        The voxels, float32 (C, Z, Y, X), with the file's intensity scaling applied, and the properties that nnU-Net's
        SimpleITKIO gives for each of them; besides ``remarks``, if there are any.

    Raises:
        ScanError: the header is unusable, the data are damaged or truncated, or the values are constant or not finite.
    """
    with os_errors_in_words():
        nifti = open_nifti(path) if ending_of(path.name) in NIFTI_ENDINGS else None
        # A damaged NIfTI is best explained by its checksum; the others need a sound header before their data are read.
        voxels, more = read_nifti(nifti) if nifti else (np.array([]), False)
        geometry = _geometry(path, nifti)
        if not nifti:
            verify_itk_data(path)
        if not nifti or nifti.analyze:
            voxels = read_itk(path)
    if voxels.shape != (geometry.volumes, *geometry.shape) or geometry.volumes != volumes:
        raise ScanError(f"its data have the shape {voxels.shape}, expected {(volumes, *geometry.shape)} (c, z, y, x)")
    for channel in voxels:
        check_values(channel, may_be_constant)
    remarks = {"remarks": ["bytes behind its gzip stream were ignored"]} if more else {}
    return voxels, geometry.properties() | remarks


def check_values(voxels: np.ndarray, may_be_constant: bool = False) -> None:
    """Raise ScanError for voxels that nothing can be learned from: NaN, Inf, or one value everywhere."""
    lowest, highest = voxels.min(), voxels.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        count = voxels.size - int(np.isfinite(voxels).sum())
        raise ScanError(f"{count} of {voxels.size} voxels are NaN or infinite")
    if lowest == highest and not may_be_constant:
        raise ScanError(f"every voxel has the same value ({lowest:g})")


@contextmanager
def os_errors_in_words() -> Iterator[None]:
    """Turn what the system says of a file into a ScanError."""
    try:
        yield
    except OSError as e:
        raise ScanError(f"can't be read: {e.strerror or type(e).__name__}") from e
