"""Whether the slices of a DICOM series form a volume, and if not, why, in words. Headers only."""

from collections.abc import Sequence

import numpy as np
from highdicom.spatial import get_volume_positions

from pretraining.scans.dicom_headers import SliceHeader
from pretraining.scans.scan import Geometry, ScanError

# Positions are often written with one decimal, which makes 1.25 mm alternate between 1.2 and 1.3; a missing slice
# changes the distance by 100 %, so this stays far from it.
SPACING_TOLERANCE = 0.05
# Direction cosines are rounded differently from slice to slice; 1e-3 is 0.06 degrees.
ORIENTATION_TOLERANCE = 1e-3
# Where highdicom stops to call any two slices perpendicular to their planes: a cosine of 0.999, 2.6 degrees.
_PERPENDICULAR = 1e-3
# Degrees by which the whole stack may lean: as far as image files' axes may be off a right angle. Less is remarked on,
# if the last slice lies farther aside (mm) than rounding puts it.
_MOST_TILT, _ROUNDED = 1.25, 0.1


class MissingSlicesError(ScanError):
    """A volume that lacks some of its slices, and is regular else."""


def order_slices(headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], Geometry]:
    """Sort the slices of one series along their normal, and give the volume's geometry.

    Returns:
        The headers in the order in which the volume's z axis runs, and the grid (x, y, z order, mm, LPS).

    Raises:
        ScanError: the slices are no regular volume; the message says what is wrong with them.
    """
    _check_objects(headers)
    _check_equal(headers)
    positions = np.array([h.position for h in headers])
    orientation = np.mean(np.array([h.orientation for h in headers], dtype=float), axis=0)
    row, column = orientation[:3] / np.linalg.norm(orientation[:3]), orientation[3:] / np.linalg.norm(orientation[3:])
    normal = np.cross(row, column)
    distance, index = get_volume_positions(
        positions, orientation, rtol=SPACING_TOLERANCE, perpendicular_tol=_PERPENDICULAR, index_convention="RD"
    )
    if distance is None or index is None:
        raise _reason(positions, normal)
    ordered = [headers[i] for i in np.argsort(index)]
    first = ordered[0]
    assert first.matrix and first.pixel_spacing and first.position  # noqa: PT018 - _check_objects has seen to it
    (rows, columns), (down, across), (x, y, z) = first.matrix, first.pixel_spacing, first.position
    axes = tuple(np.stack([row, column, normal], axis=1).ravel().tolist())
    remarks = _tilt(np.subtract(ordered[-1].position, first.position), normal)
    return ordered, Geometry(
        (columns, rows, len(ordered)), (across, down, float(distance)), (x, y, z), axes, corrections=remarks
    )


def _tilt(span: np.ndarray, normal: np.ndarray) -> tuple[str, ...]:
    """Remark on a stack, whose last slice lies at ``span`` (mm) from its first, that leans a little.

    Raises:
        ScanError: more than a little.
    """
    height = span @ normal
    aside = float(np.linalg.norm(span - height * normal))
    angle = np.degrees(np.arctan2(aside, height))
    if aside <= _ROUNDED:
        return ()
    if angle > _MOST_TILT:
        raise _tilted(angle)
    return (f"a gantry tilt of {angle:.2g} degrees was taken for none",)


def _tilted(angle: float) -> ScanError:
    return ScanError(f"gantry tilt of {angle:.1f} degrees: the slices are not stacked at a right angle")


def _check_objects(headers: Sequence[SliceHeader]) -> None:
    """Raise ScanError for objects that are no plain grey-value slices with a place in space."""
    n = len(headers)
    files = {h.path: h.complete for h in headers}
    if cut := sum(not complete for complete in files.values()):
        raise ScanError(f"{cut} of {len(files)} files {'is' if cut == 1 else 'are'} truncated: pixel data are missing")
    if any(h.frames > 1 for h in headers):
        raise ScanError("several frames in one file, without the place of each: convert it to NIfTI first")
    if reason := next((h.no_slice for h in headers if h.no_slice), ""):
        raise ScanError(reason)
    if n == 1:
        raise ScanError("a single slice: no volume (a localizer, or the rest of the series is missing)")
    if wrong := next((h.rescaling for h in headers if h.rescaling), ""):
        raise ScanError(f"slices {wrong}: their intensities are unknown")
    for tag, missing in (
        ("ImagePositionPatient", sum(h.position is None for h in headers)),
        ("ImageOrientationPatient", sum(h.orientation is None for h in headers)),
        ("PixelSpacing", sum(h.pixel_spacing is None or min(h.pixel_spacing) <= 0 for h in headers)),
    ):
        if missing:
            raise ScanError(f"{missing} of {n} slices lack a valid {tag}: their place in space is unknown")


def _check_equal(headers: Sequence[SliceHeader]) -> None:
    """Raise ScanError unless all slices are of the same matrix, pixel spacing and orientation."""
    if len(sizes := sorted({h.matrix for h in headers if h.matrix})) > 1:
        raise ScanError("slices of different sizes: " + ", ".join(f"{r} x {c}" for r, c in sizes) + " (rows x columns)")
    spacings = np.array([h.pixel_spacing for h in headers])
    if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.min():
        raise ScanError(f"slices of different pixel spacing: {spacings.min():g} to {spacings.max():g} mm")
    orientations = np.array([h.orientation for h in headers])
    if np.ptp(orientations, axis=0).max() > ORIENTATION_TOLERANCE:
        raise ScanError("slices of different orientations in one series")
    row, column = orientations[0, :3], orientations[0, 3:]
    if abs(row @ row - 1) > 0.01 or abs(column @ column - 1) > 0.01 or abs(row @ column) > 0.01:
        raise ScanError("the slices' orientation (ImageOrientationPatient) is not two unit vectors at a right angle")


def _reason(positions: np.ndarray, normal: np.ndarray) -> ScanError:
    """Say why slices at ``positions`` (N, 3), mm, are no volume along ``normal``."""
    n = len(positions)
    along = positions @ normal
    order = np.argsort(along)
    gaps = np.diff(along[order])
    typical = float(np.median(gaps[gaps > 1e-3])) if (gaps > 1e-3).any() else 0.0
    if repeated := int((gaps < 0.01 * typical).sum()) if typical else n - 1:
        copies, rest = divmod(n, n - repeated)
        if rest:
            return ScanError(f"{repeated} of {n} slices lie where another one does: several phases, or a repeated "
                             "part, under one series")  # fmt: skip
        words = {2: "two", 3: "three", 4: "four"}.get(copies, copies)
        return ScanError(f"{words} images at each position: several phases or echoes under one series")
    steps = np.diff(positions[order], axis=0)
    angle = np.degrees(np.arctan2(np.linalg.norm(steps - np.outer(gaps, normal), axis=1), gaps))
    if np.median(angle) > np.degrees(np.arccos(1 - _PERPENDICULAR)):
        return _tilted(float(np.median(angle)))
    odd = np.flatnonzero(np.abs(gaps - typical) > SPACING_TOLERANCE * typical)
    multiple = np.round(gaps[odd] / typical)
    if not len(odd) or np.any(
        (multiple < 2) | (np.abs(gaps[odd] - multiple * typical) >= 2 * SPACING_TOLERANCE * typical)
    ):
        return ScanError(f"{n} slices, the distance between neighbours varies from {gaps.min():.4g} to "
                         f"{gaps.max():.4g} mm")  # fmt: skip
    missing, first = int((multiple - 1).sum()), int(odd[0])
    return MissingSlicesError(
        f"{n} slices, the distance between slices {first + 1} and {first + 2} is {gaps[first]:.4g} mm instead of "
        f"{typical:.4g} mm: {'a slice is' if missing == 1 else f'{missing} slices are'} missing"
    )
