"""Find the scans in folders: DICOM, NIfTI, Analyze, MetaImage, NRRD. What can't be used is named with the reason."""

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

from nnunet_genesis.errors import GenesisError
from pretraining.scans.channels import NUMBERED, Group, Said, cases_of, channels_said, image_scan, summary
from pretraining.scans.content import named_like_labels
from pretraining.scans.dicom import SeriesCollector
from pretraining.scans.dicom_headers import SliceHeader, read_headers
from pretraining.scans.dicom_series import grouped
from pretraining.scans.image_files import ending_of, read_geometry
from pretraining.scans.patients import patients_of
from pretraining.scans.scan import File, Geometry, LeftOut, Scan, ScanError, digest, own_name, sample, stamp

_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_NO_IMAGES = (
    ".txt", ".json", ".raw", ".zraw", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".html", ".log", ".pdf", ".png",
    ".jpg", ".jpeg", ".bval", ".bvec", ".py", ".rst", ".rtf", ".tex", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx",
    ".odt", ".ods", ".htm", ".css", ".js", ".gif", ".bmp", ".svg", ".webp", ".mp4", ".avi", ".ini", ".cfg", ".conf",
    ".toml", ".inf", ".sh", ".bat", ".exe", ".dll", ".jar", ".class", ".lnk", ".url", ".db", ".md5", ".sha1", ".sha256",
    ".ipynb", ".m", ".r", ".c", ".h", ".cpp", ".stl", ".obj", ".ply", ".ds_store", ".gitignore", ".gitattributes",
    ".bidsignore", ".jsonl", ".pkl", ".lock",
)  # fmt: skip
_NO_IMAGE = ("dicomdir", "lockfile", "version", "readme", "license", "licence", "changes")
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".z")
_UNSUPPORTED = (
    *_PACKED, ".mgz", ".mgh", ".mnc", ".par", ".rec", ".head", ".brik", ".tif", ".tiff", ".gipl", ".vtk", ".vti",
    ".npy", ".npz", ".h5", ".zip", ".tar", ".tgz", ".7z", ".rar",
)  # fmt: skip
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
    roots: Sequence[Path], channels: Said = None, read: Read = _read_here
) -> tuple[list[Scan], list[LeftOut]]:
    """Find and check all scans below some folders, from headers alone.

    ``NAME_0000.ext, NAME_0001.ext, ...`` in one folder, or the volumes of a 4D file, may be the channels of one case:
    see :mod:`pretraining.scans.channels`. Slices are grouped into series, files into cases and patients, over all
    roots; a file or slice that is there twice counts once. Symbolic links are followed, each folder once; hidden
    folders (``.git``, ``.snapshot``) aren't searched, unless one is a root.

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
    finder, bases = _Finder(channels), [(root if root.is_dir() else root.parent).resolve() for root in roots]
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*(base.parts for base in bases), strict=False))
    common = [part for part, *_ in same]
    above = ["".join(f"{_one_line(part)}/" for part in base.parts[len(common) :]) for base in bases]
    files = [file for root, base, inner in zip(roots, bases, above, strict=True)
             for file in finder.files(root, base.name, inner)]  # fmt: skip
    scans = finder.image_scans(files, read(files), Path(*common).name)
    series, left_out = finder.series.scans()
    left_out += finder.left_out
    copies = _copies(scans)
    left_out += [LeftOut.copy(*pair) for pair in copies.values()]
    unique: dict[str, Scan] = {}
    for scan in (scan for scan in scans + series if scan.real not in copies):
        case = own_name(scan) if scan.case in unique else scan.case
        unique[case] = replace(scan, case=case)
    found = sorted(unique.values(), key=lambda scan: (scan.source, scan.case))
    return found, sorted(left_out, key=lambda out: (out.source, out.reason))


def check_roots(roots: Sequence[Path]) -> None:
    """Raise GenesisError if one does not exist, can't be reached, or is neither a folder nor a file."""
    for root in roots:
        if not (os.path.isdir(root) or os.path.isfile(root)):  # Path.is_dir raises what the system says
            raise GenesisError(f"{root} does not exist, can't be reached, or is neither a folder nor a file: name a "
                               "folder of scans")  # fmt: skip


class _Finder:
    def __init__(self, channels: Said) -> None:
        self.left_out: list[LeftOut] = []
        self.series = SeriesCollector()
        self._channels = channels
        self._seen: set[str] = set()
        self._unknown: list[File] = []

    def files(self, root: Path, name: str, above: str) -> list[File]:
        """Return the files below a root that may be images, each real file and folder once, by their names."""
        base, found = root if root.is_dir() else root.parent, list[File]()

        def within(folder: str) -> str:
            return "".join(f"{_one_line(part)}/" for part in Path(folder).relative_to(base).parts)

        def place(folder: str) -> str:
            return f"{above}{within(folder)}"[:-1] or _one_line(base.name or name)

        def failed(error: OSError) -> None:
            self.left_out.append(LeftOut.because(place(error.filename), error))

        one = [(str(base), list[str](), [root.name])]
        for folder, folders, names in one if root.is_file() else os.walk(root, followlinks=True, onerror=failed):
            here, inner = place(folder), within(folder)
            group = f"{name}/{inner[:-1] or _one_line(base.name or name)}"
            if not folders and not names:
                self.left_out.append(LeftOut(here, "empty folder"))
            for hidden in [folder for folder in folders if folder.startswith(".")]:  # .git/annex: what links lead to
                folders.remove(hidden)
                source = above + inner + _one_line(hidden)
                self.left_out.append(LeftOut(source, "hidden folder: not searched", expected=True))
            folders[:] = [os.path.basename(path) for path, _ in self._new(folder, folders)]
            for path, real in self._new(folder, names):
                own = inner + _one_line(os.path.basename(path))
                source = f"{above}{own}"
                try:
                    if status := _may_be_image(path):
                        found.append(File(path, real, source, here, f"{name}/{own}", group, stamp(status)))
                except Exception as e:
                    self.left_out.append(LeftOut.because(source, e))
        return found

    def image_scans(self, files: Sequence[File], contents: Mapping[str, Content], above: str) -> list[Scan]:
        """Return the scans in image files, all of which lie below a folder named ``above``; collect the slices."""
        groups: dict[tuple[str, str, str], Group] = {}
        for file in files:
            try:
                self._sort_in(file, contents[file.path], groups)
            except Exception as e:
                self.left_out.append(LeftOut.because(file.source, e))
        self._name_unknown()
        said = cache(partial(channels_said, asked=self._channels))
        cases = list(cases_of(groups, said))
        if text := summary(groups, cases, self._channels):
            print(text)
        scans = []
        for case in cases:
            first = _first(case)
            try:
                scans.append(image_scan(case, contents, said(os.path.dirname(first.path))))
            except Exception as e:
                self.left_out.append(LeftOut.because(first.source, e))
        return _with_patients(scans, above)

    def _sort_in(self, file: File, content: Content, groups: dict[tuple[str, str, str], Group]) -> None:
        name = os.path.basename(file.path).lower()
        ending = ending_of(name)
        if isinstance(content, LeftOut) and (content.trace or not ending):
            self.left_out.append(replace(content, source=file.source))
        elif ending:
            folder, stem = os.path.split(file.path[: -len(ending)])
            match = NUMBERED.fullmatch(stem)
            written = file.path[-len(ending) :]  # x.nii.gz and x.NII.GZ are two
            key = (folder, match["name"] if match else stem, written if match else f"{written} ")
            groups.setdefault(key, {})[int(match["number"]) if match else 0] = file
        elif content is not None:
            assert not isinstance(content, (LeftOut, Geometry))
            self.series.add(content, file)
        elif name.endswith(_DICOM_ENDINGS):
            raise ScanError("not readable as DICOM, although its name says so")
        elif name.endswith((".img", ".img.gz")) and _has_header(Path(file.path)):
            return
        elif name.endswith(".img"):
            raise ScanError("voxels without their header: no .hdr file of its name is beside it")
        elif name.endswith(_UNSUPPORTED):
            raise ScanError("a format that is not supported: convert or unpack it to .nii.gz")
        else:
            self._unknown.append(file)

    def _name_unknown(self) -> None:
        """Make the rows of files of an unknown kind: company, unless they are named as slices beside them."""
        slices = {_kind(path) for path in self.series.files}
        for file in self._unknown:
            company = _kind(file.path) not in slices
            reason = "not recognised as an image" + ("" if company else ", as the DICOM files beside it are: damaged?")
            self.left_out.append(LeftOut(file.source, reason, expected=company))

    def _new(self, folder: str, names: Sequence[str]) -> list[tuple[str, str]]:
        fresh, real_folder = [], os.path.realpath(folder)
        for name in sorted(names):
            path = os.path.join(folder, name)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(real_folder, name)
            if real not in self._seen:
                self._seen.add(real)
                fresh.append((path, real))
        return fresh


def _copies(scans: Sequence[Scan]) -> dict[str, tuple[Scan, Scan]]:
    """Find image files that are there twice, byte by byte, under any names; by path each with the first of its kind.

    Nothing is read of files alone in their shape, spacing and size, as nearly all that are compressed are. Of 10,000
    uncompressed ones on one grid 2 GB are read, 192 KB of each; of those alike in that, as with the same empty margins,
    the whole. Files named like labels are left to what their content says.
    """
    alike = [[scan for scan in scans if not named_like_labels(scan.source)]]
    for key in (_size, sample, partial(sample, whole=True)):
        groups = (grouped(some, key).items() for some in alike)
        alike = [group for items in groups for told, group in items if told and len(group) > 1]
    return {scan.real: (scan, first) for first, *others in alike for scan in others}


def _size(scan: Scan) -> tuple:
    return scan.shape, scan.spacing, *(size for size, _ in scan.stamps)


def _first(case: Group) -> File:
    return next(iter(case.values()))


def _with_patients(scans: Sequence[Scan], above: str) -> list[Scan]:
    """Group scans in image files, all of which lie below a folder named ``above``, by patient, where names tell one."""
    paths = {scan.channels[0][0]: scan.source for scan in scans if not named_like_labels(scan.source)}
    stems = {path: re.sub(r"(_\d{4})?$", "", source[: -len(ending_of(source) or "")]) for path, source in paths.items()}
    patients = patients_of(stems.values())
    if patients:
        print(f"{len(patients)} image files are of {len(set(patients.values()))} patients, by folders or names")
    groups = {path: f"files_of_{digest(f'{above}/{patients[stem]}', 12)}"
              for path, stem in stems.items() if stem in patients}  # fmt: skip
    return [replace(scan, group=groups.get(scan.channels[0][0], scan.group)) for scan in scans]


def _kind(path: str) -> tuple[str, str]:
    """Give a file's folder and its ending; numbers, as UIDs end in, are none."""
    folder, name = os.path.split(path)
    ending = os.path.splitext(name)[1].lower()
    return folder, "" if ending[1:].isdecimal() else ending


def _has_header(path: Path) -> bool:
    """Tell whether an ``.img`` or ``.img.gz`` holds the voxels of a header beside it."""
    stem = re.sub(r"\.img(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    return any((path.parent / f"{stem}{ending}").is_file() for ending in (".hdr", ".HDR", ".nhdr", ".mhd", ".nrrd"))


def _may_be_image(path: str) -> os.stat_result | None:
    """Return a file's status unless its name says that it is no image.

    Raises:
        ScanError: it can't be read, whatever it is.
    """
    status, name = os.stat(path), os.path.basename(path)
    bare = name.lower()
    while bare.endswith(_PACKED):
        bare = bare.rpartition(".")[0]
    if name.lower() in _NO_IMAGE or name.startswith("._") or bare.endswith(_NO_IMAGES):
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


def _one_line(name: str) -> str:
    # A name whose bytes are no UTF-8 must not break the manifest.
    text = os.fsencode(name).decode("utf-8", "replace")
    # Nor must a line break, or a command to the terminal.
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)
