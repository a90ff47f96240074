"""NIfTI through nibabel, because SimpleITK fills a truncated file with zeros and reports success."""

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from pretraining.scans.scan import ScanError

_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_MOST = 1032  # times that gzip can shrink data
_CHUNK = 1 << 20
_HEADER = nibabel.Nifti1Header.sizeof_hdr
_FIRST_VOXEL = nibabel.Nifti1Header.single_vox_offset  # behind the header and four bytes that tell of extensions
_SAME_SPACING = 0.05
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI or Analyze file whose header is sound."""

    header: nibabel.Nifti1Header  # (x, y, z[, channels])
    data: Path  # the file of voxels: itself, or the .img beside a .hdr
    needed: int  # bytes from that file's begin to its last voxel, unpacked
    analyze: bool  # whether it is Analyze, which knows of no orientation


def read_gzip(file: Path | BinaryIO, wanted: int) -> tuple[bytes, bool]:
    """Return the first ``wanted`` bytes of a gzip stream, all of which is verified, and whether more lies behind it.

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


def is_gzip(path: Path) -> bool:
    """Tell by a file's content; a plain file may be named .gz."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def open_nifti(path: Path) -> NiftiFile:
    """Read a ``.nii``, ``.nii.gz`` or ``.hdr``, which must describe scalar volumes that the file can hold; no voxels.

    Raises:
        ScanError: it doesn't.
        OSError: the file, or the ``.img``, can't be opened.
    """
    name, zipped = path.name.lower(), is_gzip(path)
    if zipped and not name.endswith(".gz"):
        raise ScanError("holds gzip data, which SimpleITK, and so nnU-Net, can't read under this name: name it .nii.gz")
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            header = _parse(file.read(_HEADER))
    except _DAMAGED as e:
        raise ScanError("the gzip data are damaged or truncated") from e
    pair = name.endswith(".hdr")
    analyze = pair and header["magic"] != b"ni1"
    if analyze:  # what these fields hold is a name
        header["qform_code"] = header["sform_code"] = 0
    elif not pair and header["magic"] != b"n+1":  # nibabel would log what stands there
        raise ScanError("not a NIfTI file of header and voxels in one")
    _check_fields(header)
    data = voxels_beside(path) if pair else path
    begin, least = float(header["vox_offset"]), 0 if pair else _FIRST_VOXEL
    if not least <= begin < math.inf:
        raise ScanError(f"its NIfTI header has the voxels begin at byte {begin:g}; at least {least} is needed")
    needed = int(begin) + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    size, zipped = data.stat().st_size, is_gzip(data)
    if zipped and size * _DEFLATE_MOST < needed:
        raise ScanError(f"the gzip data are damaged or truncated: {size} bytes can't hold the {needed} of its header")
    if not zipped and size < needed:
        raise ScanError(f"truncated: {data.name} has {size} bytes, its header needs {needed}")
    return NiftiFile(header, data, needed, analyze)


def read_nifti(file: NiftiFile) -> tuple[np.ndarray, bool]:
    """Read and verify the voxels, float32 (C, Z, Y, X), scl_slope and scl_inter applied; and if more lies behind them.

    Raises:
        ScanError: the gzip checksum or length is wrong, or the file ends early.
        OSError: the file can't be opened.
    """
    try:
        if is_gzip(file.data):
            raw, more = read_gzip(file.data, file.needed)
        else:
            with file.data.open("rb") as stream:
                raw, more = stream.read(file.needed), False
    except _DAMAGED as e:
        raise ScanError("the gzip data are damaged or truncated") from e
    try:
        proxy = ArrayProxy(io.BytesIO(raw), file.header)
        plain = (proxy.slope, proxy.inter) == (1, 0)
        data = proxy.get_unscaled() if plain else np.asarray(proxy, dtype=np.float64)
    except (OSError, ValueError, OverflowError, HeaderDataError) as e:
        raise ScanError("truncated: the data end before the header says") from e
    return np.ascontiguousarray(data.reshape(*data.shape[:3], -1).T, dtype=np.float32), more


def voxels_beside(path: Path) -> Path:
    """Find the ``.img`` of a ``.hdr``.

    Raises:
        ScanError: there is none.
    """
    stem = path.name[: -len(".hdr")]
    found = next((f for e in (".img", ".IMG", ".img.gz") if (f := path.parent / f"{stem}{e}").is_file()), None)
    if found is None:
        raise ScanError(f"there is no {stem}.img beside it")
    return found


def _parse(head: bytes) -> nibabel.Nifti1Header:
    size = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    if nibabel.Nifti2Header.sizeof_hdr in size:
        raise ScanError("NIfTI-2, which SimpleITK, and so nnU-Net, can't read: save it as NIfTI-1")
    if _HEADER not in size or len(head) < _HEADER:
        raise ScanError("not a NIfTI file")
    try:
        return nibabel.Nifti1Header.from_fileobj(io.BytesIO(head), check=False)
    except (HeaderDataError, WrapStructError, ValueError) as e:
        raise ScanError("its NIfTI header can't be understood") from e


def _check_fields(header: nibabel.Nifti1Header) -> None:
    try:
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
    except (HeaderDataError, KeyError) as e:
        raise ScanError("its NIfTI header names an unknown data type") from e
    if dtype.kind not in "iuf":
        raise ScanError(f"{'complex' if dtype.kind == 'c' else 'colour (RGB)'} values: one number per voxel is needed")
    try:
        header.get_slope_inter()
    except HeaderDataError as e:
        inter = header["scl_inter"]
        raise ScanError(f"its header scales intensities, but their intercept (scl_inter) is {inter}: set it") from e
    if len(shape) < 3 or min(shape) < 1 or math.prod(shape[4:]) > 1:
        raise ScanError(f"{len(shape)}D, shape {shape} (x, y, z, ...): a volume is needed")
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
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(lengths, spacing, rtol=_SAME_SPACING):
        ours, theirs = (" x ".join(f"{length:.3g}" for length in found) for found in (spacing, lengths))
        raise ScanError(f"its header contradicts itself: voxels of {ours} mm (pixdim), and of {theirs} mm (sform): "
                        "save it with the right ones")  # fmt: skip
