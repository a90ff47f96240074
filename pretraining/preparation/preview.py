"""What the manifest's page shows of a scan: three slices with the body's outline, and how bright the body is.

It is made while the scan is preprocessed, when its voxels are at hand, and kept in the case's properties. Slices only:
no surface is drawn by which a face could be known.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK
from PIL import Image
from scipy.ndimage import binary_erosion

from pretraining.scans.itk_files import itk_image

_SIDE = 128  # pixels of a slice
_ENOUGH = 1_000_000  # voxels tell what intensities are
_COARSE = 4  # every such voxel tells where the body is
_OUTLINE = (255, 140, 0)
_QUALITY = 80  # of JPEG: about 8 kB a scan


@dataclass(frozen=True)
class Preview:
    """A scan as the page shows it."""

    jpeg: bytes  # axial, coronal and sagittal slice of the first channel through the body's middle, side by side
    percentiles: np.ndarray  # (C, 101), the body's intensities, before preprocessing


def preview(image: np.ndarray, body: np.ndarray, properties: dict[str, Any]) -> Preview:
    """Make a scan's preview.

    Args:
        image: (C, Z, Y, X), as stored.
        body: (Z, Y, X), 1 in the body.
        properties: of the image, as nnU-Net's SimpleITKIO gives them.
    """
    step = max(1, body.size // _ENOUGH)
    inside = body.ravel()[::step] > 0
    values = [channel.ravel()[::step] for channel in image]
    percentiles = np.array([np.percentile(v[inside] if inside.any() else v, range(101)) for v in values], np.float32)
    low, high = percentiles[0, 1], percentiles[0, 99]
    # Turned by quarters so that the axes run to the patient's left, back and head.
    turned = [SimpleITK.DICOMOrient(itk_image(one, properties["sitk_stuff"]), "LPS") for one in (image[0], body)]
    voxels, mask = (SimpleITK.GetArrayFromImage(one).T for one in turned)
    spacing = turned[0].GetSpacing()
    middle = [_middle(mask[::_COARSE, ::_COARSE, ::_COARSE], axis, mask.shape[axis]) for axis in range(3)]
    panels = Image.new("RGB", (3 * _SIDE, _SIDE))
    scale = _SIDE / max(n * s for n, s in zip(mask.shape, spacing, strict=True))
    for number, (rows, columns) in enumerate(((1, 0), (2, 0), (2, 1))):  # x, y, z run to the left, back, and head
        across = 3 - rows - columns
        grey, outlined = (np.take(a, middle[across], across).T for a in (voxels, mask))
        grey = np.clip((grey.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 1) * 255
        size = [max(1, round(mask.shape[axis] * spacing[axis] * scale)) for axis in (columns, rows)]
        panel = _outlined(grey, outlined, size, upside_down=rows == 2)
        panels.paste(panel, (number * _SIDE + (_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    stream = io.BytesIO()
    panels.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return Preview(stream.getvalue(), percentiles)


def _middle(mask: np.ndarray, axis: int, length: int) -> int:
    found = np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis})))
    return min(length - 1, _COARSE * int(found[0] + found[-1]) // 2) if len(found) else length // 2


def _outlined(grey: np.ndarray, mask: np.ndarray, size: Sequence[int], upside_down: bool) -> Image.Image:
    """Draw a slice (rows, columns), of 0 to 255, at ``size`` (width, height), with the mask's outline in colour."""
    width, height = size
    pixels = np.array(Image.fromarray(grey.astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR))
    inside = np.array(Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)) > 0
    coloured = np.stack([pixels] * 3, axis=-1)
    coloured[inside & ~binary_erosion(inside)] = _OUTLINE
    return Image.fromarray(coloured[::-1] if upside_down else coloured)
