"""One DICOM file's header: what a series needs from each of its frames, and whether the file is complete.

Never reads pixels. What it gives is plain data without a patient's text: identifiers and words are hashed.
"""

import hmac
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.encaps import parse_fragments
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage
from pydicom.valuerep import VR

from pretraining.scans.scan import ScanError, digest

# Elements that say what an image shows: images that differ in one of them are no neighbours in a volume.
SHOWN = (
    "matrix", "orientation", "StudyInstanceUID", "SeriesNumber", "ImageType", "FrameType", "ComplexImageComponent",
    "EchoTime", "EffectiveEchoTime", "EchoNumbers", "DiffusionBValue", "DiffusionGradientOrientation",
    "TemporalPositionIdentifier", "TemporalPositionIndex", "FlipAngle", "InversionTime", "InversionTimes",
    "ConvolutionKernel",
)  # fmt: skip
# Elements that may differ from slice to slice of one volume, but tell volumes apart where there are several.
ALSO = (
    "AcquisitionNumber", "FrameAcquisitionNumber", "TriggerTime", "NominalCardiacTriggerDelayTime",
    "TemporalPositionTimeOffset", "FrameReferenceTime", "RepetitionTime", "KVP", "SliceThickness", "StackID",
    "SeriesDescription", "ProtocolName", "ReconstructionDiameter", "FrameOfReferenceUID", "AcquisitionTime",
    "AcquisitionDateTime",
)  # fmt: skip
# b values and gradients where vendors keep them: Siemens, GE, Philips.
_PRIVATE = (0x0019100C, 0x0019100E, 0x00431039, 0x001910BB, 0x001910BC, 0x001910BD, 0x20011003, 0x200510B0, 0x200510B1,
            0x200510B2)  # fmt: skip
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_TABLE = "ModalityLUTSequence"
_NAMES = (
    "SOPClassUID", "SeriesInstanceUID", "PatientID", "Modality", "NumberOfFrames", "RescaleSlope", "RescaleIntercept",
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "PixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "DimensionIndexSequence",
    "DimensionIndexValues", _TABLE, *SHOWN[2:], *ALSO,
)  # fmt: skip
_KEYWORDS = {Tag(name): name for name in _NAMES} | {Tag(t): f"({t >> 16:04X},{t & 0xFFFF:04X})" for t in _PRIVATE}
_TAGS = [*_KEYWORDS, Tag(_SHARED), Tag(_PER_FRAME)]
Elements = dict[str, Any]  # an image's elements by keyword
_PIXEL_DATA = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
_TYPES = frozenset(vr.value for vr in VR)
_NUMBERS = frozenset({"DS", "IS", "FD", "FL", "US", "UL", "SS", "SL"})
_PLAIN_TEXT = frozenset({"AS", "CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UI"})
_TYPE_OF = {name: dictionary_VR(name) for name in _NAMES}
_IS_NUMBER = {name: dictionary_VR(name) in _NUMBERS for name in (*SHOWN[2:], *ALSO)}
_PLACES = frozenset(map(tag_for_keyword, ("InStackPositionNumber", "ImagePositionPatient", "StackID")))
_NO_IMAGES = {
    "SR": "a structured report", "RTSTRUCT": "radiotherapy contours", "RTPLAN": "a radiotherapy plan",
    "RTDOSE": "a radiotherapy dose", "SEG": "a segmentation", "PR": "a presentation state",
    "KO": "a selection of key images", "REG": "a registration", "DOC": "a document",
}  # fmt: skip
_RADIOGRAPHS = ("CR", "DX", "MG", "IO", "PX", "RG", "XA", "RF")
LOCALIZER, _NO_IMAGE, _COLOUR = "localizer (scout) images", "DICOM objects without an image", "colour images"
_MOSAIC = "Siemens mosaics (all slices of a volume in one image): convert them to NIfTI, for example with dcm2niix"
_MOST_UNPACKED, _MOST_RATIO = 1 << 26, 20  # bytes, and what each byte of a deflated file may add to them
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
# Of private kinds SimpleITK reads nothing, of nuclear medicine no spacing of slices; not all files say a kind.
_ITK_READS = ("", CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage)


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """Header of one image: of a DICOM file, or of one frame of an enhanced one. Missing or wrong numbers are None."""

    path: str
    frame: int  # the image's index in the file
    frames: int  # images in the file that this speaks for; more than 1 where nothing tells where each of them lies
    plain: bool  # whether SimpleITK reads it as it is meant: one of _ITK_READS, not MONOCHROME1, no functional groups
    series: str  # SHA-256 of the SeriesInstanceUID, "" if an anonymiser blanked it
    study: str  # hash of the StudyInstanceUID, or ""
    patient: str  # name of the patient's group (patient_group), or ""
    modality: str  # upper case, or ""
    no_slice: str  # why it is by its nature no slice of a volume, or ""
    company: bool  # whether such an image usually lies beside scans: nothing is lost without it
    inverted: bool  # MONOCHROME1
    matrix: tuple[int, int] | None  # (rows, columns)
    pixel_spacing: tuple[float, ...] | None  # mm between rows and between columns
    position: tuple[float, ...] | None  # ImagePositionPatient, mm, LPS
    orientation: tuple[float, ...] | None  # ImageOrientationPatient: the directions of a row and of a column
    rescaling: str  # what leaves intensities unknown: no number (or 0) as slope or intercept, a table; or ""
    slope: float  # what stored values are multiplied by
    intercept: float  # what is added then
    complete: bool  # whether the file holds all the pixel data that the header announces
    number: float | None  # InstanceNumber: where images of a volume are lost, one is missing
    told: tuple[tuple[str, str], ...]  # elements that may tell volumes apart; words are hashed


def patient_group(patient: str, key: bytes) -> str:
    """Name the group of a patient's scans; a number is short, and could be found by trying all, but for the key."""
    return f"patient_{hmac.new(key, f'patient_{digest(patient, 12)}'.encode(), 'sha256').hexdigest()[:12]}"


class _File(io.BufferedReader):
    """A file that is never read to its end where that would be unpacked into far more than a scan is."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any file does; pydicom reads to the end to unpack a deflated data set, whole."""
        data = super().read(size)
        if size is None or size < 0:
            unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
            unpacking.decompress(data, _MOST_UNPACKED + _MOST_RATIO * len(data))
            if unpacking.unconsumed_tail:
                raise ScanError("deflated DICOM that unpacks to far more than a scan: save it without deflation")
        return data


def read_headers(path: str | os.PathLike[str], key: bytes = b"") -> list[SliceHeader] | None:
    """Read the headers of a file's images, or None if it is not DICOM (or a DICOMDIR, which only lists files).

    Args:
        path: the file.
        key: of a data set, for its patients' groups; without one these aren't to be written down.

    Raises:
        ScanError: the file is DICOM but its header is damaged.
        OSError: the file can't be opened.
    """
    with _File(io.FileIO(path)) as file:
        head = file.read(132)
        marked = head[128:] == b"DICM"
        # Files without the 128-byte preamble start with a tag of group 2 or 8 (little or big endian).
        if not marked and head[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
            return None
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's warnings quote the header's values
                data = read_partial(file, _at_pixels, force=True, specific_tags=_TAGS)
                return _headers(os.fspath(path), data, file, marked, key)
        except Exception as e:  # pydicom raises nearly anything on damaged bytes
            if isinstance(e, ScanError):
                raise
            if not marked:
                return None
            raise ScanError("damaged DICOM header") from e


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    """Tell whether reading may stop; a type of value that doesn't exist (or none, in implicit encoding) is damage."""
    if vr is not None and vr not in _TYPES and vr.isalpha() and vr.isupper():
        # SimpleITK's reader took up to 0.7 GB for such a file of 862 bytes.
        raise ScanError("damaged DICOM header")
    return tag in _PIXEL_DATA


def _headers(
    path: str, data: pydicom.FileDataset, file: BinaryIO, marked: bool, key: bytes
) -> list[SliceHeader] | None:
    elements = _elements(data)
    if _text(elements, "SOPClassUID") == _MEDIA_DIRECTORY:
        return None
    for tag in list(data.file_meta.keys()):  # its iterator would convert the values
        _at_pixels(tag, data.file_meta.get_item(tag).VR, 0)
    if not elements.get("SeriesInstanceUID") and elements.get("Modality") is None:
        if not marked:
            return None
        raise ScanError("damaged or truncated DICOM header: neither series nor modality")
    rows, columns = _numbers(elements, "Rows", 1), _numbers(elements, "Columns", 1)
    matrix = (int(rows[0]), int(columns[0])) if rows and columns else None
    count, samples, bits = (
        int((_numbers(elements, keyword, 1) or (default,))[0])
        for keyword, default in (("NumberOfFrames", 1), ("SamplesPerPixel", 1), ("BitsAllocated", 16))
    )
    needed = matrix[0] * matrix[1] * samples * count * bits // 8 if matrix else 0
    complete = matrix is None or _holds_pixels(data, file, needed)
    enhanced = _SHARED in data or _PER_FRAME in data
    # Without groups of their own nothing tells frames apart, however many there are said to be.
    frames = _frames(data, elements, max(1, count)) if enhanced else [elements]
    speaks_for = 1 if _PER_FRAME in data else count
    return [_header(path, i, speaks_for, enhanced, frame, matrix, complete, key) for i, frame in enumerate(frames)]


def _elements(data: pydicom.Dataset) -> Elements:
    """Collect what is known of :data:`_NAMES`; what can't be understood stays bytes."""
    elements: Elements = {}
    for tag in list(data.keys()):
        if name := _KEYWORDS.get(tag):
            raw = data.get_item(tag)
            elements[name] = _plain(raw, raw.VR or _TYPE_OF.get(name))
            if elements[name] is None:
                try:
                    elements[name] = data[tag].value
                except Exception:  # pydicom raises nearly anything on damaged bytes
                    elements[name] = raw.value
    return elements


def _plain(raw: Any, vr: str | None) -> Any:
    """Decode an element's simplest values as pydicom does, which takes a third of the whole for it; else None."""
    if vr in _PLAIN_TEXT and isinstance(raw.value, bytes) and raw.value.isascii():
        texts = [text.strip(" \0") for text in raw.value.decode("ascii").split("\\")]
        return texts if len(texts) > 1 else texts[0]
    if vr == VR.US and isinstance(raw.value, bytes) and len(raw.value) == 2:
        return int.from_bytes(raw.value, "little" if raw.is_little_endian else "big")
    return None


def _frames(data: pydicom.Dataset, file: Elements, count: int) -> Iterator[Elements]:
    """Yield each frame as a classic header has it: its functional groups' elements beside the file's own."""
    shared, own = data.get(_SHARED) or [pydicom.Dataset()], data.get(_PER_FRAME) or [pydicom.Dataset()]
    if _PER_FRAME in data and len(own) != count:
        raise ScanError(f"damaged DICOM header: {count} frames, and functional groups of {len(own)}")
    common = file | _of_groups(shared[0])
    for groups in own:
        yield common | _of_groups(groups)


def _of_groups(groups: pydicom.Dataset) -> Elements:
    elements: Elements = {}
    for group in groups:
        if group.VR == "SQ" and group.value:
            # A gradient's direction lies one level deeper.
            elements |= _elements(group.value[0]) | _of_groups(group.value[0])
    return elements


def _header(
    path: str, index: int, frames: int, enhanced: bool, data: Elements, matrix: tuple[int, int] | None,
    complete: bool, key: bytes,
) -> SliceHeader:  # fmt: skip
    photometric = _text(data, "PhotometricInterpretation").strip().upper()
    series, patient = _text(data, "SeriesInstanceUID"), _text(data, "PatientID").strip()
    grey = photometric in ("", "MONOCHROME1", "MONOCHROME2") and _numbers(data, "SamplesPerPixel", 1) in (None, (1,))
    no_slice = _no_slice(data, frames, matrix is not None, grey)
    return SliceHeader(
        path=path,
        frame=index,
        frames=frames,
        plain=not enhanced and photometric != "MONOCHROME1" and _text(data, "SOPClassUID") in _ITK_READS,
        series=digest(series) if series else "",
        study=digest(study, 12) if (study := _text(data, "StudyInstanceUID")) else "",
        patient=patient_group(patient, key) if patient else "",
        modality=_text(data, "Modality").strip().upper(),
        no_slice=no_slice,
        company=bool(no_slice) and no_slice not in (_NO_IMAGE, _MOSAIC, _COLOUR),
        inverted=photometric == "MONOCHROME1",
        matrix=matrix,
        pixel_spacing=_numbers(data, "PixelSpacing", 2),
        position=_numbers(data, "ImagePositionPatient", 3),
        orientation=_numbers(data, "ImageOrientationPatient", 6),
        rescaling=_bad_rescaling(data),
        slope=(_numbers(data, "RescaleSlope", 1) or (1.0,))[0],
        intercept=(_numbers(data, "RescaleIntercept", 1) or (0.0,))[0],
        complete=complete,
        number=(_numbers(data, "InstanceNumber", 1) or (None,))[0],
        told=tuple(_told(data, series or key.hex())),
    )


def _no_slice(data: Elements, frames: int, is_image: bool, grey: bool) -> str:
    kind, modality = (
        f"{_text(data, 'ImageType')}{_text(data, 'FrameType')}".upper(),
        _text(data, "Modality").strip().upper(),
    )
    if modality in _NO_IMAGES:
        return f"not a scan but {_NO_IMAGES[modality]} ({modality})"
    if modality in _RADIOGRAPHS and frames == 1 and _numbers(data, "ImagePositionPatient", 3) is None:
        return f"a radiograph ({modality})"
    if "LOCALIZER" in kind:
        return LOCALIZER
    if not is_image:
        return _NO_IMAGE
    return _MOSAIC if "MOSAIC" in kind else "" if grey else _COLOUR


def _told(data: Elements, salt: str) -> Iterator[tuple[str, str]]:
    """Tell what may tell volumes of a series apart; ``salt``, of that series, keeps its words from being guessed."""
    for name, is_number in _IS_NUMBER.items():
        if text := _text(data, name):
            yield name, _number_text(data[name], salt) if is_number else digest(salt + text, 8)
    for name in data:
        if name.startswith("("):
            yield name, digest(salt + str(data[name]), 8)
    values = data.get("DimensionIndexValues")
    values = values if isinstance(values, Sequence) else [values]
    for number, (item, value) in enumerate(zip(data.get("DimensionIndexSequence") or (), values, strict=False)):
        if item.get("DimensionIndexPointer") not in _PLACES:
            yield f"dimension {number + 1}", _number_text(value, salt)


def _number_text(value: Any, salt: str) -> str:
    """Write numbers with the digits that count: exporters round them differently."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    try:
        return " ".join(f"{float(number):.6g}" for number in (value if several else [value]))
    except (TypeError, ValueError):
        return digest(f"{salt}{value}", 8)


def _bad_rescaling(data: Elements) -> str:
    # SimpleITK would take 0 and NaN for 1, and say nothing.
    for keyword, wrong in (("RescaleSlope", (None, (0.0,))), ("RescaleIntercept", (None,))):
        if _text(data, keyword) and _numbers(data, keyword, 1) in wrong:
            return f"without a valid {keyword}"
    return "whose values a table maps (ModalityLUTSequence), which isn't applied" if data.get(_TABLE) else ""


def _holds_pixels(data: pydicom.FileDataset, file: BinaryIO, needed: int) -> bool:
    """Tell whether pixel data start where pydicom stopped reading, and ``needed`` bytes (or all fragments) follow."""
    syntax = getattr(data, "file_meta", {}).get("TransferSyntaxUID") or pydicom.uid.ImplicitVRLittleEndian
    if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        return True  # the whole data set is one deflate stream: damage shows when the header is read
    order, length = "<" if syntax.is_little_endian else ">", 8 if syntax.is_implicit_VR else 12
    element, size = file.read(length), os.fstat(file.fileno()).st_size
    if len(element) < length:
        return False
    group, number = struct.unpack(order + "HH", element[:4])
    if (group << 16 | number) not in _PIXEL_DATA:
        return False
    if struct.unpack(order + "L", element[-4:])[0] != _UNDEFINED_LENGTH:
        return size - file.tell() >= needed
    count, offsets = parse_fragments(file)
    if count == 0:
        return False
    file.seek(offsets[-1] + 4)
    return offsets[-1] + 8 + struct.unpack("<L", file.read(4))[0] <= size


def _text(data: Elements, keyword: str) -> str:
    value = data.get(keyword)
    return "" if value is None else str(value)


def _numbers(data: Elements, keyword: str, count: int) -> tuple[float, ...] | None:
    try:
        value: Any = data.get(keyword)
        numbers = tuple(float(v) for v in ([value] if count == 1 or isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == count and all(abs(n) < float("inf") for n in numbers) else None
