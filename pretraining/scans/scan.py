"""What a scan is: plain data that every other module of this package passes around."""

import hashlib
import os
import traceback
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal

from nnunet_genesis.errors import GenesisError

if TYPE_CHECKING:
    from pretraining.scans.dicom_headers import SliceHeader

Triple = tuple[float, float, float]
MODALITIES, SAME_MODALITY = ("CT", "MR", "PT", "NM", "US"), {"PET": "PT", "MRI": "MR"}  # DICOM's, and other names
SAME_SPACING = 1e-3  # relative difference up to which channels count as of one spacing
ERROR_LOG = "genesis_errors.log"  # beside the manifest
_PIECE = 1 << 16  # bytes


class ScanError(GenesisError):
    """One scan can't be used. The message is a short reason; it never quotes a DICOM header's text, names or UIDs."""


class LabelMapError(ScanError):
    """Not a scan but labels of one, as lie beside scans everywhere."""


@dataclass(frozen=True)
class Scan:
    """One usable scan, described without its pixels. Picklable, so that spawned workers can read it.

    ``group`` is shared by scans of the same patient: where DICOM names one, a hash of the number
    (:func:`pretraining.scans.dicom_headers.patient_group`), else of the study; where names of files tell one, a hash of
    that (:mod:`pretraining.scans.patients`); else the case name.
    """

    case: str  # name of the case, unique within one find_scans, of [A-Za-z0-9_-] only
    kind: Literal["dicom", "image"]
    channels: tuple[tuple[str, ...], ...]  # files of each: one (a 4D file several times), or a series' sorted slices
    source: str  # posix path below the folder that all roots are in; of a DICOM series that of its first file's folder
    group: str
    modality: str | None  # DICOM's ("CT", "MR", ...), or None where the format does not say
    shape: tuple[int, int, int]  # voxels (z, y, x)
    spacing: Triple  # mm (z, y, x)
    headers: tuple["SliceHeader", ...] = ()  # of a DICOM volume, in reading order, so that none is read again
    real: str = ""  # path of its first file, without symbolic links
    data: tuple[str, ...] = ()  # files that hold the voxels of headers (.mhd, .nhdr, .hdr, ...) beside them
    stamps: tuple[tuple[int, int], ...] = ()  # of its files and of data, when their headers were read
    corrections: tuple[str, ...] = ()  # what is taken otherwise than the files say, and other remarks: a sentence each


def digest(text: str, length: int = 64) -> str:
    """Return the first ``length`` hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


def stamp(status: os.stat_result) -> tuple[int, int]:
    """Tell by what a file that is still the same is known: its size, and when it was changed (ns)."""
    return status.st_size, status.st_mtime_ns


def own_name(scan: Scan) -> str:
    """Name a case, of an image file, by its path as no other is named."""
    return f"{scan.case.rpartition('_')[0]}_{digest(scan.real, 8)}"


def sample(scan: Scan, whole: bool = False) -> str:
    """Hash sizes, begins, middles and ends (a gzip stream's checksum) of a scan's files; "" if one can't be read.

    Args:
        scan: the scan.
        whole: whether all bytes are hashed.
    """
    found = hashlib.sha256()
    try:
        for path in dict.fromkeys(chain(*scan.channels, scan.data)):
            with open(path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                found.update(size.to_bytes(8, "big"))
                for start in range(0, size, _PIECE) if whole else (0, size // 2, max(0, size - _PIECE)):
                    file.seek(start)
                    found.update(file.read(_PIECE))
    except OSError:
        return ""
    return found.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class File:
    """A file that may be a scan, or a slice of one."""

    path: str
    real: str  # the same without symbolic links
    source: str  # posix path relative to the folder that all input roots are in
    folder: str  # its folder, likewise
    name: str  # what a case's name is made of: the input root's own name, and the posix path from there
    group: str  # likewise of its folder
    stamp: tuple[int, int]


@dataclass(frozen=True)
class LeftOut:
    """A file or series that is not used, or several in a folder, and why."""

    source: str  # posix path relative to the folder that all input roots are in
    reason: str  # one sentence a person understands
    trace: str = ""  # the traceback of an error that is ours, not the scan's
    expected: bool = False  # usual company of scans (a localizer, a duplicate, labels), and nothing to worry about

    @classmethod
    def copy(cls, scan: Scan, of: Scan) -> "LeftOut":
        """Name a scan that is there twice."""
        return cls(scan.source, f"same content as {of.source}", expected=True)

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
    """A 3D voxel grid as SimpleITK states it: every tuple in (x, y, z) order, mm, LPS."""

    size: tuple[int, int, int]  # voxels
    spacing: Triple
    origin: Triple  # position of the first voxel's centre
    direction: tuple[float, ...]  # the 3x3 direction cosines, row by row
    volumes: int = 1  # how many of it the file holds (4D)
    corrections: tuple[str, ...] = ()  # what in it is otherwise than in the file, in words

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
        """Give the dictionary that nnU-Net's SimpleITKIO gives for an image with this geometry."""
        stuff = {"spacing": self.spacing, "origin": self.origin, "direction": self.direction}
        return {"sitk_stuff": stuff, "spacing": [abs(s) for s in self.spacing_zyx]}
