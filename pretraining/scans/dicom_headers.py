"""One DICOM file's header: what a series needs from it, and whether the file is complete. Never reads pixels."""

import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.encaps import parse_fragments
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import VR

from pretraining.scans.scan import ScanError

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "ImageType", "FrameOfReferenceUID",
    "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "SamplesPerPixel", "Rows", "Columns", "BitsAllocated",
    "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
]  # fmt: skip
_PIXEL_DATA = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_TYPES = frozenset(vr.value for vr in VR)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True)
class SliceHeader:
    """Header of one DICOM file. Numbers that are missing or not numbers are None.

    Attributes:
        path: the file.
        series: SeriesInstanceUID, "" if an anonymiser blanked it. An identifier: never show it.
        instance: SOPInstanceUID. Likewise.
        patient: PatientID. Likewise.
        frame: FrameOfReferenceUID. Likewise.
        modality: Modality, upper case, or "".
        localizer: whether ImageType says so.
        frames: NumberOfFrames.
        samples: SamplesPerPixel (3 is colour).
        matrix: (rows, columns).
        pixel_spacing: mm between rows and between columns.
        position: ImagePositionPatient, mm, LPS.
        orientation: ImageOrientationPatient: the directions of a row and of a column.
        rescaling: the first of RescaleSlope and RescaleIntercept that is there and no number (or a slope of 0), or "".
        complete: whether the file holds all the pixel data that the header announces.
    """

    path: Path
    series: str
    instance: str
    patient: str
    frame: str
    modality: str
    localizer: bool
    frames: int
    samples: int
    matrix: tuple[int, int] | None
    pixel_spacing: tuple[float, ...] | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    rescaling: str
    complete: bool


def read_slice_header(path: Path) -> SliceHeader | None:
    """Read the header of a file, or None if it is not DICOM (or a DICOMDIR, which only lists files).

    Raises:
        ScanError: the file is DICOM but its header is damaged.
        OSError: the file can't be opened.
    """
    with path.open("rb") as file:
        head = file.read(132)
        marked = head[128:] == b"DICM"
        # Files without the 128-byte preamble start with a tag of group 2 or 8 (little or big endian).
        if not marked and head[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
            return None
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's warnings quote the header's values
                data = read_partial(file, _at_pixels, force=True, specific_tags=[Tag(name) for name in _TAGS])
                return _header(path, data, file, marked)
        except Exception as e:  # pydicom raises nearly anything on damaged bytes
            if isinstance(e, ScanError):
                raise
            if not marked:
                return None
            raise ScanError("damaged DICOM header") from e


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    """Whether reading may stop; a type of value that doesn't exist (or none, in implicit encoding) is damage."""
    if vr is not None and vr.isalpha() and vr.isupper() and vr not in _TYPES:
        # SimpleITK's reader took up to 0.7 GB for such a file of 862 bytes.
        raise ScanError("damaged DICOM header")
    return tag in _PIXEL_DATA


def _header(path: Path, data: pydicom.FileDataset, file: BinaryIO, marked: bool) -> SliceHeader | None:
    if _text(data, "SOPClassUID") == _MEDIA_DIRECTORY:
        return None
    for tag in list(data.file_meta.keys()):  # its iterator would convert the values
        _at_pixels(tag, data.file_meta.get_item(tag).VR, 0)
    if not data.get("SeriesInstanceUID") and data.get("Modality") is None:
        if not marked:
            return None
        raise ScanError("damaged or truncated DICOM header: neither series nor modality")
    rows, columns = _numbers(data, "Rows", 1), _numbers(data, "Columns", 1)
    matrix = (int(rows[0]), int(columns[0])) if rows and columns else None
    samples = int((_numbers(data, "SamplesPerPixel", 1) or (1,))[0])
    bits = int((_numbers(data, "BitsAllocated", 1) or (16,))[0])
    frames = int((_numbers(data, "NumberOfFrames", 1) or (1,))[0])
    needed = matrix[0] * matrix[1] * samples * frames * bits // 8 if matrix else 0
    return SliceHeader(
        path=path,
        series=_text(data, "SeriesInstanceUID"),
        instance=_text(data, "SOPInstanceUID"),
        patient=_text(data, "PatientID").strip(),
        frame=_text(data, "FrameOfReferenceUID"),
        modality=_text(data, "Modality").strip().upper(),
        localizer="LOCALIZER" in _text(data, "ImageType").upper(),
        frames=frames,
        samples=samples,
        matrix=matrix,
        pixel_spacing=_numbers(data, "PixelSpacing", 2),
        position=_numbers(data, "ImagePositionPatient", 3),
        orientation=_numbers(data, "ImageOrientationPatient", 6),
        rescaling=_bad_rescaling(data),
        complete=matrix is None or _holds_pixels(data, file, needed),
    )


def _bad_rescaling(data: pydicom.Dataset) -> str:
    # SimpleITK would take 0 and NaN for 1, and say nothing.
    for keyword, wrong in (("RescaleSlope", (None, (0.0,))), ("RescaleIntercept", (None,))):
        if _text(data, keyword) and _numbers(data, keyword, 1) in wrong:
            return keyword
    return ""


def _holds_pixels(data: pydicom.FileDataset, file: BinaryIO, needed: int) -> bool:
    """Whether the pixel data start where pydicom stopped reading, and ``needed`` bytes (or all fragments) follow."""
    syntax = (
        getattr(data, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID") or pydicom.uid.ImplicitVRLittleEndian
    )
    if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        return True  # the whole data set is one deflate stream: damage shows when the header is read
    implicit, order = syntax.is_implicit_VR, "<" if syntax.is_little_endian else ">"
    element = file.read(8 if implicit else 12)
    if len(element) < (8 if implicit else 12):
        return False
    group, number = struct.unpack(order + "HH", element[:4])
    if (group << 16 | number) not in _PIXEL_DATA:
        return False
    length = struct.unpack(order + "L", element[-4:])[0]
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    if length != _UNDEFINED_LENGTH:
        return size - start >= needed
    return _ends(file, size)


def _ends(file: BinaryIO, size: int) -> bool:
    """Whether the compressed fragments that start here all lie within the file's ``size`` bytes."""
    count, offsets = parse_fragments(file)
    if count == 0:
        return False
    file.seek(offsets[-1] + 4)
    last = struct.unpack("<L", file.read(4))[0]
    return offsets[-1] + 8 + last <= size


def _text(data: pydicom.Dataset, keyword: str) -> str:
    value = data.get(keyword)
    return "" if value is None else str(value)


def _numbers(data: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    try:
        value = data.get(keyword)
        numbers = tuple(float(v) for v in ([value] if count == 1 else value))
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == count and all(abs(n) < float("inf") for n in numbers) else None
