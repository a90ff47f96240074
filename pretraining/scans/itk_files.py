"""Headers of all image files, and the data of MetaImage and NRRD, through SimpleITK."""

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK

from pretraining.scans.nifti import read_gzip
from pretraining.scans.scan import Geometry, ScanError

_METAIMAGE, _NRRD = (".mha", ".mhd"), (".nrrd", ".nhdr")
_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4,
          "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}  # fmt: skip

# What MetaIO has room for; a longer Name, or more axes, ends the process.
_MOST_AXES, _LONGEST = 10, 250
_PIECE = 1 << 16  # bytes unpacked at a time: deflate makes at most 1032 of one
_HEADER = 1_000_000  # bytes: no header is longer
_TEXTS = ("Name", "Comment", "ObjectType", "ObjectSubType", "TransformType", "AnatomicalOrientation", "Modality",
          "ElementType", "ElementDataFile")  # fmt: skip
SHEARED = "its axes are not at right angles (the affine has shear)"
_NO_SPACING = "its header gives no voxel spacing, and SimpleITK would take 1 mm: save it with its spacing"


# The fields, the names of the data files (none: the data follow), and the byte behind the header.
Header = tuple[dict[str, str], list[str], int]


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Switch ITK's warnings off within the block: what matters in them is checked here and said in words."""
    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def read_itk_geometry(path: Path) -> Geometry:
    """Read the grid of 3D scalar volumes as SimpleITK states it, from the header alone.

    Raises:
        ScanError: SimpleITK can't read the header, or the image is not 3D or 4D, or not scalar.
    """
    if path.name.lower().endswith((*_METAIMAGE, *_NRRD)):
        _header(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as e:
        raise ScanError(_explain(e)) from e
    size, n = reader.GetSize(), reader.GetDimension()
    if n < 3 or math.prod(size[4:]) > 1:
        raise ScanError(f"{n}D, shape {size} (x, y, z, ...): a 3D volume is needed")
    if reader.GetNumberOfComponents() > 1 or "complex" in SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()):
        raise ScanError("colour, vector or complex values: one number per voxel is needed")
    direction = np.reshape(reader.GetDirection(), (n, n))[:3, :3]
    spacing, origin, directions = reader.GetSpacing()[:3], reader.GetOrigin()[:3], tuple(direction.ravel().tolist())
    return Geometry(size[:3], spacing, origin, directions, math.prod(size[3:]))


def read_itk(path: Path) -> np.ndarray:
    """Read the voxels of a file, float32 (C, Z, Y, X).

    Raises:
        ScanError: SimpleITK can't read the data.
    """
    try:
        with quiet_itk():
            image = SimpleITK.ReadImage(str(path))
    except RuntimeError as e:
        raise ScanError(_explain(e)) from e
    voxels = SimpleITK.GetArrayFromImage(image)
    return voxels.reshape(-1, *voxels.shape[-3:]).astype(np.float32)


def itk_image(voxels: np.ndarray, stuff: Mapping[str, Sequence[float]]) -> SimpleITK.Image:
    """Make an image of voxels (Z, Y, X); ``stuff`` is nnU-Net's ``sitk_stuff``."""
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(stuff["spacing"])
    image.SetOrigin(stuff["origin"])
    image.SetDirection(np.ravel(stuff["direction"]).tolist())
    return image


def properties_of(image: SimpleITK.Image) -> dict:
    """Give the properties that nnU-Net's SimpleITKIO gives for an image."""
    spacing = image.GetSpacing()
    stuff = {"spacing": spacing, "origin": image.GetOrigin(), "direction": image.GetDirection()}
    return {"sitk_stuff": stuff, "spacing": [abs(s) for s in spacing[::-1]]}


def data_names(path: Path) -> list[str]:
    """Name the files beside a header that hold its voxels; none if they follow it."""
    return _header(path)[1] if path.stat().st_size <= _HEADER else []


def verify_itk_data(path: Path) -> None:
    """Raise ScanError (or OSError) if data are truncated or damaged, or can't be opened, and SimpleITK wouldn't say so.

    It reads a MetaImage whose compressed data are damaged, and ignores the checksum of a compressed NRRD.
    """
    fields, names, begin = _header(path)
    nrrd = path.name.lower().endswith(_NRRD)
    if nrrd and not any(fields.get(key, "").replace("none", "").strip() for key in ("space directions", "spacings")):
        raise ScanError(_NO_SPACING)
    data = [(path.parent / name).read_bytes() for name in names] or [path.read_bytes()[begin:]]
    needed = math.prod(_numbers(fields, "DimSize")) // len(data)
    needed *= _BYTES.get(fields.get("ElementType", "").removeprefix("MET_"), 1)
    zipped = fields.get("CompressedData", "False").lower() in ("true", "1", "t")
    try:
        for stream in data:
            if nrrd and fields.get("encoding", "").lower() in ("gzip", "gz"):
                read_gzip(io.BytesIO(stream), 0)
            elif not nrrd and (found := _inflated_size(stream) if zipped else len(stream)) < needed:
                raise ScanError(f"truncated: {found} bytes of voxels, the header needs {needed}")
    except (zlib.error, EOFError, gzip.BadGzipFile) as e:
        raise ScanError("the compressed data are damaged or truncated") from e


def _header(path: Path) -> Header:
    """Read the header, whose data must be in files beside it: not in a password file, or an endless device."""
    header = (_nrrd_header if path.name.lower().endswith(_NRRD) else _metaimage_header)(path)
    for name in header[1]:
        if "\0" in name:
            raise ScanError("its header does not name the data")
        if "%" in name:
            raise ScanError("its data are spread over several files: save the image as one .mha, .nrrd or .nii.gz file")
        if Path(name) != Path(Path(name).name):  # "./a.raw" is fine
            raise ScanError("its data are in another folder: put both files into one")
        if not (path.parent / name).resolve(strict=True).is_file():
            raise ScanError("its data file is no regular file")
    return header


def _nrrd_header(path: Path) -> Header:
    with path.open("rb") as file:
        head = file.read(_HEADER)
    end = re.search(rb"\r?\n\r?\n", head)
    lines = head[: end.start() if end else len(head)].decode("utf-8", "replace").splitlines()
    # "key:=value" is a remark of the writer's.
    pairs = [line.partition(":") for line in lines if ":" in line and ":=" not in line]
    fields = {key.strip().lower(): value.strip() for key, _, value in pairs}
    name = fields.get("data file", fields.get("datafile", ""))
    names = [name] if name else []
    if name.upper().startswith("LIST"):
        names = lines[next(i for i, line in enumerate(lines) if line.lower().startswith("data")) + 1 :]
    return fields, names, end.end() if end else len(head)


def _metaimage_header(path: Path) -> Header:
    with path.open("rb") as file:
        head = file.read(_HEADER)
    # It is the last line of the header by definition of the format; a list of files may follow.
    last = re.search(rb"(?m)^[ \t]*ElementDataFile[ \t]*=(.*)(?:\n|\Z)", head)
    if not last:
        raise ScanError("not a MetaImage file, or its header does not name the data")
    pairs = [line.partition("=") for line in head[: last.end()].decode("utf-8", "replace").split("\n")]
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    _check_metaimage(fields)
    names = [fields["ElementDataFile"]]
    if names[0].upper() == "LOCAL":
        names = []
    elif names[0].upper().startswith("LIST"):
        names = [line.strip() for line in head[last.end() :].decode("utf-8", "replace").split("\n") if line.strip()]
    return fields, names, last.end()


def _inflated_size(raw: bytes) -> int:
    """Count the bytes of a zlib stream, unpacked piece by piece; its checksum is verified at the end."""
    stream = zlib.decompressobj()
    size = sum(len(stream.decompress(raw[start : start + _PIECE])) for start in range(0, len(raw), _PIECE))
    if not stream.eof:
        raise EOFError
    return size


def _check_metaimage(fields: dict[str, str]) -> None:
    """Raise ScanError for what SimpleITK would take for 1 mm, or write beyond its memory for."""
    axes = _numbers(fields, "NDims")
    if len(axes) != 1 or not 0 < axes[0] <= _MOST_AXES or len(_numbers(fields, "DimSize")) != axes[0]:
        raise ScanError("its MetaImage header can't be understood (NDims, DimSize)")
    if any("\0" in text for item in fields.items() for text in item):
        raise ScanError("its MetaImage header can't be understood (a field that is no text)")
    if long := next((key for key in _TEXTS if len(fields.get(key, "").encode()) > _LONGEST), None):
        raise ScanError(f"its MetaImage header has a {long} of more than {_LONGEST} characters: shorten it")
    if not (fields.get("ElementSpacing") or fields.get("ElementSize")):
        raise ScanError(_NO_SPACING)


def _numbers(fields: dict[str, str], key: str) -> list[int]:
    try:
        return [int(n) for n in fields.get(key, "").split()]
    except ValueError:
        return []


def _explain(error: RuntimeError) -> str:
    """Make a reason of an ITK exception, whose text is several lines with source files and addresses."""
    text = str(error)
    if "orthonormal" in text:
        return SHEARED
    if "No such file" in text or "does not exist" in text:
        return "the file, or the data file it names, does not exist or ends early"
    return "SimpleITK can't read it: damaged, or not the format that its name says"
