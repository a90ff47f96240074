"""NIfTI, MetaImage, NRRD: healthy files equal what nnU-Net reads, damaged ones are refused with the right reason."""

import gzip
import io
import re
import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.spatial.transform import Rotation

from pretraining.scans.image_files import data_files, read_geometry, read_image_file
from pretraining.scans.scan import ScanError

REAL = [
    "ct_unlabeled/kits_00072_partial.nii.gz",
    "ct_unlabeled/ts_aorta_ctcrop.nii.gz",
    "mr_unlabeled/fnndsc_adi_t2.nii.gz",
    "Dataset004_Hippocampus/imagesTr/hippocampus_001_0000.nii.gz",
    "Dataset027_ACDC/imagesTr/patient001_frame01_0000.nii.gz",
    "Dataset008_BrainTumour/imagesTr/brats15_pat0001_1_0001.nii.gz",
]
ITK_FILES = [("a.mha", False), ("a.mha", True), ("a.mhd", False), ("a.mhd", True), ("a.nrrd", False), ("a.nrrd", True)]


def volume(dtype: type = np.int16) -> np.ndarray:
    """Noise, shape (7, 8, 9); compressible only a little, so that files can be cut anywhere."""
    return np.random.default_rng(0).integers(0, 1000, (7, 8, 9)).astype(dtype)


def save_nifti(path: Path, array: np.ndarray, **header: object) -> Path:
    """Save an array as it is, with header fields set after nibabel has written its own."""
    image = nibabel.Nifti1Image(array, np.diag([2.0, 3.0, 4.0, 1.0]))
    for field, value in header.items():
        image.header[field] = value
    raw = bytearray(image.to_bytes())
    fields = nibabel.Nifti1Header.from_fileobj(io.BytesIO(raw), check=False)
    for field, value in header.items():
        fields[field] = value
    raw[:348] = fields.binaryblock
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


def refuses(path: Path, pattern: str) -> None:
    """Reading fails with a reason."""
    with pytest.raises(ScanError, match=pattern):
        read_image_file(path)


def header_refuses(path: Path, pattern: str) -> None:
    """The header alone is enough to see it."""
    with pytest.raises(ScanError, match=pattern):
        read_geometry(path)


@pytest.mark.parametrize("name", REAL)
def test_real_scan_equals_what_nnunet_reads(data, name):
    voxels, properties = read_image_file(data / name)
    expected, expected_properties = SimpleITKIO().read_images([str(data / name)])
    assert voxels.dtype == np.float32
    assert voxels.flags.c_contiguous
    assert np.array_equal(voxels, expected)
    assert properties == expected_properties
    assert read_geometry(data / name).properties() == properties


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("scaling", [(1, 0), (2.5, -1024), (0, 0), (0.1, 0)])
def test_intensity_scaling_equals_what_nnunet_reads(tmp_path, ending, scaling):
    f = save_nifti(tmp_path / f"a{ending.lower()}", volume(), scl_slope=scaling[0], scl_inter=scaling[1])
    expected, expected_properties = SimpleITKIO().read_images([str(f)])
    f = f.rename(tmp_path / f"b{ending}")
    voxels, properties = read_image_file(f)
    assert np.allclose(voxels, expected, rtol=1e-6)
    assert properties == expected_properties


def test_intensity_scaling_without_an_intercept(tmp_path):
    header_refuses(save_nifti(tmp_path / "a.nii", volume(), scl_slope=2, scl_inter=np.nan), "intercept .* is nan")


@pytest.mark.parametrize("affine", ["oblique", "flipped"])
def test_orientation_equals_what_nnunet_reads(tmp_path, affine):
    angle = np.radians(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = (rotation if affine == "oblique" else np.diag([-1, 1, -1])) * [1.5, 0.5, 3]
    matrix[:3, 3] = 10, -20, 30
    nibabel.save(nibabel.Nifti1Image(volume(), matrix), tmp_path / "a.nii.gz")
    voxels, properties = read_image_file(tmp_path / "a.nii.gz")
    expected, expected_properties = SimpleITKIO().read_images([str(tmp_path / "a.nii.gz")])
    assert np.array_equal(voxels, expected)
    assert properties == expected_properties


def test_nifti2_is_refused_because_nnunet_cannot_read_it(tmp_path):
    nibabel.save(nibabel.Nifti2Image(volume(), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(RuntimeError):
        SimpleITKIO().read_images([str(tmp_path / "a.nii.gz")])
    header_refuses(tmp_path / "a.nii.gz", "NIfTI-2")


def test_singleton_fourth_axis_is_3d(tmp_path):
    f = save_nifti(tmp_path / "a.nii.gz", volume()[..., None])
    voxels, properties = read_image_file(f)
    assert voxels.shape == (1, 9, 8, 7)
    assert properties["spacing"] == [4, 3, 2]


@pytest.mark.parametrize(
    ("array", "pattern"),
    [
        (np.stack([volume()] * 3, -1)[..., None, :], r"5D, shape \(7, 8, 9, 1, 3\)"),
        (volume()[:, :, 0], "2D"),
        (volume()[:, :, :1], "2D"),
        (volume()[:1], "2D"),
        (volume(np.complex64), "complex"),
        (np.zeros((7, 8, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
    ],
)
def test_no_scalar_volume(tmp_path, array, pattern):
    header_refuses(save_nifti(tmp_path / "a.nii.gz", array), pattern)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_spacing_must_be_positive_and_finite(tmp_path, bad):
    header_refuses(save_nifti(tmp_path / "a.nii.gz", volume(), pixdim=[1, 2, bad, 4, 0, 0, 0, 0]), "spacing")


def test_affine_must_be_finite(tmp_path):
    header_refuses(save_nifti(tmp_path / "a.nii", volume(), srow_x=[1, 0, 0, np.nan], sform_code=1), "finite")


@pytest.mark.parametrize(("pixdim", "read"), [((1, 1, 1), False), ((2, 3, 4.1), True), ((2, 3, 5), False)])
def test_spacing_that_contradicts_the_sform(tmp_path, pixdim, read):
    path = save_nifti(tmp_path / "a.nii", volume(), pixdim=[1, *pixdim, 0, 0, 0, 0], qform_code=0, sform_code=1)
    if read:
        assert read_geometry(path).spacing == pytest.approx(pixdim)
    else:
        header_refuses(path, r"contradicts itself: voxels of .* mm \(pixdim\), and of 2 x 3 x 4 mm \(sform\)")


def test_sheared_affine(tmp_path):
    shear = np.eye(4)
    shear[0, 1] = 0.5
    image = nibabel.Nifti1Image(volume(), shear)
    image.header.set_qform(None, 0)
    nibabel.save(image, tmp_path / "a.nii")
    header_refuses(tmp_path / "a.nii", "right angles|can't read")


def test_values_that_are_not_finite_are_counted(tmp_path):
    array = volume(np.float32)
    array[0, 0, :2] = np.nan, np.inf
    refuses(save_nifti(tmp_path / "a.nii.gz", array), "2 of 504 voxels are NaN or infinite")


def test_constant_image(tmp_path):
    refuses(save_nifti(tmp_path / "a.nii.gz", np.full((7, 8, 9), 3, np.int16)), r"same value \(3\)")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
def test_truncated_gzip(data, tmp_path, share):
    raw = (data / REAL[0]).read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(raw[: int(len(raw) * share)])
    refuses(tmp_path / "a.nii.gz", "gzip data are damaged or truncated")


def test_gzip_without_its_checksum(data, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes((data / REAL[3]).read_bytes()[:-8])
    refuses(tmp_path / "a.nii.gz", "gzip data are damaged or truncated")


def test_gzip_with_wrong_checksum(data, tmp_path):
    raw = bytearray((data / REAL[3]).read_bytes())
    raw[-8:-4] = struct.pack("<L", struct.unpack("<L", raw[-8:-4])[0] ^ 1)
    (tmp_path / "a.nii.gz").write_bytes(raw)
    refuses(tmp_path / "a.nii.gz", "gzip data are damaged or truncated")


def test_gzip_with_one_bit_flipped(data, tmp_path):
    raw = bytearray((data / REAL[3]).read_bytes())
    raw[len(raw) // 2] ^= 4
    (tmp_path / "a.nii.gz").write_bytes(raw)
    refuses(tmp_path / "a.nii.gz", "gzip data are damaged or truncated")


def test_healthy_gzip_of_a_truncated_nifti(tmp_path):
    raw = save_nifti(tmp_path / "b.nii", volume()).read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw[:-100]))
    refuses(tmp_path / "a.nii.gz", "truncated")


def test_truncated_plain_nifti_is_seen_from_its_size(tmp_path):
    f = save_nifti(tmp_path / "a.nii", volume())
    f.write_bytes(f.read_bytes()[:-1])
    header_refuses(f, "truncated: a.nii has 1359 bytes, its header needs 1360")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd"])
@pytest.mark.parametrize("content", [b"", b"no image", b"\x5c\x01\x00\x00" * 200])
def test_other_content_under_an_image_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    header_refuses(tmp_path / name, "NIfTI|MetaImage|gzip|can't read|colour")


def test_gz_that_is_no_gzip(tmp_path):
    (tmp_path / "b").mkdir()
    f = save_nifti(tmp_path / "a.nii", volume()).rename(tmp_path / "a.nii.gz")
    equals_clean_copy(f, tmp_path / "b" / "a.nii.gz")
    assert read_geometry(f).corrections == ("named .gz, but not compressed",)
    f.write_bytes(f.read_bytes()[:-1])
    header_refuses(f, "truncated")


def test_plain_name_of_gzip_data(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", volume()).rename(tmp_path / "a.nii")
    header_refuses(tmp_path / "a.nii", "name it .nii.gz")


@pytest.mark.parametrize("behind", [b"garbage", bytes(600), b"\x1f", b"<html>" * 1000])
def test_bytes_behind_a_gzip_stream(tmp_path, behind):
    f = save_nifti(tmp_path / "a.nii.gz", volume())
    f.write_bytes(f.read_bytes() + behind)
    voxels, properties = read_image_file(f)
    assert np.array_equal(voxels[0], volume().T)
    assert properties.get("remarks") == (["bytes behind its gzip stream were ignored"] if any(behind) else None)
    f.write_bytes(gzip.compress(b"half of it") + behind)
    refuses(f, "not a NIfTI file|damaged")


def test_damage_before_bytes_behind_a_gzip_stream(tmp_path):
    f = save_nifti(tmp_path / "a.nii.gz", volume())
    raw = bytearray(f.read_bytes())
    raw[-8] ^= 4
    f.write_bytes(raw + b"garbage")
    refuses(f, "damaged or truncated")


def shear(degrees: float) -> np.ndarray:
    """Two axes of an oblique grid, their angle off a right one by so much; as columns, RAS."""
    turn = Rotation.from_euler("xyz", (5, 10, 15), degrees=True).as_matrix()
    skewed = np.eye(3)
    skewed[:2, 1] = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return turn @ skewed


def save_sheared(path: Path, degrees: float) -> Path:
    """In the format that the name says, spacing 2, 3, 4 mm (x, y, z)."""
    axes = shear(degrees)
    if ".nii" in path.name or path.suffix == ".hdr":
        affine = np.eye(4)
        affine[:3, :3] = axes * [2, 3, 4]
        image = (nibabel.Nifti1Pair if path.suffix == ".hdr" else nibabel.Nifti1Image)(volume(), affine)
        image.header.set_qform(None, 0)
        image.header.set_sform(affine, 1)
        nibabel.save(image, path)
        return path
    image = SimpleITK.GetImageFromArray(volume().T)
    image.SetSpacing((2, 3, 4))
    image.SetDirection((np.diag([-1, -1, 1]) @ axes).ravel().tolist())
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.hdr", "a.mha", "a.nrrd"])
@pytest.mark.parametrize("degrees", [0.017, 0.3, 1.0])
def test_rounded_axes_become_the_nearest_right_ones(tmp_path, name, degrees):
    geometry = read_geometry(save_sheared(tmp_path / name, degrees))
    found = np.reshape(geometry.direction, (3, 3))
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-6)
    right = np.diag([-1, -1, 1]) @ shear(0)
    assert np.degrees(np.arccos((found * right).sum(0).min().clip(-1, 1))) == pytest.approx(degrees / 2, rel=0.05)
    assert f"{degrees:.2g} degrees off a right angle" in geometry.corrections[0]
    np.testing.assert_allclose(geometry.spacing, (2, 3, 4), rtol=1e-3)
    voxels, properties = read_image_file(tmp_path / name)
    assert np.array_equal(voxels[0], volume().T)
    assert properties["sitk_stuff"]["direction"] == geometry.direction


@pytest.mark.parametrize(("unit", "length"), [("meter", 1e-3), ("micron", 1e3), ("unknown", 1)])
def test_rounded_axes_in_other_units(tmp_path, unit, length):
    found = []
    for degrees in (0, 0.3):  # SimpleITK reads the first itself
        affine = np.eye(4)
        affine[:3] = np.column_stack([shear(degrees) * [2, 3, 4], [10, 20, 30]]) * length
        image = nibabel.Nifti1Image(volume(), affine)
        image.set_qform(None, 0)
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / f"{degrees}.nii")
        found.append(read_geometry(tmp_path / f"{degrees}.nii"))
    np.testing.assert_allclose(found[1].spacing, found[0].spacing, rtol=1e-3)
    np.testing.assert_allclose(found[1].origin, found[0].origin, rtol=1e-3)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.hdr", "a.mha", "a.nrrd"])
@pytest.mark.parametrize("degrees", [2, 20])
def test_real_shear_is_refused(tmp_path, name, degrees):
    header_refuses(save_sheared(tmp_path / name, degrees), "right angles")


def equals_clean_copy(path: Path, clean: Path) -> None:
    """The volume of this module, 2 × 3 × 4 mm, read as nnU-Net reads it in NIfTI."""
    expected, expected_properties = SimpleITKIO().read_images([str(save_nifti(clean, volume()))])
    voxels, properties = read_image_file(path)
    assert np.array_equal(voxels, expected)
    assert properties["spacing"] == expected_properties["spacing"]


def write_raw(folder: Path, header: str, name: str, data: bytes) -> Path:
    """A text header, and data beside it."""
    (folder / name).write_text(header)
    (folder / "a.raw").write_bytes(data)
    (folder / "a.raw.gz").write_bytes(gzip.compress(data))
    for i, layer in enumerate(volume().T):
        (folder / f"{i}.raw").write_bytes(layer.tobytes())
    return folder / name


NHDR = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 7 8 9
space directions: (2,0,0) (0,3,0) (0,0,4)
endian: little
"""
MHD = """ObjectType = Image
NDims = 3
DimSize = 7 8 9
ElementType = MET_SHORT
ElementByteOrderMSB = False
ElementSpacing = 2 3 4
"""
LAYERS = "".join(f"{i}.raw\n" for i in range(9))


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.nhdr", f"{NHDR}encoding: raw\ndata file: a.raw\n"),
        ("a.nhdr", f"{NHDR}encoding: raw\ndata file: ./a.raw\n\n"),
        ("a.nhdr", f"{NHDR}encoding: gzip\ndata file: a.raw.gz\n"),
        ("a.nhdr", f"{NHDR}encoding: raw\ndata file: LIST 2\n{LAYERS}"),
        ("a.nrrd", f"{NHDR}encoding: raw\ndata file: a.raw\n\n"),
        ("a.nhdr", f"{NHDR}encoding: raw\nspacings:=none\ndata file:=/etc/passwd\ndata file: a.raw\n\n"),
        ("a.mhd", f"{MHD}ElementDataFile = ./a.raw\n"),
        ("a.mhd", f"{MHD}ElementDataFile = LIST\n{LAYERS}"),
        ("a.mhd", f"{MHD}ElementDataFile = LIST 2D\n{LAYERS}"),
    ],
)
def test_data_in_files_of_their_own(tmp_path, name, header):
    path = write_raw(tmp_path, header, name, volume().T.tobytes())
    assert data_files(path) == [tmp_path / file for file in re.findall(r"\w+\.raw(?:\.gz)?", header)]
    (tmp_path / "clean").mkdir()
    equals_clean_copy(path, tmp_path / "clean" / "a.nii")


@pytest.mark.parametrize(
    ("name", "header", "pattern"),
    [
        ("a.nhdr", f"{NHDR}encoding: raw\ndata file: ../a.raw\n", "another folder"),
        ("a.nhdr", f"{NHDR}encoding: raw\ndata file: /dev/zero\n", "another folder"),
        ("a.nhdr", f"{NHDR}encoding: raw\ndata file: LIST 2\n/dev/zero\n{LAYERS}", "another folder"),
        ("a.nhdr", f"{NHDR}encoding: raw\ndata file: %d.raw 0 8 1\n", "several files"),
        ("a.nhdr", f"{NHDR}encoding: raw\ndata file: none.raw\n", "No such file"),
        ("a.mhd", f"{MHD}ElementDataFile = ./../a.raw\n", "another folder"),
        ("a.mhd", f"{MHD}ElementDataFile = %d.raw 0 8 1\n", "several files"),
        ("a.mhd", f"{MHD}ElementDataFile = LIST\n/dev/zero\n{LAYERS}", "another folder"),
        ("a.mhd", f"{MHD}ElementDataFile = LIST\n{LAYERS[6:]}", "truncated"),
        ("a.mhd", f"{MHD}ElementDataFile = LIST\n", "truncated|can't read|ends early"),
    ],
)
def test_headers_that_lead_elsewhere(tmp_path, name, header, pattern):
    refuses(write_raw(tmp_path, header, name, volume().T.tobytes()), pattern)


@pytest.mark.parametrize("header", ["encoding: raw\ndata file: a.raw\n", "encoding: gzip\ndata file: a.raw.gz\n"])
def test_truncated_data_beside_an_nrrd_header(tmp_path, header):
    path = write_raw(tmp_path, NHDR + header, "a.nhdr", volume().T.tobytes())
    for f in tmp_path.glob("a.raw*"):
        f.write_bytes(f.read_bytes()[:-20])
    refuses(path, "truncated|can't read|ends early")


@pytest.mark.parametrize("kind", [nibabel.AnalyzeImage, nibabel.Spm2AnalyzeImage, nibabel.Nifti1Pair])
@pytest.mark.parametrize("zipped", [False, True])
def test_pairs(tmp_path, kind, zipped):
    nibabel.save(kind(volume(), np.diag([-2.0, -3, 4, 1])), tmp_path / "a.img")
    if zipped:
        (tmp_path / "a.img.gz").write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
        (tmp_path / "a.img").unlink()
    (tmp_path / "clean").mkdir()
    equals_clean_copy(tmp_path / "a.hdr", tmp_path / "clean" / "a.nii")
    assert ("Analyze" in str(read_geometry(tmp_path / "a.hdr").corrections)) == (kind is not nibabel.Nifti1Pair)
    data = tmp_path / ("a.img.gz" if zipped else "a.img")
    data.write_bytes(data.read_bytes()[:-20])
    (refuses if zipped else header_refuses)(tmp_path / "a.hdr", "truncated")
    data.unlink()
    header_refuses(tmp_path / "a.hdr", "no a.img beside it")


def test_hdr_of_another_kind(tmp_path):
    (tmp_path / "a.hdr").write_text("ENVI\nsamples = 7\n" * 30)
    (tmp_path / "a.img").write_bytes(bytes(3000))
    header_refuses(tmp_path / "a.hdr", "not a NIfTI file")


def test_vanished_file(tmp_path):
    refuses(tmp_path / "a.nii.gz", "No such file")


@pytest.mark.parametrize(("name", "compress"), ITK_FILES)
def test_itk_file_equals_what_nnunet_reads(tmp_path, name, compress):
    image = SimpleITK.GetImageFromArray(volume())
    image.SetSpacing((1, 2, 3))
    SimpleITK.WriteImage(image, str(tmp_path / name), compress)
    voxels, properties = read_image_file(tmp_path / name)
    expected, expected_properties = SimpleITKIO().read_images([str(tmp_path / name)])
    assert np.array_equal(voxels, expected)
    assert properties == expected_properties


def data_file(folder: Path) -> Path:
    """The file that holds the voxels: of an .mhd, the other one."""
    return next((f for f in folder.iterdir() if f.suffix in (".raw", ".zraw")), next(folder.iterdir()))


@pytest.mark.parametrize(("name", "compress"), ITK_FILES)
@pytest.mark.parametrize("lost", [1, 300])
def test_truncated_itk_file(tmp_path, capfd, name, compress, lost):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()), str(tmp_path / name), compress)
    f = data_file(tmp_path)
    f.write_bytes(f.read_bytes()[:-lost])
    refuses(tmp_path / name, "truncated|can't read")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd"])
def test_damaged_compressed_itk_file(tmp_path, name):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()), str(tmp_path / name), True)
    f = data_file(tmp_path)
    raw = bytearray(f.read_bytes())
    raw[-300] ^= 4
    f.write_bytes(raw)
    refuses(tmp_path / name, "damaged or truncated")


def test_missing_data_file(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()), str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").unlink()
    refuses(tmp_path / "a.mhd", "No such file")


def test_colour_and_2d_itk_files(tmp_path):
    colour = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colour, str(tmp_path / "c.mha"))
    header_refuses(tmp_path / "c.mha", "colour")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5), np.uint8)), str(tmp_path / "d.mha"))
    header_refuses(tmp_path / "d.mha", "2D")


def test_name_with_spaces_and_unicode(data, tmp_path):
    f = tmp_path / "Schädel тест" / "ein Bild 图像.nii.gz"
    f.parent.mkdir()
    shutil.copyfile(data / REAL[3], f)
    assert np.array_equal(read_image_file(f)[0], read_image_file(data / REAL[3])[0])
