"""Tiny DICOM series for tests, with names and identifiers that must not appear anywhere."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SECRETS = ("Planted^Name", "PLANTED-ID-77", "19991231", "1.2.826.0.1.77777", "PlantedHospital")
PREFIX = "1.2.826.0.1.77777."
SERIES = f"{PREFIX}1"


def make_slice(path: Path, number: int, **changes: object) -> Path:
    """Write one 4x6 slice at z = 2.5 mm * number; ``changes`` set elements, None deletes one."""
    data = pydicom.Dataset()
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = CTImageStorage, generate_uid(PREFIX), SERIES
    data.PatientName, data.PatientID, data.StudyDate, data.InstitutionName = (
        SECRETS[0],
        SECRETS[1],
        SECRETS[2],
        SECRETS[4],
    )
    data.Modality, data.ImageType, data.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], number + 1
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 4, 6, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelSpacing, data.ImageOrientationPatient = [0.5, 0.75], [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [0, 0, 2.5 * number]
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = (np.arange(24) + 100 * number).astype(np.int16).tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID or generate_uid(PREFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def make_series(folder: Path, count: int = 12, **changes: object) -> list[Path]:
    """Write ``count`` slices 2.5 mm apart, 0.dcm, 1.dcm, ..."""
    return [make_slice(folder / f"{i}.dcm", i, **changes) for i in range(count)]


def edit(path: Path, **changes: object) -> None:
    """Set elements of a DICOM file in place."""
    data = pydicom.dcmread(path)
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    data.save_as(path)


def make_enhanced(path: Path, frames: list[dict], shared: dict | None = None, **changes: object) -> Path:
    """Write an enhanced object: each frame's ``pixels`` (rows, columns), and its functional groups as nested dicts.

    For example ``{"PlanePositionSequence": {"ImagePositionPatient": [0, 0, 1]}}``.
    """
    make_slice(path, 0)
    data = pydicom.dcmread(path)
    for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope",
                    "RescaleIntercept"):  # fmt: skip
        delattr(data, keyword)
    pixels = np.stack([frame["pixels"] for frame in frames])
    data.NumberOfFrames, data.Rows, data.Columns = pixels.shape
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    data.PixelData = pixels.astype(np.int16).tobytes()
    common = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelMeasuresSequence": {"PixelSpacing": [0.5, 0.75]},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"},
        **(shared or {}),
    }
    data.SharedFunctionalGroupsSequence = [_dataset(common)]
    data.PerFrameFunctionalGroupsSequence = [
        _dataset({name: group for name, group in frame.items() if name != "pixels"}) for frame in frames
    ]
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    data.save_as(path)
    return path


def at(z: float, pixels: np.ndarray, **groups: dict) -> dict:
    """A frame at a height, for :func:`make_enhanced`."""
    return {"pixels": pixels, "PlanePositionSequence": {"ImagePositionPatient": [0, 0, z]}, **groups}


def _dataset(elements: dict) -> pydicom.Dataset:
    data = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, [_dataset(value)] if isinstance(value, dict) else value)
    return data
