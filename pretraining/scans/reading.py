"""Reading a scan as nnU-Net wants it: channels first, float32, with SimpleITKIO's properties."""

from pathlib import Path

import numpy as np
import SimpleITK
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from pretraining.scans.body import body_mask, guess_modality
from pretraining.scans.dicom import read_dicom
from pretraining.scans.hounsfield import check_hounsfield
from pretraining.scans.image_files import check_values, read_image_file
from pretraining.scans.scan import Scan, ScanError

_NO_BODY = "no body was told from a background: the whole image counts as body"


def read_scan(scan: Scan) -> tuple[np.ndarray, dict]:
    """Read all channels of a scan.

    Returns:
        The voxels, float32 (C, Z, Y, X), in the scan's own units (HU for CT), and the properties exactly as nnU-Net's
        SimpleITKIO gives them: ``spacing`` in mm as [z, y, x], and ``sitk_stuff``.

    Raises:
        ScanError: anything is wrong with the scan, a file has vanished, or the scan changed since it was found.
    """
    try:
        channels = [_read_channel(scan, files) for files in scan.channels]
    except OSError as e:
        raise ScanError(f"can't be read: {e.strerror or type(e).__name__}") from e
    properties = channels[0][1]
    for voxels, other in channels:
        if voxels.shape != scan.shape:
            raise ScanError(f"shape {voxels.shape} instead of {scan.shape} (z, y, x): it changed since it was found")
        if not np.allclose(other["spacing"], properties["spacing"]):
            raise ScanError(f"channels of different spacing: {other['spacing']} and {properties['spacing']} mm")
    return np.stack([voxels for voxels, _ in channels]), properties


class ScanReader(BaseReaderWriter):
    """Lets nnU-Net's own fingerprint extraction and preprocessing read a :class:`Scan` instead of file names.

    nnU-Net hands its ``image_files`` and ``seg_file`` to the reader as they are, so a Scan goes in both places. The
    "segmentation" is the body mask.

    Args:
        asked: modality of scans whose files don't say; None: guessed from the intensities.
        expected: modality that the scan must have; None: any of CT and MR.
        channels: number of channels that it must have; None: any.

    Attributes:
        found_modality: "CT" or "MR", of the scan whose body was found last.
        remark: what a person should know of that body, or "".
    """

    supported_file_endings: list[str] = []  # noqa: RUF012 - the base class declares it this way

    def __init__(self, asked: str | None = None, expected: str | None = None, channels: int | None = None) -> None:
        self.asked, self.expected, self.channels = asked, expected, channels
        self.found_modality = self.remark = ""
        self._last: tuple[Scan, np.ndarray, dict] | None = None

    def read_images(self, image_fnames: Scan) -> tuple[np.ndarray, dict]:
        """Read a scan; see :func:`read_scan`."""
        image, properties = read_scan(image_fnames)
        self._last = (image_fnames, image, properties)
        return image, properties

    def read_seg(self, seg_fname: Scan) -> tuple[np.ndarray, dict]:
        """The body mask of a scan, int8 (1, Z, Y, X), and the scan's properties. Reuses the image read last.

        Raises:
            ScanError: the modality isn't CT or MR, it or the number of channels isn't the expected one, or a CT's
                values are no HU.
        """
        if self._last is None or self._last[0] != seg_fname:
            self.read_images(seg_fname)
        assert self._last is not None
        scan, image, properties = self._last
        found = scan.modality or self.asked or guess_modality(image)
        # In the order in which a data set is planned too: a scan is left out for the same reason in every run.
        if found not in ("CT", "MR"):
            raise ScanError(wrong_modality(found, "CT or MR"))
        if found == "CT":
            check_hounsfield(image)
        if found != (self.expected or found):
            raise ScanError(wrong_modality(found, self.expected or ""))
        if len(image) != (self.channels or len(image)):
            raise ScanError(wrong_channels(len(image), self.channels or 0))
        self.found_modality = found
        body = body_mask(image, properties["spacing"], found)
        self.remark = _NO_BODY if body.all() else ""
        return body[None], properties

    def write_seg(self, seg: np.ndarray, output_fname: str, properties: dict) -> None:
        """Not supported: scans are only read."""
        raise NotImplementedError("ScanReader only reads")


def wrong_modality(found: str, expected: str) -> str:
    """Why a scan is left out of a data set of another modality."""
    return f"modality {found} among {expected} scans: prepare it as a data set of its own"


def wrong_channels(found: int, expected: int) -> str:
    """Why a scan is left out of a data set with another number of channels."""
    return f"{found} channel(s), expected {expected}: prepare it as a data set of its own"


def _read_channel(scan: Scan, files: tuple[str, ...]) -> tuple[np.ndarray, dict]:
    if scan.kind != "dicom":
        return read_image_file(Path(files[0]))
    image = read_dicom(files)
    voxels = SimpleITK.GetArrayFromImage(image)
    check_values(voxels)
    spacing = image.GetSpacing()
    stuff = {"spacing": spacing, "origin": image.GetOrigin(), "direction": image.GetDirection()}
    return voxels, {"sitk_stuff": stuff, "spacing": [abs(s) for s in spacing[::-1]]}
