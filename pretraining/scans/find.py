"""Find the scans in folders: DICOM, NIfTI, Analyze, MetaImage, NRRD. What can't be used is named with the reason."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from nnunet_genesis.errors import GenesisError
from pretraining.scans.channels import NUMBERED, cases_of, summary
from pretraining.scans.dicom import SeriesCollector, digest
from pretraining.scans.dicom_headers import read_headers
from pretraining.scans.image_files import ending_of, is_nifti, read_geometry
from pretraining.scans.scan import Geometry, LeftOut, Scan, ScanError

__all__ = ["LeftOut", "Scan", "ScanError", "find_scans"]

_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_NO_IMAGES = (
    ".txt", ".json", ".raw", ".zraw", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".html", ".log", ".pdf", ".png",
    ".jpg", ".jpeg", ".bval", ".bvec", ".py",
)  # fmt: skip
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".z")
_UNSUPPORTED = (
    *_PACKED, ".mgz", ".mgh", ".mnc", ".par", ".rec", ".head", ".brik", ".tif", ".tiff", ".gipl", ".vtk", ".vti",
    ".npy", ".npz", ".h5", ".zip", ".tar", ".tgz", ".7z", ".rar",
)  # fmt: skip
_MOST_ANGLE, _SAME_ANGLE = 1.0, 0.01  # degrees between channels of one case


def find_scans(roots: Sequence[Path], channels: int | bool | None = None) -> tuple[list[Scan], list[LeftOut]]:
    """Find and check all scans below some folders, from headers alone.

    ``NAME_0000.ext, NAME_0001.ext, ...`` in one folder may be the channels of one case, as in nnU-Net: see
    :func:`pretraining.scans.channels.cases_of`. Slices are grouped into series over all roots; a file or slice that is
    there twice counts once. Symbolic links are followed, each folder once.

    Args:
        roots: folders to search with all their subfolders, or single files.
        channels: whether numbered files are channels, or how many a case has; ``None``: what the folder says.

    Returns:
        The scans and what is left out, each sorted by source.

    Raises:
        GenesisError: a root does not exist or is neither a folder nor a file.
    """
    finder = _Finder(channels)
    for root in roots:
        if not (root.is_dir() or root.is_file()):
            raise GenesisError(f"{root} does not exist or is neither a folder nor a file: name a folder of scans")
        finder.search(root)
    return finder.result()


class _Finder:
    def __init__(self, channels: int | bool | None) -> None:
        self.left_out: list[LeftOut] = []
        self._channels = channels
        self._scans: list[Scan] = []
        self._series = SeriesCollector()
        self._seen: set[str] = set()

    def search(self, root: Path) -> None:
        base = root if root.is_dir() else root.parent
        images: dict[tuple[str, str, str], dict[int, Path]] = {}
        for path in self._files(root, base):
            source = _relative_name(path, base)
            try:
                self._sort_in(path, base, images)
            except Exception as e:
                self.left_out.append(LeftOut.because(source, e))
        cases = list(cases_of(images, self._channels))
        if text := summary(images, cases, self._channels):
            print(text)
        for case in cases:
            self._add_image(case, base)

    def _sort_in(self, path: Path, base: Path, images: dict[tuple[str, str, str], dict[int, Path]]) -> None:
        name = path.name.lower()
        status = path.stat()
        bare = name
        while bare.endswith(_PACKED):
            bare = bare.rpartition(".")[0]
        if name == "dicomdir" or name.startswith("._") or bare.endswith(_NO_IMAGES):
            return  # "._" is macOS's shadow of a file
        if not stat.S_ISREG(status.st_mode):
            return
        if not os.access(path, os.R_OK):  # SimpleITK would report something else
            raise ScanError("no permission to read it")
        if status.st_size == 0:
            raise ScanError("empty file (0 bytes)")
        if re.search("[\ud800-\udfff]", str(path)):
            # SimpleITK would end the whole process.
            raise ScanError("its path has bytes that are no UTF-8: rename it")
        if ending := ending_of(name):
            stem = path.name[: -len(ending)]
            match = NUMBERED.fullmatch(stem)
            key = (str(path.parent), match["name"] if match else stem, ending if match else f"{ending} ")
            images.setdefault(key, {})[int(match["number"]) if match else 0] = path
            return
        headers = read_headers(path)
        if headers is not None:
            self._series.add(
                headers, _relative_name(path, base), _relative_name(path.parent, base), base.resolve().name
            )
        elif name.endswith(_DICOM_ENDINGS):
            raise ScanError("not readable as DICOM, although its name says so")
        elif name.endswith((".img", *_PACKED)) and _has_header(path):
            return
        elif name.endswith(".img"):
            raise ScanError("voxels without their header: no .hdr file of its name is beside it")
        elif name.endswith(_UNSUPPORTED):
            raise ScanError("a format that is not supported: convert or unpack it to .nii.gz")

    def _add_image(self, channels: dict[int, Path], base: Path) -> None:
        source = _relative_name(next(iter(channels.values())), base)
        try:
            self._scans.append(_image_scan(list(channels.items()), source, base))
        except Exception as e:
            self.left_out.append(LeftOut.because(source, e))

    def _files(self, root: Path, base: Path) -> Iterator[Path]:
        """All files below a root, each real file and folder once, in the order of their names."""
        if root.is_file():
            yield from self._new([root])
            return

        def failed(error: OSError) -> None:
            self.left_out.append(LeftOut.because(_relative_name(Path(error.filename), base), error))

        for folder, folders, names in os.walk(root, followlinks=True, onerror=failed):
            if not folders and not names:
                self.left_out.append(LeftOut(_relative_name(Path(folder), base), "empty folder"))
            folders[:] = [p.name for p in self._new([Path(folder, name) for name in sorted(folders)])]
            yield from self._new([Path(folder, name) for name in sorted(names)])

    def _new(self, paths: Sequence[Path]) -> list[Path]:
        fresh = []
        for path in paths:
            real = os.path.realpath(path)
            if real not in self._seen:
                self._seen.add(real)
                fresh.append(path)
        return fresh

    def result(self) -> tuple[list[Scan], list[LeftOut]]:
        series, left_out = self._series.scans()
        left_out += self.left_out
        unique: dict[str, Scan] = {}
        for scan in sorted(self._scans + series, key=lambda s: (s.source, s.case)):
            first = unique.setdefault(scan.case, scan)
            if first is not scan:
                left_out.append(LeftOut(scan.source, f"would get the same case name, {scan.case}, as {first.source}"))
        return list(unique.values()), sorted(left_out, key=lambda out: (out.source, out.reason))


def _has_header(path: Path) -> bool:
    """Tell whether a file holds the voxels of a header beside it."""
    stem = path.name.partition(".")[0] if path.name.lower().endswith(_PACKED) else path.stem
    return any((path.parent / f"{stem}{ending}").is_file() for ending in (".hdr", ".HDR", ".nhdr", ".mhd", ".nrrd"))


def _image_scan(channels: list[tuple[int, Path]], source: str, base: Path) -> Scan:
    numbers = [number for number, _ in channels]
    names = f"{channels[0][1].name} ... {channels[-1][1].name}"
    if numbers != list(range(len(numbers))):
        missing = min(set(range(numbers[-1])) - set(numbers))
        raise ScanError(
            f"{names} are channels of one case by nnU-Net's naming, and channel {missing} is missing. "
            "If they are separate scans: --no_channels"
        )
    geometries = [_channel_geometry(path, len(channels)) for _, path in channels]
    first = geometries[0]
    if problem := next((p for p in (_difference(first, g) for g in geometries) if p), None):
        raise ScanError(
            f"{names} are channels of one case by nnU-Net's naming, but differ in {problem}: "
            "rename them if they are separate scans, or give --no_channels"
        )
    corrections = dict.fromkeys(text for g in geometries for text in g.corrections)
    if (angle := max(_angle(first, g) for g in geometries)) > _SAME_ANGLE:
        corrections[f"its channels' directions differ by {angle:.2g} degrees: the first one's were taken"] = None
    path = channels[0][1]
    stem = path.name[: -len(ending_of(path.name) or "")]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem.removesuffix("_0000"))[:40]
    case = f"{stem}_{digest(f'{base.resolve().name}/{source}', 8)}"
    kind: Literal["nifti", "itk"] = "nifti" if is_nifti(path) else "itk"
    files = tuple((str(path),) for _, path in channels)
    return Scan(case, kind, files, source, case, None, first.shape, first.spacing_zyx, corrections=tuple(corrections))


def _channel_geometry(path: Path, count: int) -> Geometry:
    try:
        return read_geometry(path)
    except ScanError as e:
        raise (ScanError(f"{path.name}: {e}") if count > 1 else e) from e


def _difference(a: Geometry, b: Geometry) -> str | None:
    if a.size != b.size:
        return f"shape: {a.shape} and {b.shape} (z, y, x)"
    if not np.allclose(a.spacing, b.spacing, rtol=1e-3):
        return f"spacing: {a.spacing_zyx} and {b.spacing_zyx} mm (z, y, x)"
    if _angle(a, b) > _MOST_ANGLE or not np.allclose(a.origin, b.origin, atol=max(a.spacing)):
        return "position or orientation"
    return None


def _angle(a: Geometry, b: Geometry) -> float:
    """Measure the largest angle between the same axes of two grids, degrees."""
    cosines = np.sum(np.reshape(a.direction, (3, 3)) * np.reshape(b.direction, (3, 3)), axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))


def _relative_name(path: Path, base: Path) -> str:
    """Return a path relative to its input root, posix, on one line and in UTF-8."""
    # A name whose bytes are no UTF-8 must not break the manifest.
    relative = path.relative_to(base)
    name = relative.as_posix() if relative.parts else base.name
    text = os.fsencode(name).decode("utf-8", "replace")
    # Nor must a line break, or a command to the terminal.
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)
