"""Headers of all image files, and the data of MetaImage and NRRD, through SimpleITK."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import SimpleITK

from pretraining.scans.quiet import quiet_itk
from pretraining.scans.scan import Geometry, ScanError

_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4,
          "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}  # fmt: skip


def read_itk_geometry(path: Path) -> Geometry:
    """The grid of a 3D scalar image as SimpleITK states it, from the header alone.

    Trailing axes of length one are dropped.

    Raises:
        ScanError: SimpleITK can't read the header, or the image is not 3D or not scalar.
    """
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as e:
        raise ScanError(_explain(e)) from e
    size, n = reader.GetSize(), reader.GetDimension()
    if n < 3 or math.prod(size[3:]) > 1:
        raise ScanError(f"{n}D, shape {size} (x, y, z, ...): a 3D volume is needed")
    if reader.GetNumberOfComponents() > 1 or "complex" in SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()):
        raise ScanError("colour, vector or complex values: one number per voxel is needed")
    direction = np.reshape(reader.GetDirection(), (n, n))[:3, :3]
    return Geometry(size[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3], tuple(direction.ravel().tolist()))


def read_itk(path: Path) -> np.ndarray:
    """Voxels of a MetaImage or NRRD file, float32 (Z, Y, X).

    Raises:
        ScanError: SimpleITK can't read the data.
    """
    try:
        with quiet_itk():
            image = SimpleITK.ReadImage(str(path))
    except RuntimeError as e:
        raise ScanError(_explain(e)) from e
    voxels = SimpleITK.GetArrayFromImage(image)
    return voxels.reshape(voxels.shape[-3:]).astype(np.float32)


def verify_itk_data(path: Path) -> None:
    """Raise ScanError if the data are truncated or damaged in a way that SimpleITK does not report.

    It reads a MetaImage whose compressed data are damaged, and ignores the checksum of a compressed NRRD.

    Raises:
        ScanError: see above.
        OSError: the file, or the data file it names, can't be opened.
    """
    verify = _verify_nrrd if path.name.lower().endswith(".nrrd") else _verify_metaimage
    try:
        verify(path)
    except (zlib.error, EOFError, gzip.BadGzipFile) as e:
        raise ScanError("the compressed data are damaged or truncated") from e


def _verify_nrrd(path: Path) -> None:
    header, _, data = path.read_bytes().partition(b"\n\n")
    fields = header.lower().replace(b" ", b"").splitlines()
    if any(line.startswith((b"datafile:", b"data file:")) for line in fields):
        raise ScanError("its data are in another file: save the image as one .nrrd or .nii.gz file")
    if {b"encoding:gzip", b"encoding:gz"} & set(fields):
        gzip.decompress(data)  # verifies the CRC and the length


def _verify_metaimage(path: Path) -> None:
    fields, data_file = _metaimage_header(path)
    raw = _local_data(path) if data_file.upper() == "LOCAL" else _data_file(path, data_file).read_bytes()
    try:
        size = math.prod(int(n) for n in fields["DimSize"].split())
    except (KeyError, ValueError) as e:
        raise ScanError("its MetaImage header does not say how many voxels there are") from e
    needed = size * _BYTES.get(fields.get("ElementType", "").removeprefix("MET_"), 1)
    if fields.get("CompressedData", "False").lower() in ("true", "1", "t"):
        raw = _inflated(raw, needed)
    if len(raw) < needed:
        raise ScanError(f"truncated: {len(raw)} bytes of voxels, the header needs {needed}")


def _data_file(path: Path, name: str) -> Path:
    """The data's own file: beside the header, so that a stranger's header can't have any other file read."""
    if "%" in name or name.upper().startswith("LIST"):
        raise ScanError("its data are spread over several files: save the image as one .mha or .nii.gz file")
    if "\0" in name:
        raise ScanError("its MetaImage header does not name the data")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ScanError("its data are in another folder: put the data file beside it")
    file = path.parent / name
    if file.exists() and not file.is_file():
        raise ScanError("its data file is no file")
    return file


def _inflated(packed: bytes, needed: int) -> bytes:
    """The data, checksum verified, and no more of them than the header needs: a megabyte can hold gigabytes."""
    stream = zlib.decompressobj()
    data = stream.decompress(packed, max(1, needed + 1))
    if len(data) > needed:
        raise ScanError("the compressed data are more than the header says")
    if not stream.eof:
        raise EOFError
    return data


def _metaimage_header(path: Path) -> tuple[dict[str, str], str]:
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in file:  # ElementDataFile is the last line of the header by definition of the format
            key, _, value = line.decode("utf-8", "replace").partition("=")
            fields[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                return fields, value.strip()
    raise ScanError("its MetaImage header does not name the data")


def _local_data(path: Path) -> bytes:
    content = path.read_bytes()
    return content[content.index(b"\n", content.index(b"ElementDataFile")) + 1 :]


def _explain(error: RuntimeError) -> str:
    """A reason from an ITK exception, whose text is several lines with source files and addresses."""
    text = str(error)
    if "orthonormal" in text:
        return "its axes are not at right angles (the affine has shear)"
    if "No such file" in text or "does not exist" in text:
        return "the file, or the data file it names, does not exist or ends early"
    return "SimpleITK can't read it: damaged, or not the format that its name says"
