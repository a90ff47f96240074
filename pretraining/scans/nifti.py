"""NIfTI through nibabel, because SimpleITK fills a truncated file with zeros and reports success."""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from pretraining.scans.scan import ScanError, Triple

_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_MOST = 1032  # times that gzip can shrink data
_CHUNK = 1 << 20
_HEADER = nibabel.Nifti1Header.sizeof_hdr
_HEADER_AND_MORE = 1 << 20  # bytes before the voxels of an .img: usually none
_FIRST_VOXEL = nibabel.Nifti1Header.single_vox_offset  # behind the header and four bytes that tell of extensions


def read_gzip(file: Path | BinaryIO, wanted: int) -> tuple[bytes, bool]:
    """The first ``wanted`` bytes of a gzip stream, and whether something lies behind it. Verifies all of the stream.

    Raises:
        gzip.BadGzipFile, EOFError, zlib.error: it is damaged or truncated.
    """
    with gzip.open(file) as stream:
        raw = stream.read(wanted)
        try:
            while stream.read(_CHUNK):  # CRC and length are verified at the end; keep nothing of what may follow
                pass
        except gzip.BadGzipFile as e:
            if not str(e).startswith("Not a gzipped file"):
                raise
            return raw, True  # the stream was whole, and what follows is none
    return raw, False


def check_nifti_header(path: Path) -> int:
    """Raise ScanError unless the header describes a 3D scalar volume that the file can hold. Reads no voxels.

    A fourth axis of length one counts as 3D.

    Returns:
        The bytes of header and voxels, unpacked.

    Raises:
        ScanError: see above.
        OSError: the file can't be opened.
    """
    zipped = is_gzip(path)
    if zipped and not path.name.lower().endswith(".gz"):
        raise ScanError("holds gzip data, which SimpleITK, and so nnU-Net, can't read under this name: name it .nii.gz")
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(_HEADER)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise ScanError("the gzip data are damaged or truncated") from e
    header = _parse(head)
    if header["magic"] != b"n+1":  # nibabel would log what stands there
        raise ScanError("not a NIfTI file of header and voxels in one")
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


def check_pair(path: Path, verify: bool = False) -> tuple[bool, Path]:
    """Raise ScanError unless a ``.hdr`` describes a 3D scalar volume that the ``.img`` beside it can hold.

    Args:
        path: the ``.hdr``.
        verify: unpack a packed ``.img``, to the end.

    Returns:
        Whether it is NIfTI (else it is Analyze, which knows of no orientation), and the file of voxels.

    Raises:
        ScanError: see above.
        OSError: a file can't be opened.
    """
    with path.open("rb") as file:
        header = _parse(file.read(_HEADER))
    nifti = header["magic"] == b"ni1"
    if not nifti:  # what these fields hold is a name
        header["qform_code"] = header["sform_code"] = 0
    _check_fields(header)
    stem = path.name[: -len(".hdr")]
    data = next((f for e in (".img", ".IMG", ".img.gz") if (f := path.parent / f"{stem}{e}").is_file()), None)
    begin = float(header["vox_offset"])
    if data is None or not 0 <= begin < _HEADER_AND_MORE:
        raise ScanError(f"there is no {stem}.img beside it" if data is None else f"its voxels begin at byte {begin:g}")
    needed = int(begin) + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    found = data.stat().st_size * (_DEFLATE_MOST if is_gzip(data) else 1)
    try:
        if verify and found >= needed and is_gzip(data):
            found = len(read_gzip(data, needed)[0])
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise ScanError("the gzip data are damaged or truncated") from e
    if found < needed:
        raise ScanError(f"truncated: {data.name} holds at most {found} bytes, its header needs {needed}")
    return nifti, data


def nifti_affine(path: Path) -> tuple[np.ndarray, tuple[int, int, int], Triple]:
    """Read the affine (4, 4) of a checked NIfTI file, RAS, mm, its size and its spacing (x, y, z)."""
    with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
        header = _parse(file.read(_HEADER))
    nx, ny, nz = header.get_data_shape()[:3]
    x, y, z = (float(s) for s in header["pixdim"][1:4])
    return header.get_best_affine(), (nx, ny, nz), (x, y, z)


def read_nifti(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read the voxels of a NIfTI file, float32 (Z, Y, X), with scl_slope and scl_inter applied, and remarks.

    Raises:
        ScanError: as :func:`check_nifti_header`, the gzip checksum or length is wrong, or the file ends early.
        OSError: the file can't be opened.
    """
    needed = check_nifti_header(path)
    try:
        if is_gzip(path):
            raw, more = read_gzip(path, needed)
        else:
            with path.open("rb") as file:
                raw, more = file.read(needed), False
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise ScanError("the gzip data are damaged or truncated") from e
    try:
        data = _scaled(nibabel.Nifti1Image.from_bytes(raw).dataobj)
    except (OSError, ValueError, OverflowError, ImageFileError, HeaderDataError) as e:
        raise ScanError("truncated: the data end before the header says") from e
    return _zyx(data), ["bytes behind its gzip stream were ignored"] if more else []


def read_pair(header: Path, data: Path) -> np.ndarray:
    """Read the voxels of a NIfTI pair that :func:`check_pair` has seen, float32 (Z, Y, X), scaled."""
    files = {"header": FileHolder(str(header)), "image": FileHolder(str(data))}
    try:
        return _zyx(_scaled(nibabel.Nifti1Pair.from_file_map(files).dataobj))
    except (ValueError, OverflowError, ImageFileError, HeaderDataError) as e:
        raise ScanError("its NIfTI header can't be understood") from e


def _zyx(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data.reshape(data.shape[:3]).T, dtype=np.float32)


def _scaled(data: ArrayProxy) -> np.ndarray:
    if (data.slope, data.inter) == (1, 0):
        return data.get_unscaled()
    return np.asarray(data, dtype=np.float64)


def is_gzip(path: Path) -> bool:
    """Tell by a file's content; a plain file may be named .gz."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


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
        raise ScanError(f"{len(shape)}D, shape {shape} (x, y, z, ...): save each volume as a file of its own "
                        "(MSD's: nnUNetv2_convert_MSD_dataset)")  # fmt: skip
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
