"""Inputs that fuzzing found: each once ended in another error than a message."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunet_genesis import checkpoint
from nnunet_genesis.importers import convert
from nnunet_genesis.importers.base import Source
from nnunet_genesis.inspection import import_text
from pretraining.scans.find import find_scans
from pretraining.scans.image_files import read_image_file
from pretraining.scans.scan import ScanError
from tests.faults.fuzz_targets import TARGETS, survives
from tests.nnunet_genesis.networks import network, record_of, save
from tests.pretraining.scans.dicom_series import make_slice


def nifti(**fields: object) -> bytes:
    image = nibabel.Nifti1Image(np.arange(210, dtype=np.int16).reshape(5, 6, 7), np.eye(4))
    data, header = bytearray(image.to_bytes()), image.header
    for name, value in fields.items():
        dtype, offset = header.structarr.dtype.fields[name]
        data[offset : offset + dtype.itemsize] = np.array(value, dtype.base).tobytes()
    return bytes(data)


@pytest.mark.parametrize("magic", [b"", b"ni1", b"+1", b"\x00n+1", b"XD\x00@"])
def test_nifti_of_another_magic(tmp_path, magic, caplog):
    (tmp_path / "a.nii").write_bytes(nifti(magic=magic))
    with pytest.raises(ScanError, match="not a NIfTI file"):
        read_image_file(tmp_path / "a.nii")
    assert caplog.text == ""
    print(f"survived: NIfTI with the magic {magic!r}")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("begin", [np.nan, np.inf, -np.inf, -1e9, -420, 0, 100, 348])
def test_nifti_whose_voxels_begin_nowhere_or_in_the_header(tmp_path, name, begin):
    data = nifti(vox_offset=begin)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(ScanError, match="voxels begin at byte"):
        read_image_file(tmp_path / name)
    print(f"survived: NIfTI whose voxels begin at {begin}")


@pytest.mark.parametrize("handedness", [0, 2.5, np.nan])
def test_nifti_whose_handedness_is_neither_1_nor_minus_1_is_right_handed(tmp_path, handedness):
    expected, direction = read_image_file(written(tmp_path / "good.nii", nifti(qform_code=1, sform_code=0)))
    pixdim = [handedness, 1, 1, 1, 0, 0, 0, 0]
    found, properties = read_image_file(written(tmp_path / "a.nii", nifti(qform_code=1, sform_code=0, pixdim=pixdim)))
    np.testing.assert_array_equal(found, expected)
    assert properties == direction
    print(f"survived: NIfTI with {handedness} for its handedness, as 1")


def test_nifti_with_an_impossible_quaternion(tmp_path):
    with pytest.raises(ScanError, match="no valid direction"):
        read_image_file(written(tmp_path / "a.nii", nifti(qform_code=1, sform_code=0, quatern_b=3)))
    print("survived: NIfTI with a quaternion of length 3")


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_metaimage_whose_data_file_has_a_null(tmp_path):
    header = "ObjectType = Image\nNDims = 3\nDimSize = 5 6 7\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
    (tmp_path / "a.mha").write_bytes(f"{header}ElementDataFile = LOC\0AL\n".encode() + bytes(range(210)))
    with pytest.raises(ScanError):
        read_image_file(tmp_path / "a.mha")
    print("survived: MetaImage whose data file has a null in its name")


@pytest.mark.parametrize("end", ["", "\n"])
def test_metaimage_that_ends_with_its_header(tmp_path, end):
    header = "ObjectType = Image\nNDims = 3\nDimSize = 5 6 7\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
    (tmp_path / "a.mha").write_bytes(f"{header}ElementDataFile = LOCAL{end}".encode())
    with pytest.raises(ScanError):
        read_image_file(tmp_path / "a.mha")
    print("survived: MetaImage that ends with its header")


def test_metaimage_whose_voxels_begin_behind_the_last_line_of_its_header(tmp_path):
    header = "ObjectType = Image\nComment = no ElementDataFile\nNDims = 3\nDimSize = 5 6 7\nElementSpacing = 1 1 1\n"
    header += "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(header.encode() + bytes(range(200)))  # of 210
    with pytest.raises(ScanError, match="truncated: 200 bytes of voxels, the header needs 210"):
        read_image_file(tmp_path / "a.mha")


def test_import_of_plans_whose_normalisation_is_no_text():
    content = dict(TARGETS["import nnunet_v2"].seeds()[0])
    plans = json.loads(json.dumps(content["init_args"]["plans"]))
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = [["ZScoreNormalization"]]
    survives(TARGETS["import nnunet_v2"], content | {"init_args": content["init_args"] | {"plans": plans}})
    print("survived: plans whose normalisation is a list")


@pytest.mark.parametrize("missing", ["patch_size", "normalization", "licence", "citations", "method"])
def test_import_of_a_genesis_checkpoint_without(missing, tmp_path):
    record = record_of(network(3), patch_size=[16, 16, 16], normalization={"schemes": ["CTNormalization"]}, licence="a")
    record.pop(missing, None)
    path = tmp_path / "w.pth"
    checkpoint.save({"network_weights": network(3).state_dict(), "genesis": record}, path)
    content = checkpoint.load(save(network(3), path)) | {"genesis": record}
    assert "placed:" in import_text(convert(Source(path, content), "genesis"), tmp_path / "o.pth")
    print(f"survived: import of a record without {missing}")


@pytest.mark.parametrize("element", [b"\x02\x00\x02\x00UI", b"\x28\x00\x10\x00US"])
def test_a_slice_with_a_type_of_value_that_does_not_exist(tmp_path, element):
    """SimpleITK's reader took up to 0.7 GB for such a slice of 862 bytes."""
    data = make_slice(tmp_path / "a.dcm", 0).read_bytes()
    assert data.count(element) == 1
    (tmp_path / "a.dcm").write_bytes(data.replace(element, element[:4] + b"UK"))
    scans, left_out = find_scans([tmp_path])
    assert not scans
    assert [item.reason for item in left_out] == ["damaged DICOM header"]
    print("survived: a slice with the unknown type UK")
