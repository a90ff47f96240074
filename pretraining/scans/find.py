"""Find the scans in folders: DICOM, NIfTI, Analyze, MetaImage, NRRD. What can't be used is named with the reason."""

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from nnunet_genesis.errors import GenesisError
from pretraining.scans.channels import NUMBERED, Group, cases_of, summary
from pretraining.scans.dicom import SeriesCollector, digest
from pretraining.scans.dicom_headers import SliceHeader, read_headers
from pretraining.scans.image_files import ending_of, is_nifti, read_geometry
from pretraining.scans.scan import File, Geometry, LeftOut, Scan, ScanError, stamp

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
# What a file holds: a DICOM file's headers, an image's grid, why it can't be read, or None: no image.
Content = Sequence[SliceHeader] | Geometry | LeftOut | None
Read = Callable[[Sequence[File]], Mapping[str, Content]]


def read_file(path: str, key: bytes = b"") -> Content:
    """Read the headers of a file; for ``key`` see :func:`pretraining.scans.dicom_headers.read_headers`."""
    try:
        return read_geometry(Path(path)) if ending_of(path) else read_headers(path, key)
    except Exception as e:
        return LeftOut.because("", e)


def _read_here(files: Sequence[File]) -> dict[str, Content]:
    return {file.path: read_file(file.path) for file in files}


def find_scans(
    roots: Sequence[Path], channels: int | bool | None = None, read: Read = _read_here
) -> tuple[list[Scan], list[LeftOut]]:
    """Find and check all scans below some folders, from headers alone.

    ``NAME_0000.ext, NAME_0001.ext, ...`` in one folder may be the channels of one case, as in nnU-Net: see
    :func:`pretraining.scans.channels.cases_of`. Slices are grouped into series over all roots; a file or slice that is
    there twice counts once. Symbolic links are followed, each folder once.

    Args:
        roots: folders to search with all their subfolders, or single files.
        channels: whether numbered files are channels, or how many a case has; ``None``: what the folder says.
        read: gives files' contents, by path; each as :func:`read_file` does.

    Returns:
        The scans and what is left out, each sorted by source.

    Raises:
        GenesisError: a root does not exist or is neither a folder nor a file.
    """
    check_roots(roots)
    finder = _Finder(channels)
    for root in roots:
        finder.search(root)
    return finder.result(read)


def check_roots(roots: Sequence[Path]) -> None:
    """Raise GenesisError if one does not exist, or is neither a folder nor a file."""
    for root in roots:
        if not (root.is_dir() or root.is_file()):
            raise GenesisError(f"{root} does not exist or is neither a folder nor a file: name a folder of scans")


class _Finder:
    def __init__(self, channels: int | bool | None) -> None:
        self.left_out: list[LeftOut] = []
        self._channels = channels
        self._found: list[list[File]] = []  # by root
        self._scans: list[Scan] = []
        self._series = SeriesCollector()
        self._seen: set[str] = set()

    def search(self, root: Path) -> None:
        base = root if root.is_dir() else root.parent
        name, found = base.resolve().name, list[File]()
        for path, real in self._files(root, base):
            folder, file_name = os.path.split(path)
            source = _relative_name(file_name, folder, base)
            try:
                if status := _may_be_image(path, file_name):
                    found.append(File(path, real, source, _folder_name(folder, base), name, stamp(status)))
            except Exception as e:
                self.left_out.append(LeftOut.because(source, e))
        self._found.append(found)

    def _sort_in(self, file: File, content: Content, groups: dict[tuple[str, str, str], Group]) -> None:
        name = os.path.basename(file.path).lower()
        ending = ending_of(name)
        if isinstance(content, LeftOut) and (content.trace or not ending):
            self.left_out.append(replace(content, source=file.source))
        elif ending:
            folder, stem = os.path.split(file.path[: -len(ending)])
            match = NUMBERED.fullmatch(stem)
            key = (folder, match["name"] if match else stem, ending if match else f"{ending} ")
            groups.setdefault(key, {})[int(match["number"]) if match else 0] = file
        elif content is not None:
            assert not isinstance(content, (LeftOut, Geometry))
            self._series.add(content, file)
        elif name.endswith(_DICOM_ENDINGS):
            raise ScanError("not readable as DICOM, although its name says so")
        elif name.endswith((".img", *_PACKED)) and _has_header(Path(file.path)):
            return
        elif name.endswith(".img"):
            raise ScanError("voxels without their header: no .hdr file of its name is beside it")
        elif name.endswith(_UNSUPPORTED):
            raise ScanError("a format that is not supported: convert or unpack it to .nii.gz")

    def _add_image(self, channels: dict[int, File], contents: Mapping[str, Content]) -> None:
        source = next(iter(channels.values())).source
        try:
            self._scans.append(_image_scan(list(channels.items()), contents))
        except Exception as e:
            self.left_out.append(LeftOut.because(source, e))

    def _files(self, root: Path, base: Path) -> Iterator[tuple[str, str]]:
        """All files below a root, each real file and folder once, in the order of their names; and their real paths."""
        if root.is_file():
            yield from self._new(str(base), [root.name])
            return

        def failed(error: OSError) -> None:
            self.left_out.append(LeftOut.because(_folder_name(error.filename, base), error))

        for folder, folders, names in os.walk(root, followlinks=True, onerror=failed):
            if not folders and not names:
                self.left_out.append(LeftOut(_folder_name(folder, base), "empty folder"))
            folders[:] = [os.path.basename(path) for path, _ in self._new(folder, folders)]
            yield from self._new(folder, names)

    def _new(self, folder: str, names: Sequence[str]) -> list[tuple[str, str]]:
        fresh, real_folder = [], os.path.realpath(folder)
        for name in sorted(names):
            path = os.path.join(folder, name)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(real_folder, name)
            if real not in self._seen:
                self._seen.add(real)
                fresh.append((path, real))
        return fresh

    def result(self, read: Read) -> tuple[list[Scan], list[LeftOut]]:
        contents = read([file for found in self._found for file in found])
        for found in self._found:
            groups: dict[tuple[str, str, str], Group] = {}
            for file in found:
                try:
                    self._sort_in(file, contents[file.path], groups)
                except Exception as e:
                    self.left_out.append(LeftOut.because(file.source, e))
            cases = list(cases_of(groups, self._channels))
            if text := summary(groups, cases, self._channels):
                print(text)
            for case in cases:
                self._add_image(case, contents)
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


def _may_be_image(path: str, name: str) -> os.stat_result | None:
    """Return a file's status unless its name says that it is no image.

    Raises:
        ScanError: it can't be read, whatever it is.
    """
    status, bare = os.stat(path), name.lower()
    while bare.endswith(_PACKED):
        bare = bare.rpartition(".")[0]
    if name.lower() == "dicomdir" or name.startswith("._") or bare.endswith(_NO_IMAGES):
        return None  # "._" is macOS's shadow of a file
    if not stat.S_ISREG(status.st_mode):
        return None
    if not os.access(path, os.R_OK):  # SimpleITK would report something else
        raise ScanError("no permission to read it")
    if status.st_size == 0:
        raise ScanError("empty file (0 bytes)")
    if re.search("[\ud800-\udfff]", path):
        # SimpleITK would end the whole process.
        raise ScanError("its path has bytes that are no UTF-8: rename it")
    return status


def _image_scan(channels: list[tuple[int, File]], contents: Mapping[str, Content]) -> Scan:
    numbers, files = [number for number, _ in channels], [file for _, file in channels]
    names = " ... ".join(os.path.basename(file.path) for file in (files[0], files[-1]))
    if numbers != list(range(len(numbers))):
        missing = min(set(range(numbers[-1])) - set(numbers))
        raise ScanError(
            f"{names} are channels of one case by nnU-Net's naming, and channel {missing} is missing. "
            "If they are separate scans: --no_channels"
        )
    geometries = [_channel_geometry(contents[file.path], file, len(files)) for file in files]
    first = geometries[0]
    if problem := next((p for p in (_difference(first, g) for g in geometries) if p), None):
        raise ScanError(
            f"{names} are channels of one case by nnU-Net's naming, but differ in {problem}: "
            "rename them if they are separate scans, or give --no_channels"
        )
    corrections = dict.fromkeys(text for g in geometries for text in g.corrections)
    if (angle := max(_angle(first, g) for g in geometries)) > _SAME_ANGLE:
        corrections[f"its channels' directions differ by {angle:.2g} degrees: the first one's were taken"] = None
    path = Path(files[0].path)
    stem = path.name[: -len(ending_of(path.name) or "")]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem.removesuffix("_0000"))[:40]
    case = f"{stem}_{digest(f'{files[0].root}/{files[0].source}', 8)}"
    kind: Literal["nifti", "itk"] = "nifti" if is_nifti(path) else "itk"
    return Scan(
        case=case, kind=kind, channels=tuple((file.path,) for file in files), source=files[0].source, group=case,
        modality=None, shape=first.shape, spacing=first.spacing_zyx, corrections=tuple(corrections),
    )  # fmt: skip


def _channel_geometry(content: Content, file: File, count: int) -> Geometry:
    if isinstance(content, LeftOut):
        raise ScanError(f"{os.path.basename(file.path)}: {content.reason}" if count > 1 else content.reason)
    assert isinstance(content, Geometry)
    return content


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


def _relative_name(name: str, folder: str, base: Path) -> str:
    """Return a file's path relative to its input root, posix, on one line and in UTF-8."""
    return _one_line(name) if folder == str(base) else f"{_folder_name(folder, base)}/{_one_line(name)}"


@lru_cache(1)
def _folder_name(folder: str, base: Path) -> str:
    """Return a folder's path relative to its input root, likewise; the root's own name for itself."""
    relative = Path(folder).relative_to(base)
    return _one_line(relative.as_posix() if relative.parts else base.name)


def _one_line(name: str) -> str:
    # A name whose bytes are no UTF-8 must not break the manifest.
    text = os.fsencode(name).decode("utf-8", "replace")
    # Nor must a line break, or a command to the terminal.
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)
