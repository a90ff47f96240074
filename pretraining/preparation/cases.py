"""Which scans are prepared already: told by their files, of which each case's properties keep hashes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from batchgenerators.utilities.file_and_folder_operations import load_pickle

from pretraining.scans.scan import LeftOut, Scan, digest, own_name, sample

REMARK = "genesis_remark"  # in a case's properties, for the manifest of a later run
_FILES = "genesis_files"


@dataclass(frozen=True)
class Told:
    """What a case's properties say of the scan that it was made of; an earlier version's say nothing of its files."""

    remark: str = ""
    path: str = ""  # hash of the first file's path
    stamp: str = ""  # hash of all files' sizes and times
    sample: str = ""  # see :func:`pretraining.scans.scan.sample`

    @classmethod
    def by(cls, file: Path) -> "Told":
        """Read a case's properties (.pkl)."""
        properties = load_pickle(str(file))
        return cls(str(properties.get(REMARK, "")), **properties.get(_FILES, {}))

    def is_changed(self, scan: Scan) -> bool:
        """Tell whether the scan isn't any more what the case was made of: not if it was only moved."""
        same = self.stamp in ("", stamp_of(scan)) or (self.path != path_of(scan) and self.sample == sample(scan))
        return not same


def properties_of(scan: Scan, remark: str) -> dict[str, object]:
    """Give what a case's properties keep of its scan."""
    files = {"path": path_of(scan), "stamp": stamp_of(scan), "sample": sample(scan)}
    return {_FILES: files} | ({REMARK: remark} if remark else {})


def path_of(scan: Scan) -> str:
    """Hash the path of a scan's first file."""
    return digest(scan.real, 16)


def stamp_of(scan: Scan) -> str:
    """Hash sizes and times of a scan's files."""
    return digest(repr(scan.stamps), 16)


class Cases:
    """The cases in a data set's folder, of any configuration; the properties of each are read once."""

    def __init__(self, folder: Path) -> None:
        files = {file.stem: file for file in folder.glob("*/*.pkl")}
        self.told = cache(lambda case: Told.by(files[case]) if case in files else None)
        stems: dict[str, list[str]] = {}
        for case in files:
            stems.setdefault(case.rpartition("_")[0], []).append(case)
        self._by_path = cache(
            lambda stem: {told.path: case for case in stems.get(stem, ()) if (told := self.told(case))}
        )

    def named(self, scans: Iterable[Scan]) -> tuple[list[Scan], list[LeftOut]]:
        """Give scans the names of their cases; of several that are one case by their content, one counts."""
        unique, left_out = dict[str, Scan](), []
        for scan in scans:
            case = self._case(scan)
            group = case if scan.group == scan.case else scan.group
            if unique.setdefault(case, scan) is scan:
                unique[case] = replace(scan, case=case, group=group)
            else:
                left_out.append(LeftOut.copy(scan, unique[case]))
        return list(unique.values()), left_out

    def _case(self, scan: Scan) -> str:
        """Name the case that was made of a scan's file, whatever it was called; a DICOM series is called by its UID."""
        told = self.told(scan.case)
        if scan.kind == "dicom" or (told and told.path in ("", path_of(scan))):
            return scan.case
        if found := self._by_path(scan.case.rpartition("_")[0]).get(path_of(scan)):
            return found
        return own_name(scan) if told and told.sample != sample(scan) else scan.case
