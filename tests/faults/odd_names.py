"""Odd names, links and folders."""

import os
from pathlib import Path

from tests.faults.healthy import Healthy, write
from tests.faults.odd_scans import Make, Odd, as_it_is

GZ = "a.nii.gz"
NAMES = {
    "spaces": "  a scan  of today .nii.gz",
    "quotes": 'it\'s "the" `scan`; $(rm -rf x) %s {0} #1, ok.nii.gz',
    "unicode": "Schädel-тест 图像 🫀 e\u0301.nii.gz",
    "newline": "two\nlines\r\n.nii.gz",
    "terminal": "red \x1b[31m bell \x07 back \x08.nii.gz",
    "200 characters": "x" * 193 + ".nii.gz",
    "leading dash": "--modality MR.nii.gz",
    "formula": "=1+1.nii.gz",
    "dots": "...nii.gz",
}


def _named(name: str) -> Make:
    return lambda folder, scan: write(folder / GZ, scan).rename(folder / name)


def _link(target: str, name: str = GZ) -> Make:
    return lambda folder, scan: (folder / name).symlink_to(target)


def _loop(folder: Path, scan: Healthy) -> None:
    """A scan beside a link to its own folder and to the one above."""
    write(folder / GZ, scan)
    (folder / "again").symlink_to(folder)
    (folder / "above").symlink_to("../symlink loop")


def _pipe(folder: Path, scan: Healthy) -> None:
    os.mkfifo(folder / "pipe.nii.gz")


def _mhd_of_a_pipe(folder: Path, scan: Healthy) -> None:
    path = write(folder / "a.mhd", scan)
    (folder / "a.raw").unlink()
    os.mkfifo(folder / "a.raw")
    assert path.exists()


ROWS = [
    *(Odd(f"name with {kind}", _named(name), clean=as_it_is) for kind, name in NAMES.items()),
    Odd("name that is no utf-8", _named(os.fsdecode(b"caf\xe9 \xff.nii.gz")), "no UTF-8"),
    Odd("folder named like a scan", lambda f, s: write(f / "b.nii.gz" / GZ, s), clean=as_it_is),
    Odd("empty folder named like a scan", lambda f, s: (f / "b.nii.gz").mkdir(), "empty folder"),
    Odd("empty folder named like a slice", lambda f, s: (f / "b.dcm").mkdir(), "empty folder"),
    Odd("dangling link", _link("nowhere"), "can't be read: No such file"),
    Odd("link to itself", _link(GZ), "can't be read: Too many levels"),
    Odd("symlink loop", _loop, clean=as_it_is),
    Odd("pipe", _pipe),
    Odd("mhd whose data are a pipe", _mhd_of_a_pipe, "no regular file"),
    Odd("scan vanishes while being read", lambda f, s: write(f / GZ, s), "can't be read: No such file",
        after=lambda f: (f / GZ).unlink()),
    Odd("scan is cut after discovery", lambda f, s: write(f / GZ, s), "damaged or truncated",
        after=lambda f: (f / GZ).write_bytes((f / GZ).read_bytes()[:-100])),
    Odd("folder vanishes while being read", lambda f, s: write(f / "b" / GZ, s), "can't be read: No such file",
        after=lambda f: ((f / "b" / GZ).unlink(), (f / "b").rmdir())),
    Odd("not a scan at all", lambda f, s: [(f / n).write_text("x") for n in ("notes.txt", "README", "a.json")]),
]  # fmt: skip
