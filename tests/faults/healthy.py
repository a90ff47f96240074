"""A healthy CT, real where there is one, and how it is written in each format: what odd scans are made from."""

import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from tests.conftest import DATA
from tests.pretraining.preparation.synthetic_scans import write_scan
from tests.pretraining.scans.dicom_series import PREFIX, make_slice

REAL = "ct_unlabeled/kits_00072_partial.nii.gz"
STRIDE = 4  # of a real scan's rows and columns: small, and its values are still those of a scanner


@dataclass(frozen=True)
class Healthy:
    """A CT: ``voxels`` int16 (Z, Y, X) in HU, ``spacing`` in mm (z, y, x), patient's axes as rows of an LPS matrix."""

    voxels: np.ndarray
    spacing: tuple[float, float, float]
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)

    def image(self, pixel: type | None = None) -> SimpleITK.Image:
        """As SimpleITK's image, of another pixel type if given."""
        image = SimpleITK.GetImageFromArray(self.voxels if pixel is None else self.voxels.astype(pixel))
        image.SetSpacing(self.spacing[::-1])
        image.SetDirection(self.direction)
        return image

    def with_voxels(self, voxels: np.ndarray) -> "Healthy":
        return replace(self, voxels=voxels)


def healthy_scan(folder: Path) -> Healthy:
    """A real CT's every fourth row and column; a synthetic one where there are no real scans."""
    path = DATA / REAL if DATA.is_dir() else write_scan(folder / "synthetic.nii.gz")
    image = SimpleITK.ReadImage(str(path))
    step = STRIDE if DATA.is_dir() else 1
    x, y, z = image.GetSpacing()
    return Healthy(SimpleITK.GetArrayFromImage(image)[:, ::step, ::step].copy(), (z, y * step, x * step))


def write(path: Path, scan: Healthy, compress: bool = False, pixel: type | None = None) -> Path:
    """Through SimpleITK, in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(scan.image(pixel), str(path), compress)
    return path


def write_nifti(path: Path, scan: Healthy, array: np.ndarray | None = None, **header: object) -> Path:
    """Through nibabel: ``array`` (x, y, z, …) in the scan's place if given; header fields are set last, unchecked."""
    voxels = scan.voxels.T if array is None else array
    image = nibabel.Nifti1Image(voxels, np.diag([-scan.spacing[2], -scan.spacing[1], scan.spacing[0], 1]))
    raw = bytearray(image.to_bytes())
    fields = nibabel.Nifti1Header.from_fileobj(io.BytesIO(raw), check=False)
    for field, value in header.items():
        fields[field] = value
    raw[:348] = fields.binaryblock
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


def write_dicom(folder: Path, scan: Healthy, slices: Sequence[int] | None = None, **changes: object) -> list[Path]:
    """A series, a file a slice; ``slices`` picks some, ``changes`` set elements of all. The folder names the series."""
    _, rows, columns = scan.voxels.shape
    z, y, x = scan.spacing
    uid = f"{PREFIX}{zlib.crc32(folder.name.encode())}"
    # Series lie at different places, or they would be copies of each other.
    left = zlib.crc32(str(changes.get("SeriesInstanceUID", uid)).encode()) % 997
    files = []
    for number in range(len(scan.voxels)) if slices is None else slices:
        elements = {
            "SeriesInstanceUID": uid,
            "PatientID": uid[len(PREFIX) :],
            "Rows": rows,
            "Columns": columns,
            "PixelSpacing": [y, x],
            "ImagePositionPatient": [left, 0, z * number],
            "PixelData": (scan.voxels[number].astype(np.int32) + 1024).astype(np.int16).tobytes(),
            **changes,
        }
        files.append(make_slice(folder / f"slice {number}.dcm", number, **elements))
    return files


def cut(path: Path, share: float) -> Path:
    """Keep only the first ``share`` of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def flip(path: Path, position: int) -> Path:
    """Flip a bit of the byte at ``position`` (from the end if negative)."""
    raw = bytearray(path.read_bytes())
    raw[position] ^= 4
    path.write_bytes(raw)
    return path
