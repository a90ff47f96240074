"""Reading a scan as nnU-Net wants it: channels first, float32, with SimpleITKIO's properties."""

from collections import Counter
from pathlib import Path

import numpy as np
import SimpleITK

from pretraining.scans.body import body_mask
from pretraining.scans.content import (
    is_ct_name,
    is_label_map,
    looks_like_ct,
    may_be_probability,
    may_be_soft_tissue,
    named_like_labels,
)
from pretraining.scans.dicom import read_dicom
from pretraining.scans.image_files import check_values, os_errors_in_words, read_image_file
from pretraining.scans.itk_files import itk_image, properties_of
from pretraining.scans.scan import MODALITIES, SAME_MODALITY, SAME_SPACING, LabelMapError, Scan, ScanError

_ENOUGH = 1_000_000  # voxels tell what intensities are
_TISSUE = (-200, 300)  # HU: fat, water, blood and soft tissue
# In 13 CTs of head to pelvis, crops and low doses among them, 79 to 96 % of what is denser than lung is tissue; with a
# slope that is wrong by a factor of 1.5 or more, mostly less than 15 %.
_LEAST_TISSUE = 0.25
# With the offset subtracted twice, 3 to 44 % (22 CTs): 60 % say that what lies below -1500 is padding, although a lossy
# compression has given it many values.
_PADDED_TISSUE = 0.6
_OFFSET, _SLOPE = "Correct its rescale intercept", "Correct its rescale slope and intercept"
_MOST = 0.05  # share of voxels out of the ordinary: metal, noise
LABELS = "labels of a scan, not a scan (if it is one: --include_labels)"
_PERHAPS_LABELS = ("smooth values from 0 to 1, most of them 0: a map of probability, or a scan that was scaled and "
                   "blurred (then: --include_labels)")  # fmt: skip
_SAYS_NOTHING = (None, "", "OT", "SC")  # DICOM's "other" and "secondary capture"
_NO_BODY = "no body was told from a background: the whole image counts as body"


def read_scan(scan: Scan) -> tuple[np.ndarray, dict]:
    """Read all channels of a scan.

    Returns:
        The voxels, float32 (C, Z, Y, X), in the scan's own units (HU for CT), and the properties exactly as nnU-Net's
        SimpleITKIO gives them: ``spacing`` in mm as [z, y, x], and ``sitk_stuff``; besides ``remarks``, if there are
        any, that a person should see.

    Raises:
        ScanError: anything is wrong with the scan, a file has vanished, or the scan changed since it was found.
    """
    with os_errors_in_words():
        images = [_read_file(scan, files, count) for files, count in Counter(scan.channels).items()]
    channels = [(channel, other) for image, other in images for channel in image]
    properties = {key: value for key, value in channels[0][1].items() if key != "remarks"}
    remarks = [*scan.corrections, *(remark for _, other in channels for remark in other.get("remarks", ()))]
    empty = [number for number, (voxels, _) in enumerate(channels) if voxels.min() == voxels.max()]
    if len(empty) == len(channels):
        if named_like_labels(scan.channels[0][0]):
            raise LabelMapError(f"label map, and an empty one: {LABELS}")
        check_values(channels[0][0], may_be_constant=len(channels) > 1)
        raise ScanError("every voxel of every channel has the same value")
    if empty:
        remarks.append(f"channel {', '.join(map(str, empty))} has one value everywhere: nothing is known of it")
    if remarks:
        properties["remarks"] = list(dict.fromkeys(remarks))
    for voxels, other in channels:
        if voxels.shape != scan.shape:
            raise ScanError(f"shape {voxels.shape} instead of {scan.shape} (z, y, x): it changed since it was found")
        if not np.allclose(properties["spacing"], other["spacing"], rtol=SAME_SPACING):
            raise ScanError(f"channels of different spacing: {other['spacing']} and {properties['spacing']} mm")
    return np.stack([voxels for voxels, _ in channels]), properties


class ScanReader:
    """Lets nnU-Net's own fingerprint extraction and preprocessing read a :class:`Scan` instead of file names.

    nnU-Net hands its ``image_files`` and ``seg_file`` to the reader as they are, so a Scan goes in both places. The
    "segmentation" is the body mask.

    Args:
        asked: modality that somebody has named; None: told by the DICOM tag, else by the intensities.
        expected: modality that the scan must have; None: any.
        channels: number of channels that it must have; None: any.
        labels: whether label maps count as scans.

    Attributes:
        reorient: whether the axes are turned to the patient's (RAS), as readers of nnU-Net's with that name do.
        image, properties: of the scan read last.
        body: int8 (Z, Y, X), of the scan whose body was found last.
        found_modality: of that scan.
        remark: what a person should know of that scan and its body, or "".
    """

    image: np.ndarray
    properties: dict
    body: np.ndarray

    def __init__(
        self, asked: str | None = None, expected: str | None = None, channels: int | None = None, labels: bool = False
    ) -> None:
        self.asked, self.expected, self.channels, self.labels = asked, expected, channels, labels
        self.reorient = False
        self.found_modality = self.remark = ""
        self._remarks: list[str] = []
        self._scan: Scan | None = None

    def read_images(self, image_fnames: Scan) -> tuple[np.ndarray, dict]:
        """Read a scan; see :func:`read_scan`.

        Raises:
            ScanError: it holds labels (a LabelMapError), or may do so.
        """
        image, properties = read_scan(image_fnames)
        self._remarks = properties.pop("remarks", [])
        if not self.labels:
            check_no_labels(image_fnames, image)
        if self.reorient:
            image, properties = reoriented(image, properties)
        self._scan, self.image, self.properties = image_fnames, image, properties
        return image, properties

    def read_seg(self, seg_fname: Scan) -> tuple[np.ndarray, dict]:
        """Find the body of a scan, int8 (1, Z, Y, X), and give its properties. Reuses the image read last.

        Raises:
            ScanError: it or the number of channels isn't the expected one, or a CT's values are no HU.
        """
        if self._scan != seg_fname:
            self.read_images(seg_fname)
        image, properties = self.image, self.properties
        found, hounsfield = modality_of(seg_fname, image, self.asked, self.expected)
        if not (self.asked or self.expected or self.channels) and any(hounsfield) and not all(hounsfield):
            raise ScanError("its channels are CT and others, by their values: name them with --modality (if it isn't "
                            "CT, all are z-scored)")  # fmt: skip
        # In the order in which a data set is planned too: a scan is left out for the same reason in every run.
        if found == "CT" and (reason := why_no_hounsfield(image[hounsfield] if any(hounsfield) else image)):
            raise ScanError(reason)
        if len(image) != (self.channels or len(image)):
            raise ScanError(wrong_channels(len(image), self.channels or 0))
        self.found_modality = found
        kind = "CT" if found == "CT" or (is_ct_name(found) and all(hounsfield)) else "MR"
        shown = image[hounsfield] if kind == "CT" and any(hounsfield) else image
        self.body = body_mask(shown, properties["spacing"], kind)
        self.remark = "; ".join([*self._remarks, *([_NO_BODY] if self.body.all() else [])])
        return self.body[None], properties


def reoriented(image: np.ndarray, properties: dict) -> tuple[np.ndarray, dict]:
    """Turn an image (C, Z, Y, X) so that its axes run right, forward and up (RAS), as nnU-Net's ``…WithReorient``."""
    turned = [SimpleITK.DICOMOrient(itk_image(channel, properties["sitk_stuff"]), "RAS") for channel in image]
    return np.stack([SimpleITK.GetArrayFromImage(one) for one in turned]), properties | properties_of(turned[0])


def check_no_labels(scan: Scan, image: np.ndarray) -> None:
    """Raise ScanError if all channels (C, Z, Y, X) of an image file that show something hold labels, or may do so."""
    shown = [channel for channel in image if channel.min() < channel.max()]
    named = named_like_labels(scan.channels[0][0])
    if scan.kind == "dicom":
        return
    if all(is_label_map(channel, named) for channel in shown):
        raise LabelMapError(f"label map: {LABELS}")
    if all(may_be_probability(channel) for channel in shown):
        raise ScanError(_PERHAPS_LABELS)


def modality_of(
    scan: Scan, image: np.ndarray, asked: str | None = None, expected: str | None = None
) -> tuple[str, list[bool]]:
    """Tell a scan's modality, and of each channel whether its values look like HU.

    A DICOM tag counts; else what somebody has asked for, if the values allow it; else the values.

    Raises:
        ScanError: it isn't what is asked for or expected.
    """
    hounsfield = [looks_like_ct(channel) for channel in image]
    wanted = asked or expected
    tag = SAME_MODALITY.get(scan.modality or "", scan.modality) if scan.modality not in _SAYS_NOTHING else None
    found = tag or ("CT" if any(hounsfield) else "MR")
    if wanted is None:
        return found, hounsfield
    fits = is_ct_name(found) == is_ct_name(wanted)
    if tag:  # a name that is no tag (T1, CTA) may be any of its kind
        fits &= tag == SAME_MODALITY.get(wanted, wanted) or SAME_MODALITY.get(wanted, wanted) not in MODALITIES
    elif asked and not fits:  # where values don't decide; other kinds of CT needn't be in HU
        is_kind = is_ct_name(asked) and (asked != "CT" or may_be_soft_tissue(image))
        fits = is_kind or not (is_ct_name(asked) or (is_ct_name(found) and not why_no_hounsfield(image)))
    if not fits:
        raise ScanError(f"modality {found} among {wanted} scans: prepare it as a data set of its own")
    return wanted, hounsfield


def why_no_hounsfield(voxels: np.ndarray) -> str:
    """Say why voxels, of any shape, can't be HU of a patient: a wrong factor, a lost offset, 8 bits; "" if they can.

    Errors that leave tissue where tissue may be (a slope wrong by a fifth) can't be told from values alone.
    """
    sample = voxels.ravel()[:: max(1, voxels.size // _ENOUGH)]
    lowest, highest = voxels.min(), voxels.max()
    dense = sample[sample > -500]
    tissue = np.mean((dense > _TISSUE[0]) & (dense < _TISSUE[1])) if len(dense) else 0.0
    below = np.mean((sample < -1500) & (sample > lowest))  # the lowest may be padding
    share = f"{tissue:.0%} of what is denser than lung lies from -200 to 300, where tissue is"
    for found, problem, remedy in (
        (highest - lowest < 256, f"they span {highest - lowest:g} values: 8 bits, of a window or wrapped around",
         "Export it again as it was reconstructed"),
        (np.mean(sample > 4000) > _MOST, "many lie above 4000", _SLOPE),
        (below > _MOST and tissue < _PADDED_TISSUE, "many lie below -1500", _OFFSET),
        (lowest > -200 and np.mean(sample > 700) > _MOST, "there is no air and no fat, and much above 700", _OFFSET),
        (tissue < _LEAST_TISSUE, share, f"{_SLOPE}; or, if it is no CT, say what it is with --modality"),
    ):  # fmt: skip
        if found:
            return f"its values are no Hounsfield units: {problem}. {remedy}"
    return ""


def wrong_channels(found: int, expected: int) -> str:
    """Say why a scan is left out of a data set with another number of channels."""
    return f"{found} channel(s), expected {expected}: prepare it as a data set of its own"


def _read_file(scan: Scan, files: tuple[str, ...], volumes: int) -> tuple[np.ndarray, dict]:
    if scan.kind != "dicom":
        return read_image_file(Path(files[0]), volumes, may_be_constant=True)
    image = read_dicom(scan)
    voxels = SimpleITK.GetArrayFromImage(image)
    check_values(voxels)
    return voxels[None], properties_of(image)
