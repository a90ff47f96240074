"""DICOM series: what is read equals what is stored, and what is no volume is left out with the right reason."""

import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import DeflatedExplicitVRLittleEndian, NuclearMedicineImageStorage

from pretraining.scans.dicom import read_dicom
from pretraining.scans.find import find_scans
from pretraining.scans.reading import read_scan
from pretraining.scans.scan import ScanError
from tests.pretraining.scans.dicom_series import SECRETS, SERIES, at, edit, make_enhanced, make_series, make_slice


def reason(folder: Path) -> str:
    """The one reason for which a folder's only series is left out."""
    scans, left_out = find_scans([folder])
    assert scans == []
    assert len(left_out) == 1
    return left_out[0].reason


def test_series_is_one_scan_sorted_by_position(tmp_path):
    files = make_series(tmp_path)
    (scan,), left_out = find_scans([tmp_path])
    assert left_out == []
    assert (scan.kind, scan.modality, scan.shape, scan.spacing) == ("dicom", "CT", (12, 4, 6), (2.5, 0.5, 0.75))
    assert scan.channels == (tuple(str(f) for f in files),)  # 10.dcm sorts before 2.dcm by name
    image, properties = read_scan(scan)
    expected = np.arange(24).reshape(1, 4, 6) + 100 * np.arange(12).reshape(12, 1, 1) - 1024
    assert image.dtype == np.float32
    assert np.array_equal(image[0], expected)
    assert properties["spacing"] == [2.5, 0.5, 0.75]


def test_names_and_identifiers_appear_nowhere(tmp_path):
    make_series(tmp_path / "good")
    for kind, n in (("short", 1), ("gap", 5)):
        make_series(tmp_path / kind, n, SeriesInstanceUID=f"{SERIES}.{n}")
    (tmp_path / "gap" / "2.dcm").unlink()
    cut = make_slice(tmp_path / "cut" / "a.dcm", 0)
    cut.write_bytes(cut.read_bytes()[:400])
    scans, left_out = find_scans([tmp_path])
    assert len(scans) == 1
    assert len(left_out) == 3
    text = repr([(s.case, s.source, s.group, s.modality) for s in scans]) + repr(left_out) + repr(scans)
    assert not [secret for secret in SECRETS if secret in text]


def test_same_patient_same_group(tmp_path):
    make_series(tmp_path / "a")
    make_series(tmp_path / "b", SeriesInstanceUID=f"{SERIES}.2", PixelData=bytes(range(48)))
    make_series(tmp_path / "c", SeriesInstanceUID=f"{SERIES}.3", PatientID="", PixelData=bytes(range(1, 49)))
    scans, _ = find_scans([tmp_path])
    a, b, c = scans
    assert a.group == b.group
    assert c.group == c.case


def test_scans_of_a_study_without_a_patient_are_one_group(tmp_path):
    for number, (series, study) in enumerate((("1", "1"), ("2", "1"), ("3", "2"))):
        names = {"SeriesInstanceUID": f"{SERIES}.{series}", "StudyInstanceUID": f"{SERIES}.0.{study}"}
        make_series(tmp_path / series, PatientID="", PixelData=bytes(range(number, 48 + number)), **names)
    scans, _ = find_scans([tmp_path])
    a, b, c = (scan.group for scan in scans)
    assert a == b != c


def test_frames_are_not_made_because_a_number_says_so(tmp_path):
    make_enhanced(tmp_path / "a.dcm", [at(0, np.zeros((4, 6)))])
    edit(tmp_path / "a.dcm", NumberOfFrames=30_000_000, PerFrameFunctionalGroupsSequence=None)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    del data.PerFrameFunctionalGroupsSequence
    data.save_as(tmp_path / "a.dcm")
    assert "truncated" in reason(tmp_path)


@pytest.mark.parametrize(("zeros", "read"), [(48, True), (300 << 20, False)])
def test_deflated_file_is_not_unpacked_beyond_a_scan(tmp_path, zeros, read):
    make_series(tmp_path, 3)
    for file in tmp_path.iterdir():
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.PixelData = bytes(zeros)
        data.save_as(file)
    tracemalloc.start()
    scans, left_out = find_scans([tmp_path])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(scans), len(left_out)) == ((1, 0) if read else (0, 3))
    assert all("deflated DICOM that unpacks to far more than a scan" in out.reason for out in left_out)
    assert most < 150 << 20


def test_copied_slices_count_once(tmp_path):
    make_series(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "other" / "a")
    (scan,), left_out = find_scans([tmp_path / "a", tmp_path / "other"])
    assert scan.shape[0] == 12
    assert [(out.source, out.reason) for out in left_out] == [("other/a", "12 files: same pixels as files in a")]


@pytest.mark.parametrize("drop", [[4], [4, 5], [2, 7]])
def test_missing_slices(tmp_path, drop):
    files = make_series(tmp_path)
    for i in drop:
        files[i].unlink()
    text = reason(tmp_path)
    assert f"{12 - len(drop)} slices" in text
    assert f"between slices {drop[0]} and {drop[0] + 1} is" in text
    assert "instead of 2.5 mm" in text
    assert text.endswith("missing")


def test_two_phases_under_one_series(tmp_path):
    make_series(tmp_path)
    for i in range(12):
        make_slice(tmp_path / f"{100 + i}.dcm", i, PixelData=bytes(48))
    assert reason(tmp_path).startswith("two images at each position")


def test_one_repeated_position(tmp_path):
    make_series(tmp_path)
    make_slice(tmp_path / "100.dcm", 3, PixelData=bytes(48))
    assert reason(tmp_path).startswith("1 of 13 slices lie where another one does")


@pytest.mark.parametrize(("degrees", "said"), [(0.1, ""), (0.5, "0.5"), (1.1, "1.1"), (1.5, None), (2.5, None)])
def test_small_gantry_tilt(tmp_path, degrees, said):
    for z in range(12):
        make_slice(tmp_path / f"{z}.dcm", z, ImagePositionPatient=[0, 2.5 * z * np.tan(np.radians(degrees)), 2.5 * z])
    scans, left_out = find_scans([tmp_path])
    remark = [f"a gantry tilt of {said} degrees was taken for none"] if said else []
    assert [list(scan.corrections) for scan in scans] == ([] if said is None else [remark])
    assert said is not None or f"gantry tilt of {degrees} degrees" in left_out[0].reason


def test_gantry_tilt(tmp_path):
    c, s = np.cos(np.radians(15)), np.sin(np.radians(15))
    make_series(tmp_path, ImageOrientationPatient=[1, 0, 0, 0, round(c, 7), round(-s, 7)])
    assert "gantry tilt of 15.0 degrees" in reason(tmp_path)


def test_irregular_distances(tmp_path):
    for i, f in enumerate(make_series(tmp_path)):
        edit(f, ImagePositionPatient=[0, 0, 2.5 * i + 0.03 * i * i])
    assert "varies from 2.53 to 3.13 mm" in reason(tmp_path)


def test_rounded_positions_are_accepted(tmp_path):
    for i, f in enumerate(make_series(tmp_path)):
        edit(f, ImagePositionPatient=[0, 0, round(1.25 * i, 1)])
    (scan,), _ = find_scans([tmp_path])
    assert read_scan(scan)[1]["spacing"][0] == pytest.approx(1.25, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Rows": 2, "Columns": 12}, "slices of different sizes: 2 x 12, 4 x 6"),
        ({"PixelSpacing": [0.6, 0.75]}, "different pixel spacing"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "different orientations"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImagePositionPatient": []}, "1 of 12 slices lack a valid ImagePositionPatient"),
        ({"PixelSpacing": []}, "1 of 12 slices lack a valid PixelSpacing"),
        ({"NumberOfFrames": 2, "Rows": 2}, "several frames in one file"),
        ({"SamplesPerPixel": 3, "BitsAllocated": 8, "Rows": 2}, "colour"),
        ({"Modality": "RTSTRUCT"}, "not a scan but radiotherapy contours"),
    ],
)
def test_one_odd_slice_is_named(tmp_path, changes, expected):
    edit(make_series(tmp_path)[5], **changes)
    assert expected in reason(tmp_path)


def test_single_slice_is_no_volume(tmp_path):
    make_series(tmp_path, 1)
    assert "single slice" in reason(tmp_path)


def test_report_is_no_scan(tmp_path):
    gone = ("Rows", "Columns", "PixelData", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
    make_series(tmp_path, 1, Modality="SR", **dict.fromkeys(gone))
    assert reason(tmp_path) == "not a scan but a structured report (SR)"


@pytest.mark.parametrize("lost", [1, 20, 47])
def test_truncated_slice_is_found_from_headers(tmp_path, lost):
    f = make_series(tmp_path)[7]
    f.write_bytes(f.read_bytes()[:-lost])
    assert reason(tmp_path) == "1 of 12 files is truncated: pixel data are missing"


def test_truncated_compressed_slice_is_found_from_headers(data, tmp_path):
    folder = Path(shutil.copytree(data / "dicom" / "ct_abdomen", tmp_path / "s", copy_function=shutil.copyfile))
    f = sorted(folder.iterdir())[3]
    f.write_bytes(f.read_bytes()[:-3000])
    assert reason(folder) == "1 of 20 files is truncated: pixel data are missing"


def test_slice_that_vanishes_or_breaks_after_discovery(tmp_path):
    files = make_series(tmp_path)
    (scan,), _ = find_scans([tmp_path])
    files[3].write_bytes(files[3].read_bytes()[:-10])
    with pytest.raises(ScanError, match="truncated"):
        read_scan(scan)
    files[3].unlink()
    with pytest.raises(ScanError, match="No such file"):
        read_scan(scan)


def test_file_named_dcm_that_is_none(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"nothing of the kind" * 30)
    assert "not readable as DICOM" in reason(tmp_path)


def test_file_without_preamble_is_read(tmp_path):
    for f in make_series(tmp_path):
        raw = f.read_bytes()
        f.write_bytes(raw[132:])
    scans, _ = find_scans([tmp_path])
    assert len(scans) == 1


def test_each_slice_keeps_its_own_rescaling(tmp_path):
    for i, f in enumerate(make_series(tmp_path, 4, RescaleIntercept=0)):
        edit(f, RescaleSlope=1 + i * 0.25)
    (scan,), _ = find_scans([tmp_path])
    image, _ = read_scan(scan)
    expected = [(np.arange(24).reshape(4, 6) + 100 * i) * (1 + i * 0.25) for i in range(4)]
    assert np.allclose(image[0], expected)


def test_values_that_a_table_maps(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [2, 0, 16], b"\1\0\0\0", "HU"
    for file in make_series(tmp_path, RescaleSlope=None, RescaleIntercept=None):
        edit(file, ModalityLUTSequence=[table])
    assert "ModalityLUTSequence), which isn't applied: their intensities are unknown" in reason(tmp_path)


@pytest.mark.parametrize("kind", ["1.2.3.4.5", NuclearMedicineImageStorage])
def test_objects_that_simpleitk_does_not_read(tmp_path, kind):
    for file in make_series(tmp_path, SOPClassUID=kind, PixelData=bytes(range(50))):  # two too many, as exporters pad
        file.write_bytes(file.read_bytes()[132:])
    (scan,), _ = find_scans([tmp_path])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they would quote the header
        image, properties = read_scan(scan)
    stored = np.frombuffer(bytes(range(48)), np.int16).reshape(4, 6)
    assert np.array_equal(image[0], np.stack([stored - 1024] * 12))
    assert properties["spacing"] == [2.5, 0.5, 0.75]


def test_blanked_series_uid_groups_by_folder(tmp_path):
    for start, folder in enumerate("ab"):
        pixels = bytes(range(start, 48 + start))
        make_series(tmp_path / folder, SeriesInstanceUID="", SOPInstanceUID="", PixelData=pixels)
    scans, left_out = find_scans([tmp_path])
    assert [s.source for s in scans] == ["a", "b"]
    assert left_out == []


def test_real_ct_in_hounsfield_units_equals_pydicom(data):
    (scan,), _ = find_scans([data / "dicom" / "ct_abdomen"])
    image, _ = read_scan(scan)
    for z in (0, 10, 19):
        slice_ = pydicom.dcmread(scan.channels[0][z])
        expected = slice_.pixel_array * float(slice_.RescaleSlope) + float(slice_.RescaleIntercept)
        assert np.array_equal(image[0, z], expected)


def test_real_ct_equals_its_nifti_twin(data):
    (scan,), _ = find_scans([data / "dicom" / "ct_abdomen"])
    nifti = SimpleITK.ReadImage(str(data / "Dataset003_Liver" / "imagesTr" / "ts_example_dicom_0000.nii.gz"))
    image = read_dicom(scan)
    assert image.GetSpacing() == nifti.GetSpacing()
    assert image.GetOrigin() == nifti.GetOrigin()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), SimpleITK.GetArrayFromImage(nifti))


def test_real_mr_slices_in_non_numeric_order(data):
    (scan,), _ = find_scans([data / "dicom" / "mr_hippocampus_crop"])
    assert [Path(f).stem for f in scan.channels[0]] == [str(i) for i in range(1, 33)]
    image, _ = read_scan(scan)
    expected = [pydicom.dcmread(data / "dicom" / "mr_hippocampus_crop" / f"{i}.dcm").pixel_array for i in range(1, 33)]
    assert np.array_equal(image[0], expected)


def test_real_oblique_mr(data):
    (scan,), left_out = find_scans([data / "dicom" / "mr_t1"])
    assert left_out == []
    image, _ = read_scan(scan)
    assert image.shape == (1, 22, 320, 280)


def test_real_tilted_head_is_left_out(data):
    assert "gantry tilt of 18.5 degrees" in reason(data / "dicom" / "ct_head_tilt")


def test_reading_is_silent(data, capfd):
    (scan,), _ = find_scans([data / "dicom" / "mr_t1"])
    read_scan(scan)
    assert capfd.readouterr() == ("", "")
