"""Odd DICOM series."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.faults.healthy import Healthy, cut, flip, write_dicom
from tests.faults.odd_scans import Odd, as_it_is
from tests.pretraining.scans.dicom_series import edit

AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]


def _all_but(*missing: int) -> object:
    return lambda folder, scan: write_dicom(folder, scan, [i for i in range(len(scan.voxels)) if i not in missing])


def _half(scan: Healthy) -> int:
    return len(scan.voxels) // 2


def _mixed(first: dict, second: dict) -> object:
    """One series, its second half with other elements."""

    def make(folder: Path, scan: Healthy) -> None:
        n, half = len(scan.voxels), _half(scan)
        write_dicom(folder, scan, range(half), **first)
        write_dicom(folder, scan, range(half, n), **second)

    return make


def _two_under_one_uid(folder: Path, scan: Healthy) -> None:
    """Two scans in two folders, whose series was given one identifier."""
    for part, voxels in (("one", scan.voxels), ("two", scan.voxels[:, ::-1])):
        write_dicom(folder / part, scan.with_voxels(voxels), SeriesInstanceUID="1.2.3.4", PatientID="P")


def _stacked_under_one_uid(folder: Path, scan: Healthy) -> None:
    """Two patients' scans under one identifier, the one beginning where the other one ends."""
    half = _half(scan)
    for part, slices in (("one", range(half)), ("two", range(half, len(scan.voxels)))):
        write_dicom(folder / part, scan, slices, SeriesInstanceUID="1.2.3.5", PatientID=part)


def _phases(folder: Path, scan: Healthy) -> None:
    """Two phases of one series, slice by slice."""
    write_dicom(folder / "p", scan)
    write_dicom(folder / "q" / "p", scan.with_voxels(scan.voxels + 5))


def _copied(folder: Path, scan: Healthy) -> None:
    for file in write_dicom(folder, scan)[2:5]:
        shutil.copyfile(file, file.with_name(f"copy of {file.name}"))


def _repeated(folder: Path, scan: Healthy) -> None:
    write_dicom(folder, scan)
    (folder / "slice 3.dcm").rename(folder / "slice 3 again.dcm")
    write_dicom(folder, scan, [3])


def _repeated_otherwise(folder: Path, scan: Healthy) -> None:
    _repeated(folder, scan)
    write_dicom(folder, scan.with_voxels(scan.voxels + 5), [3])


def _moved(folder: Path, scan: Healthy) -> None:
    for i, file in enumerate(write_dicom(folder, scan)):
        edit(file, ImagePositionPatient=[0, 0, scan.spacing[0] * (i + 0.02 * i * i)])


def _tilted(folder: Path, scan: Healthy) -> None:
    for i, file in enumerate(write_dicom(folder, scan)):
        edit(file, ImagePositionPatient=[0, round(0.3 * scan.spacing[0] * i, 6), scan.spacing[0] * i])


def _one_odd(change: object) -> object:
    return lambda folder, scan: change(write_dicom(folder, scan)[4])


def _own_rescaling(folder: Path, scan: Healthy) -> None:
    """As PET has it, and some CTs: each slice with another slope; the values are the same."""
    for i, voxels in enumerate(scan.voxels):
        slope = 0.5 + i
        stored = np.round((voxels.astype(np.float64) + 1024) / slope).astype(np.int16)
        write_dicom(folder, scan, [i], PixelData=stored.tobytes(), RescaleSlope=slope)


def _with_own_rescaling(scan: Healthy) -> Healthy:
    slopes = 0.5 + np.arange(len(scan.voxels)).reshape(-1, 1, 1)
    return scan.with_voxels((np.round((scan.voxels + 1024.0) / slopes) * slopes - 1024).astype(np.float32))


def _padded(folder: Path, scan: Healthy) -> None:
    """The corners hold the padding value -2000 (stored -976), which the header names."""
    write_dicom(folder, _corners(scan, -2000), PixelPaddingValue=-976)


def _corners(scan: Healthy, value: int) -> Healthy:
    voxels = scan.voxels.copy()
    voxels[:, :4, :4] = voxels[:, -4:, -4:] = value
    return scan.with_voxels(voxels)


def _reversed(folder: Path, scan: Healthy) -> None:
    """Numbered from head to feet: the order is that of the positions."""
    write_dicom(folder, scan, range(len(scan.voxels))[::-1])


def _wrong_sign(folder: Path, scan: Healthy) -> None:
    """Values without the offset of 1024, negative ones, in a file that says unsigned."""
    for i, voxels in enumerate(scan.voxels):
        write_dicom(folder, scan, [i], PixelData=voxels.tobytes(), PixelRepresentation=0, RescaleIntercept=0)


def _eight_bits(folder: Path, scan: Healthy) -> None:
    """A window's grey values, as a screenshot has them."""
    for i, voxels in enumerate(scan.voxels):
        grey = ((voxels.clip(-160, 240) + 160) * 255 // 400).astype(np.uint8)
        write_dicom(folder, scan, [i], PixelData=grey.tobytes(), BitsAllocated=8, BitsStored=8, HighBit=7,
                    PixelRepresentation=0, RescaleIntercept=0)  # fmt: skip


def _oblique_axes(scan: Healthy) -> list[float]:
    return [float(v) for v in np.reshape(_oblique(scan).direction, (3, 3)).T[:2].ravel()]


def _oblique(scan: Healthy) -> Healthy:
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    return replace(scan, direction=(c, -s, 0, s, c, 0, 0, 0, 1))


def _series(**changes: object) -> object:
    return lambda folder, scan: write_dicom(folder, scan, **changes)


ROWS = [
    Odd("healthy series", _series(), clean=as_it_is),
    Odd("series numbered backwards", _reversed, clean=as_it_is),
    Odd("series with oblique rows", lambda f, s: write_dicom(f, s, ImageOrientationPatient=_oblique_axes(s)),
        clean=_oblique),
    Odd("some slices copied", _copied, clean=as_it_is, company="3 files: same pixels as"),
    Odd("wrong SpacingBetweenSlices", _series(SpacingBetweenSlices=99, SliceThickness=0.001), clean=as_it_is),
    Odd("each slice its own slope", _own_rescaling, clean=_with_own_rescaling),
    Odd("padding -2000 in a series", _padded, clean=lambda s: _corners(s, -1024)),
    Odd("missing slice", _all_but(4), "a slice is missing"),
    Odd("first half missing but one", lambda f, s: write_dicom(f, s, [0, *range(_half(s), len(s.voxels))]), "missing"),
    Odd("every second slice missing at the end", lambda f, s: write_dicom(f, s, [*range(8), 9, 11, 13]), "missing"),
    # Its pixels are the same: an export that ran twice, not a phase.
    Odd("repeated slice", _repeated, clean=as_it_is, company="same pixels"),
    Odd("repeated slice of other pixels", _repeated_otherwise, "lie where another one does"),
    Odd("irregular distances", _moved, "distance between neighbours varies"),
    Odd("gantry tilt", _tilted, "gantry tilt of 16.7 degrees"),
    Odd("mixed orientations", _mixed({"ImageOrientationPatient": AXIAL}, {"ImageOrientationPatient": CORONAL}),
        "different orientations"),
    Odd("mixed spacings", _mixed({}, {"PixelSpacing": [1, 1]}), "different pixel spacing"),
    Odd("two series with one UID", _two_under_one_uid, "two images at each position"),
    Odd("two patients stacked under one UID", _stacked_under_one_uid, "several patients"),
    Odd("ct and pet under one UID", _mixed({"Modality": "CT"}, {"Modality": "PT"}), "several modalities"),
    # Anonymisers make new ones, file by file; the slices lie at equal distances nevertheless.
    Odd("two frames of reference", _mixed({"FrameOfReferenceUID": "1.2.3.6"}, {"FrameOfReferenceUID": "1.2.3.7"}),
        clean=as_it_is),
    Odd("two interleaved phases", _phases, "two images at each position"),
    Odd("one slice", lambda f, s: write_dicom(f, s, [3]), "single slice"),
    Odd("localizer", _series(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    Odd("pet among ct", _series(Modality="PT"), "modality PT among CT"),
    Odd("mr among ct, as series", _series(Modality="MR"), "modality MR among CT"),
    Odd("pixel spacing 0", _series(PixelSpacing=[0, 1]), "valid PixelSpacing"),
    Odd("pixel spacing negative", _series(PixelSpacing=[-1, 1]), "valid PixelSpacing"),
    Odd("without positions", _series(ImagePositionPatient=None), "valid ImagePositionPatient"),
    Odd("orientation of no length", _series(ImageOrientationPatient=[0] * 6), "ImageOrientationPatient"),
    Odd("colour slices", _series(SamplesPerPixel=3), "truncated|colour"),
    Odd("multi-frame", _series(NumberOfFrames=2), "truncated|several frames"),
    Odd("slope 10 in a series", _series(RescaleSlope=10), "Hounsfield"),
    Odd("slope 0.1 in a series", _series(RescaleSlope=0.1), "Hounsfield"),
    Odd("slope 0 in a series", _series(RescaleSlope=0), "valid RescaleSlope"),
    Odd("slope nan in a series", _series(RescaleSlope="nan"), "valid RescaleSlope"),
    Odd("intercept nan in a series", _series(RescaleIntercept="nan"), "valid RescaleIntercept"),
    Odd("without rescaling", _series(RescaleSlope=None, RescaleIntercept=None), "Hounsfield"),
    Odd("signed values called unsigned", _wrong_sign, "Hounsfield"),
    Odd("grey values of 8 bits", _eight_bits, "Hounsfield"),
    Odd("slice cut to 60 %", _one_odd(lambda file: cut(file, 0.6)), "1 of .* truncated"),
    Odd("slice of zero bytes", _one_odd(lambda file: cut(file, 0)), "empty file|missing"),
    Odd("slice cut within its header", _one_odd(lambda file: cut(file, 0.02)), "damaged|truncated|missing"),
    Odd("bit flipped in the rows", _one_odd(lambda file: edit(file, Rows=8)), "different sizes"),
    Odd("bit flipped in the preamble", _one_odd(lambda file: flip(file, 129)), "missing|damaged|readable"),
    Odd("bit flipped in the meta header", _one_odd(lambda file: flip(file, 136)), "missing|damaged|truncated"),
    Odd("text named dcm", lambda f, s: (f / "a.dcm").write_text("to be copied later" * 20), "not readable as DICOM"),
    Odd("slice vanishes while being read", _series(), "can't be read: No such file",
        after=lambda f: (f / "slice 5.dcm").unlink()),
    Odd("slice changes after discovery", _series(), "truncated", after=lambda f: cut(f / "slice 5.dcm", 0.9)),
]  # fmt: skip
