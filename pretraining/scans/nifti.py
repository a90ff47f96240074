"""NIfTI through nibabel, because SimpleITK fills a truncated file with zeros and reports success."""

import gzip
import io
import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from pretraining.scans.scan import ScanError

_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_MOST = 1032  # times that gzip can shrink data
_CHUNK = 1 << 20
_HEADER = nibabel.Nifti1Header.sizeof_hdr
_FIRST_VOXEL = nibabel.Nifti1Header.single_vox_offset  # behind the header and four bytes that tell of extensions


def check_nifti_header(path: Path) -> int:
    """Raise ScanError unless the header describes a 3D scalar volume that the file can hold. Reads no voxels.

    A fourth axis of length one counts as 3D.

    Returns:
        The bytes of header and voxels, unpacked.

    Raises:
        ScanError: see above.
        OSError: the file can't be opened.
    """
    zipped = _is_gzip(path)
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(_HEADER)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise ScanError("the gzip data are damaged or truncated") from e
    header = _parse(head)
    _check_fields(header)
    begin = float(header["vox_offset"])
    if not begin >= _FIRST_VOXEL or math.isinf(begin):
        raise ScanError(f"its NIfTI header has the voxels begin at byte {begin:g}; at least {_FIRST_VOXEL} is needed")
    needed = int(begin) + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    size = path.stat().st_size
    if zipped and size * _DEFLATE_MOST < needed:
        raise ScanError(f"the gzip data are damaged or truncated: {size} bytes can't hold the {needed} of its header")
    if not zipped and size < needed:
        raise ScanError(f"truncated: {size} bytes, the header needs {needed}")
    return needed


def read_nifti(path: Path) -> np.ndarray:
    """Voxels of a NIfTI file, float32 (Z, Y, X), with scl_slope and scl_inter applied.

    Raises:
        ScanError: as :func:`check_nifti_header`, the gzip checksum or length is wrong, or the file ends early.
        OSError: the file can't be opened.
    """
    needed = check_nifti_header(path)
    try:
        with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
            raw = file.read(needed)
            while file.read(_CHUNK):  # CRC and length are verified at the end; keep nothing of what may follow
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise ScanError("the gzip data are damaged or truncated") from e
    try:
        data = _scaled(nibabel.Nifti1Image.from_bytes(raw).dataobj)
    except (OSError, ValueError, OverflowError, ImageFileError, HeaderDataError) as e:
        raise ScanError("truncated: the data end before the header says") from e
    return np.ascontiguousarray(data.reshape(data.shape[:3]).T, dtype=np.float32)


def _scaled(data: ArrayProxy) -> np.ndarray:
    if (data.slope, data.inter) == (1, 0):
        return data.get_unscaled()
    return np.asarray(data, dtype=np.float64)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        found = file.read(2) == _GZIP_MAGIC
    if not found and path.name.lower().endswith(".gz"):
        raise ScanError("ends in .gz but is not a gzip file")
    return found


def _parse(head: bytes) -> nibabel.Nifti1Header:
    size = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    if nibabel.Nifti2Header.sizeof_hdr in size:
        raise ScanError("NIfTI-2, which SimpleITK, and so nnU-Net, can't read: save it as NIfTI-1")
    if _HEADER not in size or len(head) < _HEADER:
        raise ScanError("not a NIfTI file")
    try:
        header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(head), check=False)
    except (HeaderDataError, WrapStructError, ValueError) as e:
        raise ScanError("its NIfTI header can't be understood") from e
    if header["magic"] != b"n+1":  # nibabel would log what stands there
        raise ScanError("not a NIfTI file of header and voxels in one")
    return header


def _check_fields(header: nibabel.Nifti1Header) -> None:
    try:
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
    except (HeaderDataError, KeyError) as e:
        raise ScanError("its NIfTI header names an unknown data type") from e
    if dtype.kind not in "iuf":
        raise ScanError(f"{'complex' if dtype.kind == 'c' else 'colour (RGB)'} values: one number per voxel is needed")
    if len(shape) < 3 or min(shape) < 1:
        raise ScanError(f"{len(shape)}D, shape {shape}: a volume is needed")
    if math.prod(shape[3:]) > 1:
        raise ScanError(f"{len(shape)}D, shape {shape} (x, y, z, ...): save each volume as a file of its own")
    spacing = [float(s) for s in header["pixdim"][1:4]]
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ScanError(f"voxel spacing {tuple(spacing)} mm (x, y, z) is not positive and finite")
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # NIfTI-1: 0 counts as 1
    try:
        affine = header.get_best_affine()
    except ValueError as e:  # a quaternion longer than 1
        raise ScanError("its NIfTI header has no valid direction of the axes") from e
    if not np.isfinite(affine).all():
        raise ScanError("its header has a position or direction that is not a finite number")
