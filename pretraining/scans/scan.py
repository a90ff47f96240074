"""What a scan is: plain data that every other module of this package passes around."""

import os
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nnunet_genesis.errors import GenesisError

if TYPE_CHECKING:
    from pretraining.scans.dicom_headers import SliceHeader

Triple = tuple[float, float, float]
ERROR_LOG = "genesis_errors.log"  # beside the manifest


class ScanError(GenesisError):
    """One scan can't be used. The message is a short reason; it never quotes a DICOM header's text, names or UIDs."""


class LabelMapError(ScanError):
    """Not a scan but labels of one, as lie beside scans everywhere."""


@dataclass(frozen=True)
class Scan:
    """One usable scan, described without its pixels. Picklable, so that spawned workers can read it.

    Attributes:
        case: name of the case, unique within one :func:`pretraining.scans.find.find_scans`, of ``[A-Za-z0-9_-]`` only.
        kind: how the files are read: a DICOM series, NIfTI, or through SimpleITK (MetaImage, NRRD).
        channels: per channel the files in reading order: one file, or the sorted slices of a DICOM series.
        source: posix path relative to its input root; for a DICOM series the folder of its first file.
        group: scans of the same patient share it: where DICOM names a patient, a hash of his number
            (:func:`pretraining.scans.dicom_headers.patient_group`); else the case name.
        modality: DICOM Modality ("CT", "MR", ...), or None where the format does not say.
        shape: voxels as (z, y, x).
        spacing: mm as (z, y, x).
        headers: of a DICOM volume, its images' headers in reading order, so that none is read again.
        stamps: of a DICOM volume, its files' stamps (:func:`stamp`) when their headers were read.
        corrections: what is taken otherwise than its files say, and other remarks: a sentence each, for the manifest.
    """

    case: str
    kind: Literal["dicom", "nifti", "itk"]
    channels: tuple[tuple[str, ...], ...]
    source: str
    group: str
    modality: str | None
    shape: tuple[int, int, int]
    spacing: Triple
    headers: tuple["SliceHeader", ...] = ()
    stamps: tuple[tuple[int, int], ...] = ()
    corrections: tuple[str, ...] = ()


def stamp(status: os.stat_result) -> tuple[int, int]:
    """Tell by what a file that is still the same is known: its size, and when it was changed (ns)."""
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class File:
    """A file that may be a scan, or a slice of one.

    Attributes:
        path: where it is.
        real: the same without symbolic links.
        source: posix path relative to its input root.
        folder: its folder, likewise.
        root: the input root's own name.
        stamp: its size and time (:func:`stamp`).
    """

    path: str
    real: str
    source: str
    folder: str
    root: str
    stamp: tuple[int, int]


@dataclass(frozen=True)
class LeftOut:
    """A file or series that is not used, or several in a folder, and why.

    Attributes:
        source: posix path relative to its input root.
        reason: one sentence a person understands.
        trace: the traceback of an error that is ours, not the scan's; else "".
        expected: whether it is usual company of scans (a localizer, a duplicate, labels), and nothing to worry about.
    """

    source: str
    reason: str
    trace: str = ""
    expected: bool = False

    @classmethod
    def because(cls, source: str, error: Exception) -> "LeftOut":
        """Name the reason that an exception gives; what nobody has foreseen is an internal error."""
        if isinstance(error, ScanError):
            return cls(source, str(error), expected=isinstance(error, LabelMapError))
        if isinstance(error, PermissionError):
            return cls(source, "no permission to read it")
        if isinstance(error, OSError):
            return cls(source, f"can't be read: {error.strerror or type(error).__name__}")
        trace = "".join(traceback.format_exception(error, chain=False))
        return cls(source, f"internal error ({type(error).__name__}), see {ERROR_LOG}", trace)


@dataclass(frozen=True)
class Geometry:
    """A 3D voxel grid as SimpleITK states it: every tuple in (x, y, z) order, mm, LPS.

    Attributes:
        size: voxels.
        spacing: mm.
        origin: position of the first voxel's centre, mm.
        direction: the 3x3 direction cosines, row by row.
        corrections: what in it is otherwise than in the file, in words.
    """

    size: tuple[int, int, int]
    spacing: Triple
    origin: Triple
    direction: tuple[float, ...]
    corrections: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels as (z, y, x)."""
        x, y, z = self.size
        return z, y, x

    @property
    def spacing_zyx(self) -> Triple:
        """Spacing in mm as (z, y, x)."""
        x, y, z = self.spacing
        return z, y, x

    def properties(self) -> dict:
        """The dictionary that nnU-Net's SimpleITKIO gives for an image with this geometry."""
        stuff = {"spacing": self.spacing, "origin": self.origin, "direction": self.direction}
        return {"sitk_stuff": stuff, "spacing": [abs(s) for s in self.spacing_zyx]}
