"""DICOM series: grouping files into series, and reading a series as a volume."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK

from pretraining.scans.dicom_geometry import SPACING_TOLERANCE, order_slices
from pretraining.scans.dicom_headers import SliceHeader, read_slice_header
from pretraining.scans.itk_files import quiet_itk
from pretraining.scans.scan import Geometry, LeftOut, Scan, ScanError


def digest(text: str, length: int) -> str:
    """The first ``length`` hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


class SeriesCollector:
    """Collects slices, from any number of folders, into series by SeriesInstanceUID.

    Files whose SeriesInstanceUID an anonymiser has blanked form one series per folder.
    """

    def __init__(self) -> None:
        self._series: dict[str, list[SliceHeader]] = {}
        self._folders: dict[str, str] = {}
        self._instances: set[str] = set()

    def add(self, header: SliceHeader, folder: str, root: str) -> None:
        """Add one file; an instance (SOPInstanceUID) that is there already is ignored.

        Args:
            header: the file's header.
            folder: the file's folder, posix, relative to its input root.
            root: the input root's own name.
        """
        if header.instance and header.instance in self._instances:
            return
        self._instances.add(header.instance)
        series = header.series or f"{root}/{folder}"
        self._series.setdefault(series, []).append(header)
        self._folders.setdefault(series, folder)

    def scans(self) -> tuple[list[Scan], list[LeftOut]]:
        """All series that are volumes, and the others with the reason."""
        scans, left_out = [], []
        for series, headers in self._series.items():
            try:
                scans.append(_scan(series, headers, self._folders[series]))
            except Exception as e:
                left_out.append(LeftOut.because(self._folders[series], e))
        return scans, left_out


def read_dicom(files: Sequence[str]) -> SimpleITK.Image:
    """Read a series as a volume, rescale slope and intercept applied (HU for CT).

    Args:
        files: the slices in reading order, as :func:`pretraining.scans.find.find_scans` gives them.

    Returns:
        A 32-bit float image.

    Raises:
        ScanError: the slices are no volume in this order, are damaged, or SimpleITK reads something else than the
            headers say.
        OSError: a file can't be opened.
    """
    headers = [h for h in (read_slice_header(Path(f)) for f in files) if h is not None]
    ordered, geometry = order_slices(headers)
    if [str(h.path) for h in ordered] != [str(Path(f)) for f in files]:
        raise ScanError("its files have changed since they were found")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(list(files))
    # Otherwise the first slice's rescaling decides the type of all, and fractions of the others are cut off (PET).
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    try:
        with quiet_itk():
            image = reader.Execute()
    except RuntimeError as e:
        raise ScanError("SimpleITK can't read its pixels: damaged, or compressed in an unknown way") from e
    _check_agreement(image, geometry)
    return image


def _scan(series: str, headers: Sequence[SliceHeader], folder: str) -> Scan:
    ordered, geometry = order_slices(headers)
    case = f"dicom_{digest(series, 12)}"
    patient = ordered[0].patient
    return Scan(
        case=case,
        kind="dicom",
        channels=(tuple(str(h.path) for h in ordered),),
        source=folder,
        group=f"patient_{digest(patient, 12)}" if patient else case,
        modality=ordered[0].modality or None,
        shape=geometry.shape,
        spacing=geometry.spacing_zyx,
    )


def _check_agreement(image: SimpleITK.Image, expected: Geometry) -> None:
    """Raise ScanError unless SimpleITK made of the slices what their headers say."""
    if image.GetSize() != expected.size:
        raise ScanError(f"read with the size {image.GetSize()}, its headers say {expected.size} (x, y, z)")
    if not np.allclose(image.GetSpacing(), expected.spacing, rtol=SPACING_TOLERANCE):
        raise ScanError(f"read with the spacing {image.GetSpacing()}, its headers say {expected.spacing} mm (x, y, z)")
    # The third axis of SimpleITK runs from the first to the last slice: a tilt within the tolerance turns it a little.
    if not np.allclose(image.GetDirection(), expected.direction, atol=0.05):
        raise ScanError("read with another orientation than its headers say")
