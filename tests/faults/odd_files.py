"""Odd NIfTI, MetaImage and NRRD files."""

import gzip
import re
import zlib
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from tests.faults.healthy import Healthy, cut, flip, write, write_nifti
from tests.faults.odd_scans import Make, Odd, as_it_is

GZ, NII, MHA, MHD, NRRD = "a.nii.gz", "a.nii", "a.mha", "a.mhd", "a.nrrd"
DAMAGED = "damaged"


def _with(scan: Healthy, value: float, count: int = 3) -> np.ndarray:
    """float32 (x, y, z) with ``value`` in a few voxels."""
    voxels = scan.voxels.T.astype(np.float32)
    voxels[0, 0, :count] = value
    return voxels


def _padded(value: int) -> tuple:
    """What scanners put outside the circle that they reconstruct; and the same scan with air there."""

    def outside(scan: Healthy) -> np.ndarray:
        _, rows, columns = scan.voxels.shape
        y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
        return np.broadcast_to(y**2 + x**2 > 1, scan.voxels.shape)

    return tuple(
        lambda scan, fill=fill: scan.with_voxels(np.where(outside(scan), fill, scan.voxels).astype(np.int16))
        for fill in (value, -1024)
    )


def _blurred(scan: Healthy) -> Healthy:
    """What lossy compression leaves of padding: many values around it."""
    noise = np.random.default_rng(0).normal(0, 60, scan.voxels.shape)
    return scan.with_voxels(np.where(scan.voxels < -1500, scan.voxels + noise, scan.voxels).astype(np.int16))


def _slope(factor: float, scan: Healthy) -> np.ndarray:
    """HU as a header with a slope that is wrong by ``factor`` gives them; float32 (x, y, z)."""
    return ((scan.voxels.T.astype(np.float32) + 1024) * factor - 1024).astype(np.float32)


def _bomb(folder: Path, scan: Healthy) -> None:
    """A healthy volume, and then 300 MB of zeros that shrink to 0.3."""
    raw = gzip.decompress(write_nifti(folder / GZ, scan).read_bytes())
    (folder / GZ).write_bytes(gzip.compress(raw + bytes(300_000_000), 1))


def _zlib_bomb(folder: Path, scan: Healthy) -> None:
    """The same in a MetaImage."""
    head, key, _ = write(folder / MHA, scan, compress=True).read_bytes().partition(b"ElementDataFile = LOCAL\n")
    packed = zlib.compress(scan.voxels.tobytes() + bytes(300_000_000), 1)
    (folder / MHA).write_bytes(re.sub(rb"DataSize = \d+", b"DataSize = %d" % len(packed), head) + key + packed)


def _inner_cut(folder: Path, scan: Healthy) -> None:
    raw = gzip.decompress(write_nifti(folder / GZ, scan).read_bytes())
    (folder / GZ).write_bytes(gzip.compress(raw[: int(len(raw) * 0.6)]))


def _sheared(folder: Path, scan: Healthy) -> None:
    affine = np.diag([5.0, 5.0, 2.5, 1])
    affine[0, 1] = 2
    image = nibabel.Nifti1Image(scan.voxels.T, affine)
    image.header.set_qform(None, 0)
    nibabel.save(image, folder / GZ)


def _flipped(scan: Healthy) -> Healthy:
    return replace(scan, direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1))


def _oblique(scan: Healthy) -> Healthy:
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    return replace(scan, direction=(c, -s, 0, s, c, 0, 0, 0, 1))


def _thin_slices(scan: Healthy) -> Healthy:
    """0.1 mm apart, and as thick as before: each slice is repeated."""
    times = round(scan.spacing[0] / 0.1)
    return replace(scan, voxels=scan.voxels.repeat(times, 0), spacing=(0.1, *scan.spacing[1:]))


def _large_voxels(scan: Healthy) -> Healthy:
    return replace(scan, spacing=(10, 10, 10))


def _spacing(name: str, new: bytes, instead: bytes = b"") -> Make:
    """The line of the header that gives the spacing is another one."""

    def make(folder: Path, scan: Healthy) -> None:
        raw = write(folder / name, scan).read_bytes()
        field = new.split(b"=" if b"=" in new else b":")[0]
        (folder / name).write_bytes(re.sub(rb"(?m)^" + field + b".*$", instead or new, raw, count=1))

    return make


def _header(name: str, old: bytes, new: bytes) -> Make:
    return lambda folder, scan: _replace(write(folder / name, scan), old, new)


def _replace(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def _data_elsewhere(target: str) -> Make:
    def make(folder: Path, scan: Healthy) -> None:
        path = write(folder / MHD, scan)
        (folder / "a.raw").rename(folder.parent / "elsewhere.raw")
        path.write_bytes(path.read_bytes().replace(b"a.raw", target.encode()))

    return make


def _detached_nrrd(folder: Path, scan: Healthy) -> None:
    path = write(folder / NRRD, scan)
    header, _, data = path.read_bytes().partition(b"\n\n")
    path.write_bytes(header + b"\ndata file: a.raw\n\n")
    (folder / "a.raw").write_bytes(data)


def _colour(folder: Path, scan: Healthy) -> None:
    image = SimpleITK.GetImageFromArray(np.stack([scan.voxels] * 3, -1).astype(np.uint8), isVector=True)
    SimpleITK.WriteImage(image, str(folder / MHA))


def _rgb(folder: Path, scan: Healthy) -> None:
    write_nifti(folder / GZ, scan, np.zeros((9, 8, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")]))


def _lose_data(folder: Path, scan: Healthy) -> None:
    write(folder / MHD, scan)
    (folder / "a.raw").unlink()


def _mr(scan: Healthy) -> np.ndarray:
    return ((scan.voxels.T.astype(np.float32) + 1024).clip(0) / 4).astype(np.int16)


_PADDED_2000, _AIR = _padded(-2000)
_PADDED_3024, _ = _padded(-3024)

ROWS = [
    # What is healthy in each format, so that the refusals below mean something.
    Odd("healthy nifti", lambda f, s: write(f / GZ, s), clean=as_it_is),
    Odd("healthy plain nifti", lambda f, s: write(f / NII, s), clean=as_it_is),
    Odd("healthy mha", lambda f, s: write(f / MHA, s, compress=True), clean=as_it_is),
    Odd("healthy mhd", lambda f, s: write(f / MHD, s), clean=as_it_is),
    Odd("healthy nrrd", lambda f, s: write(f / NRRD, s, compress=True), clean=as_it_is),
    Odd("healthy float64 nifti", lambda f, s: write(f / GZ, s, pixel=np.float64), clean=as_it_is),
    # Damage.
    Odd("nifti cut to 60 %", lambda f, s: cut(write(f / GZ, s), 0.6), DAMAGED),
    Odd("plain nifti cut to 60 %", lambda f, s: cut(write(f / NII, s), 0.6), "truncated"),
    Odd("healthy gzip of a cut nifti", _inner_cut, "truncated"),
    Odd("bit flipped in nifti.gz", lambda f, s: flip(write(f / GZ, s), -3000), DAMAGED),
    Odd("bit flipped in gzip checksum", lambda f, s: flip(write(f / GZ, s), -6), DAMAGED),
    Odd("bit flipped in nifti size of header", lambda f, s: flip(write(f / NII, s), 0), "not a NIfTI"),
    Odd("bit flipped in nifti data type", lambda f, s: write_nifti(f / GZ, s, datatype=5), "unknown data type|can't"),
    Odd("nifti claims 30000 cubed", lambda f, s: write_nifti(f / GZ, s, dim=[3, *[30000] * 3, 1, 1, 1, 1]), DAMAGED),
    Odd("nifti claims a negative axis", lambda f, s: write_nifti(f / GZ, s, dim=[3, 64, -64, 9, 1, 1, 1, 1]), "shape"),
    Odd("gzip bomb behind a healthy nifti", _bomb, clean=as_it_is),
    Odd("zlib bomb behind a healthy mha", _zlib_bomb, clean=as_it_is),
    # It is whole: its size says so, as that of a .nii does.
    Odd("gz that is no gzip", lambda f, s: write(f / NII, s).rename(f / GZ), clean=as_it_is),
    Odd("text named nii", lambda f, s: (f / NII).write_text("to be copied later"), "not a NIfTI"),
    Odd("zero bytes", lambda f, s: (f / GZ).touch(), "empty file"),
    Odd("mha cut", lambda f, s: cut(write(f / MHA, s), 0.6), "truncated|can't read"),
    Odd("compressed mha cut", lambda f, s: cut(write(f / MHA, s, True), 0.6), "truncated|can't read"),
    Odd("bit flipped in compressed mha", lambda f, s: flip(write(f / MHA, s, True), -3000), DAMAGED),
    Odd("nrrd cut", lambda f, s: cut(write(f / NRRD, s), 0.6), "truncated|can't read"),
    Odd("compressed nrrd cut", lambda f, s: cut(write(f / NRRD, s, True), 0.6), "truncated|can't read"),
    Odd("bit flipped in compressed nrrd", lambda f, s: flip(write(f / NRRD, s, True), -3000), DAMAGED),
    Odd("mha of 93 axes", _header(MHA, b"NDims = 3", b"NDims = 93"), "can't be understood"),
    Odd("mha with a zero byte in a field", _header(MHA, b"ElementSpacing", b"Element\0pacing"), "can't be understood"),
    Odd("mha with a name of 300 characters", _header(MHA, b"BinaryData =", b"Name = " + b"x" * 300 + b"\nBinaryData ="),
        "Name of more than"),
    # Data elsewhere.
    Odd("mhd without its data", _lose_data, "No such file|does not exist"),
    Odd("mhd with data in another folder", _data_elsewhere("../elsewhere.raw"), "another folder"),
    Odd("mhd naming an endless device", _data_elsewhere("/dev/zero"), "another folder"),
    # SimpleITK reads it, and so does the check of its checksum now.
    Odd("nrrd with data in another file", _detached_nrrd, clean=as_it_is),
    # Geometry.
    Odd("spacing 0", lambda f, s: write_nifti(f / GZ, s, pixdim=[1, 5, 0, 2.5, 0, 0, 0, 0]), "spacing"),
    Odd("spacing negative", lambda f, s: write_nifti(f / GZ, s, pixdim=[1, 5, -5, 2.5, 0, 0, 0, 0]), "spacing"),
    Odd("spacing nan", lambda f, s: write_nifti(f / GZ, s, pixdim=[1, 5, np.nan, 2.5, 0, 0, 0, 0]), "spacing"),
    Odd("mha spacing 0", _spacing(MHA, b"ElementSpacing = 5 0 2.5"), "spacing|can't read"),
    Odd("mha spacing negative", _spacing(MHA, b"ElementSpacing = 5 -5 2.5"), "spacing|can't read"),
    Odd("nrrd spacing 0", _spacing(NRRD, b"space directions: (5,0,0) (0,0,0) (0,0,2.5)"), "spacing|can't read"),
    Odd("nrrd without spacing", _spacing(NRRD, b"space directions: none none none"), "no voxel spacing"),
    Odd("mha without spacing", _spacing(MHA, b"ElementSpacing = "), "spacing|can't read|ends early"),
    Odd("mha that never had a spacing", _spacing(MHA, b"ElementSpacing = 1 1 1", b"Comment = x"), "no voxel spacing"),
    Odd("nrrd that never had a spacing", _spacing(NRRD, b"space directions:", b"# nothing here"), "no voxel spacing"),
    Odd("sheared axes", _sheared, "right angles|can't read"),
    Odd("flipped axis", lambda f, s: write(f / GZ, _flipped(s)), clean=_flipped),
    Odd("oblique axes", lambda f, s: write(f / GZ, _oblique(s)), clean=_oblique),
    Odd("slices 0.1 mm apart", lambda f, s: write(f / GZ, _thin_slices(s)), clean=_thin_slices),
    Odd("voxels of 10 mm", lambda f, s: write(f / GZ, _large_voxels(s)), clean=_large_voxels),
    Odd("voxels of 0.1 mm", lambda f, s: write(f / GZ, replace(s, spacing=(0.1,) * 3)), "smaller than two voxels"),
    Odd("voxels of 0.01 mm", lambda f, s: write(f / GZ, replace(s, spacing=(0.01,) * 3)), "smaller than two voxels"),
    # Not a scalar volume.
    Odd("rgb nifti", _rgb, "colour"),
    Odd("rgb mha", _colour, "colour"),
    Odd("4D", lambda f, s: write_nifti(f / GZ, s, np.stack([s.voxels.T] * 3, -1)), "4D"),
    Odd("4D of one time", lambda f, s: write_nifti(f / GZ, s, s.voxels.T[..., None]), clean=as_it_is),
    Odd("2D", lambda f, s: write_nifti(f / GZ, s, s.voxels.T[:, :, 3]), "2D"),
    Odd("axis of 1 voxel", lambda f, s: write_nifti(f / GZ, s, s.voxels.T[:, 3:4]), "axis of one voxel"),
    Odd("mha with an axis of 1 voxel", lambda f, s: write(f / MHA, s.with_voxels(s.voxels[3:4])), "axis of one voxel"),
    Odd("complex values", lambda f, s: write_nifti(f / GZ, s, s.voxels.T.astype(np.complex64)), "complex"),
    Odd("nifti-2", lambda f, s: nibabel.save(nibabel.Nifti2Image(s.voxels.T, np.eye(4)), f / GZ), "NIfTI-2"),
    # Values.
    Odd("nan", lambda f, s: write_nifti(f / GZ, s, _with(s, np.nan)), "3 of .* voxels are NaN or infinite"),
    Odd("inf", lambda f, s: write_nifti(f / GZ, s, _with(s, -np.inf)), "3 of .* voxels are NaN or infinite"),
    Odd("nan in nrrd", lambda f, s: write(f / NRRD, s.with_voxels(_with(s, np.nan).T)), "NaN or infinite"),
    Odd("constant", lambda f, s: write(f / GZ, s.with_voxels(np.full_like(s.voxels, 7))), r"same value \(7\)"),
    Odd("int8 wrapped around", lambda f, s: write(f / GZ, s, pixel=np.int8), "modality MR among CT|8 bits"),
    Odd("uint16 wrapped around", lambda f, s: write(f / GZ, s, pixel=np.uint16), "modality MR among CT"),
    Odd("slope 10", lambda f, s: write_nifti(f / GZ, s, _slope(10, s)), "Hounsfield"),
    Odd("slope 2", lambda f, s: write_nifti(f / GZ, s, _slope(2, s)), "Hounsfield"),
    Odd("slope 0.5", lambda f, s: write_nifti(f / GZ, s, _slope(0.5, s)), "Hounsfield|modality MR"),
    Odd("offset subtracted twice", lambda f, s: write_nifti(f / GZ, s, s.voxels.T - 1024), "Hounsfield|modality MR"),
    Odd("slope 0 in the header", lambda f, s: write_nifti(f / GZ, s, scl_slope=0, scl_inter=5), clean=as_it_is),
    Odd("slope nan in the header", lambda f, s: write_nifti(f / GZ, s, scl_slope=np.nan, scl_inter=0), clean=as_it_is),
    Odd("padding -2000", lambda f, s: write(f / GZ, _PADDED_2000(s)), clean=_AIR),
    Odd("padding -3024", lambda f, s: write(f / GZ, _PADDED_3024(s)), clean=_AIR),
    Odd("padding -2000 after lossy compression", lambda f, s: write(f / GZ, _blurred(_PADDED_2000(s))), clean=_AIR),
    Odd("mr among ct", lambda f, s: write_nifti(f / GZ, s, _mr(s)), "modality MR among CT"),
]  # fmt: skip
