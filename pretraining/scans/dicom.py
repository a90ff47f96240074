"""DICOM series: grouping images into series, and reading a volume."""

import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from pydicom.pixels import iter_pixels

from pretraining.scans.dicom_geometry import SPACING_TOLERANCE, order_slices
from pretraining.scans.dicom_headers import LOCALIZER, SliceHeader, read_headers
from pretraining.scans.dicom_series import Part, Rest, grouped, volumes_of, without_copies
from pretraining.scans.itk_files import itk_image, quiet_itk
from pretraining.scans.scan import File, Geometry, LeftOut, Scan, ScanError, digest, stamp

_MANY = 3  # single slices in series of their own, from which on somebody has given each slice an identifier
_MEASURED = ("CT", "PT")  # stored values are of a physical unit, whatever their display
_CHANGED = "its files have changed since they were found"
_UNREADABLE = "its pixels can't be read: damaged, or compressed in an unknown way"


class SeriesCollector:
    """Collects images, from any number of folders, into series by SeriesInstanceUID.

    Files whose SeriesInstanceUID an anonymiser has blanked form one series per folder.

    Attributes:
        files: those that were added, by path.
    """

    def __init__(self) -> None:
        self._series: dict[str, list[SliceHeader]] = defaultdict(list)
        self.files: dict[str, File] = {}

    def add(self, headers: Sequence[SliceHeader], file: File) -> None:
        """Add one file, the headers of whose images are given."""
        for header in headers:
            self._series[header.series or digest(file.group)].append(header)
        self.files[file.path] = file

    def scans(self) -> tuple[list[Scan], list[LeftOut]]:
        """Return all volumes, and what is left out with the reason: a row for each reason and folder."""
        series_of: dict[int, str] = {}
        volumes, left_out, single, all_rests = [], [], [], list[Rest]()
        digest_of = cache(pixel_digest)
        for series, headers in self._series.items():
            if len(headers) == 1:
                single.append(headers[0])
                continue
            try:
                parts, rests = volumes_of(headers, digest_of)
            except Exception as e:
                left_out.append(LeftOut.because(self._place(headers), e))
                continue
            series_of |= {id(part): series for part in parts}
            volumes += parts
            all_rests += rests
            left_out += self._rows(rests)
        volumes, copies = without_copies(volumes, digest_of)
        same = _same_patients([*all_rests, *copies])
        scans = [self._scan(series_of[id(part)], part) for part in volumes]
        scans = [replace(scan, group=same(scan.group)) for scan in scans]
        return scans, left_out + self._rows(copies) + self._single(single)

    def _scan(self, series: str, part: Part) -> Scan:
        ordered, geometry = order_slices(part.headers)
        paths = tuple(h.path for h in ordered)
        return Scan(
            case=f"dicom_{digest(f'{series}{part.told}', 12) if part.told else series[:12]}",
            kind="dicom",
            channels=(paths,),
            source=self._place(ordered),
            # Scans of one study, or else of one series, are of one patient, whether it names him or not.
            group=ordered[0].patient or (f"study_{study}" if (study := ordered[0].study) else f"dicom_{series[:12]}"),
            modality=ordered[0].modality or None,
            shape=geometry.shape,
            spacing=geometry.spacing_zyx,
            headers=tuple(ordered),
            real=self.files[paths[0]].real,
            stamps=tuple(self.files[path].stamp for path in paths),
            corrections=(*_corrections(part), *geometry.corrections),
        )

    def _place(self, headers: Sequence[SliceHeader]) -> str:
        """Name the file that all images are in; else the folder of the first."""
        file = self.files[headers[0].path]
        return file.source if len({h.path for h in headers}) == 1 else file.folder

    def _rows(self, rests: Sequence[Rest]) -> list[LeftOut]:
        """Make a row for each reason; of images that go beside a scan, for each folder that has some too."""
        groups: dict[tuple[str, str, str], list[SliceHeader]] = defaultdict(list)
        first: dict[tuple[str, str, str], Rest] = {}
        for rest in rests:
            twin = self.files[rest.same_as.path].folder if rest.same_as else ""
            for header in rest.headers:
                key = (rest.reason, twin, self.files[header.path].folder if rest.expected else "")
                groups[key].append(header)
                first.setdefault(key, rest)
        rows = []
        for (reason, twin, _), headers in groups.items():
            same, expected = first[reason, twin, _].same_as, first[reason, twin, _].expected
            files = len({h.path for h in headers})
            if same:
                reason += f" as {self.files[same.path].source if files == 1 else f'files in {twin}'}"
            count = f"{files} files: " if expected and files > 1 else ""
            rows.append(LeftOut(self._place(headers), count + reason, expected=expected))
        return rows

    def _single(self, headers: Sequence[SliceHeader]) -> list[LeftOut]:
        """Make the rows of series of one image; those that look like one another are told of together."""
        alike = grouped(headers, lambda h: (self.files[h.path].folder, h.patient, h.modality, h.matrix, h.orientation,
                                            h.no_slice))  # fmt: skip
        rows = []
        for group in alike.values():
            if len(group) >= _MANY and group[0].no_slice != LOCALIZER and all(h.position for h in group):
                reason = (
                    f"{len(group)} slices, each with a SeriesInstanceUID of its own: which of them belong together is "
                    "unknown. If they are one scan, give them one SeriesInstanceUID"
                )
                rows.append(LeftOut(self._place(group), reason))
                continue
            rows += [row for h in group for row in self._rows(volumes_of([h], pixel_digest)[1])]
        return rows


def _same_patients(rests: Sequence[Rest]) -> Callable[[str], str]:
    """Tell under which name a patient goes who has the same pixels under several."""
    names: dict[str, str] = {}

    def name_of(patient: str) -> str:
        return name_of(names[patient]) if patient in names else patient

    for rest in rests:
        if rest.same_as and rest.same_as.patient and rest.headers[0].patient:
            one, other = name_of(rest.headers[0].patient), name_of(rest.same_as.patient)
            if one != other:
                names[one] = other
    return name_of


def _corrections(part: Part) -> list[str]:
    """Say what is taken otherwise than its files say."""
    found = [f"a part of its series: {part.label}"] if part.label else []
    if len({dict(h.told).get("FrameOfReferenceUID") for h in part.headers}) > 1:
        found.append("several frames of reference: its slices fit together, so they were taken for one")
    if any(h.inverted for h in part.headers):
        measured = part.headers[0].modality in _MEASURED
        found.append(f"MONOCHROME1: {'not inverted' if measured else 'inverted only where its air is bright'}")
    return found


def read_dicom(scan: Scan) -> SimpleITK.Image:
    """Read a volume as a 32-bit float image, rescale slope and intercept applied (HU for CT).

    Raises:
        ScanError: the files have changed since and are no volume now, are damaged, or SimpleITK reads something else
            than the headers say.
        OSError: a file can't be opened.
    """
    headers, files = _current_headers(scan), scan.channels[0]
    ordered, geometry = order_slices(headers)
    if ordered != headers:
        raise ScanError(_CHANGED)
    if not all(h.plain for h in headers):
        voxels = _values(headers)
        if all(h.inverted and h.modality not in _MEASURED for h in headers) and _is_negative(voxels):
            voxels = voxels.max() + voxels.min() - voxels
        if voxels.shape != geometry.shape:
            raise ScanError(f"read with the shape {voxels.shape}, its headers say {geometry.shape} (z, y, x)")
        return itk_image(voxels, geometry.properties()["sitk_stuff"])
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(list(files))
    # Otherwise the first slice's rescaling decides the type of all, and fractions of the others are cut off (PET).
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    try:
        with quiet_itk():
            image = reader.Execute()
    except RuntimeError as e:
        raise ScanError(f"SimpleITK: {_UNREADABLE}") from e
    _check_agreement(image, geometry)
    return image


def _current_headers(scan: Scan) -> list[SliceHeader]:
    """Return the headers as they were found; of files that have changed since, what they say now."""
    found = dict(zip(scan.channels[0], scan.stamps, strict=True))
    changed = {path: read_headers(path) or [] for path, known in found.items() if stamp(os.stat(path)) != known}
    try:
        return [replace(changed[h.path][h.frame], patient=h.patient) if h.path in changed else h for h in scan.headers]
    except IndexError:
        raise ScanError(_CHANGED) from None


def _values(headers: Sequence[SliceHeader]) -> np.ndarray:
    """Read images' values, rescaled, float32 (N, rows, columns): MONOCHROME1, which SimpleITK inverts, as stored."""
    images = []
    for path, group in groupby(headers, lambda h: h.path):
        of_file = list(group)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote the header's values
            stored = _stored(path, [h.frame for h in of_file])
        images += [(frame * h.slope + h.intercept).astype(np.float32) for frame, h in zip(stored, of_file, strict=True)]
    return np.stack(images)


def _is_negative(voxels: np.ndarray) -> bool:
    """Tell whether the images' border, (N, rows, columns), is brighter than nearly all of their middle: air is dark."""
    _, rows, columns = voxels.shape
    border = np.concatenate([voxels[:, [0, -1]].ravel(), voxels[:, :, [0, -1]].ravel()])
    middle = voxels[:, rows // 4 : -(rows // 4) or None, columns // 4 : -(columns // 4) or None]
    return bool(np.median(border) > np.percentile(middle, 90))


def _stored(path: str, frames: list[int]) -> list[np.ndarray]:
    """Read frames of a file as they are stored, with pydicom; with SimpleITK what pydicom can't decompress."""
    try:
        return list(iter_pixels(path, indices=frames, raw=True))
    except OSError:
        raise
    except Exception:  # pydicom raises nearly anything on what it can't decode
        return _stored_by_itk(path, frames)


def _stored_by_itk(path: str, frames: list[int]) -> list[np.ndarray]:
    """Read a copy without what SimpleITK would apply: rescaling, and MONOCHROME1."""
    try:
        data = pydicom.dcmread(path)
        data.PhotometricInterpretation = "MONOCHROME2"
        shared = data.get("SharedFunctionalGroupsSequence") or []
        for item in (data, *shared, *(data.get("PerFrameFunctionalGroupsSequence") or [])):
            for keyword in ("RescaleSlope", "RescaleIntercept", "PixelValueTransformationSequence"):
                item.pop(keyword, None)
        with tempfile.TemporaryDirectory() as folder, quiet_itk():
            data.save_as(Path(folder) / "a.dcm")
            voxels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(Path(folder) / "a.dcm")))
        return [voxels[frame] for frame in frames]
    except OSError:
        raise
    except Exception as e:
        raise ScanError(_UNREADABLE) from e


def pixel_digest(header: SliceHeader) -> str:
    """Hash an image's values (SHA-256); an unreadable one has a value of its own."""
    try:
        return sha256(_values([header]).tobytes()).hexdigest()
    except (ScanError, OSError):
        return f"{header.path} {header.frame}"


def _check_agreement(image: SimpleITK.Image, expected: Geometry) -> None:
    """Raise ScanError unless SimpleITK made of the slices what their headers say."""
    if image.GetSize() != expected.size:
        raise ScanError(f"read with the size {image.GetSize()}, its headers say {expected.size} (x, y, z)")
    if not np.allclose(image.GetSpacing(), expected.spacing, rtol=SPACING_TOLERANCE):
        raise ScanError(f"read with the spacing {image.GetSpacing()}, its headers say {expected.spacing} mm (x, y, z)")
    # The third axis of SimpleITK runs from the first to the last slice: a tilt within the tolerance turns it a little.
    if not np.allclose(image.GetDirection(), expected.direction, atol=0.05):
        raise ScanError("read with another orientation than its headers say")
