"""NIfTI, MetaImage, NRRD: healthy files equal what nnU-Net reads, damaged ones are refused with the right reason."""

import gzip
import io
import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from pretraining.scans.find import ScanError
from pretraining.scans.image_files import check_image_file, read_image_file

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
        check_image_file(path)


@pytest.mark.parametrize("name", REAL)
def test_real_scan_equals_what_nnunet_reads(data, name):
    voxels, properties = read_image_file(data / name)
    expected, expected_properties = SimpleITKIO().read_images([str(data / name)])
    assert voxels.dtype == np.float32
    assert voxels.flags.c_contiguous
    assert np.array_equal(voxels, expected[0])
    assert properties == expected_properties
    assert check_image_file(data / name) == (voxels.shape, tuple(properties["spacing"]))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("scaling", [(1, 0), (2.5, -1024), (0, 0), (0.1, 0)])
def test_intensity_scaling_equals_what_nnunet_reads(tmp_path, ending, scaling):
    f = save_nifti(tmp_path / f"a{ending.lower()}", volume(), scl_slope=scaling[0], scl_inter=scaling[1])
    expected, expected_properties = SimpleITKIO().read_images([str(f)])
    f = f.rename(tmp_path / f"b{ending}")
    voxels, properties = read_image_file(f)
    assert np.allclose(voxels, expected[0], rtol=1e-6)
    assert properties == expected_properties


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
    assert np.array_equal(voxels, expected[0])
    assert properties == expected_properties


def test_nifti2_is_refused_because_nnunet_cannot_read_it(tmp_path):
    nibabel.save(nibabel.Nifti2Image(volume(), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(RuntimeError):
        SimpleITKIO().read_images([str(tmp_path / "a.nii.gz")])
    header_refuses(tmp_path / "a.nii.gz", "NIfTI-2")


def test_singleton_fourth_axis_is_3d(tmp_path):
    f = save_nifti(tmp_path / "a.nii.gz", volume()[..., None])
    voxels, properties = read_image_file(f)
    assert voxels.shape == (9, 8, 7)
    assert properties["spacing"] == [4, 3, 2]


@pytest.mark.parametrize(
    ("array", "pattern"),
    [
        (np.stack([volume()] * 3, -1), r"4D, shape \(7, 8, 9, 3\)"),
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
    header_refuses(f, "truncated: 1359 bytes, the header needs 1360")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd"])
@pytest.mark.parametrize("content", [b"", b"no image", b"\x5c\x01\x00\x00" * 200])
def test_other_content_under_an_image_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    header_refuses(tmp_path / name, "NIfTI|MetaImage|gzip|can't read|colour")


def test_gz_that_is_no_gzip(tmp_path):
    save_nifti(tmp_path / "a.nii", volume()).rename(tmp_path / "a.nii.gz")
    header_refuses(tmp_path / "a.nii.gz", "not a gzip file")


def test_vanished_file(tmp_path):
    refuses(tmp_path / "a.nii.gz", "No such file")


@pytest.mark.parametrize(("name", "compress"), ITK_FILES)
def test_itk_file_equals_what_nnunet_reads(tmp_path, name, compress):
    image = SimpleITK.GetImageFromArray(volume())
    image.SetSpacing((1, 2, 3))
    SimpleITK.WriteImage(image, str(tmp_path / name), compress)
    voxels, properties = read_image_file(tmp_path / name)
    expected, expected_properties = SimpleITKIO().read_images([str(tmp_path / name)])
    assert np.array_equal(voxels, expected[0])
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
