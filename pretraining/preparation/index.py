"""``genesis_index.jsonl``, beside the manifest: what the headers of all files said, so that each is read once.

A line a file: hash of its path, size, time of its last change, content. It holds for as long as size and time are the
same. UIDs and words are hashed, patients have the names of their groups, and there is no other text of a header in it.
What can't be read isn't kept, so that it is tried again.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_genesis.files import atomic_path
from pretraining.preparation.lock import CACHE, one_at_a_time
from pretraining.preparation.manifest import GROUP_KEY, group_key, keep_group_key
from pretraining.preparation.pool import in_processes
from pretraining.scans.dicom_headers import SliceHeader
from pretraining.scans.find import Content, read_file
from pretraining.scans.scan import File, Geometry, LeftOut, digest

FILE_NAME = "genesis_index.jsonl"
_FEW = 500  # files that are read sooner than processes start
_BATCH = 100  # files that a process reads at a time
_OWN = ("frame", "position", "number")  # what differs from image to image
_COMMON = [field.name for field in fields(SliceHeader) if field.name not in ("path", *_OWN)]
_GRID = [field.name for field in fields(Geometry)]
_HEAD = json.dumps([1, _OWN, _COMMON, _GRID])  # another version's index isn't read
_CRASHES = "a library crashes on its header, or memory ran out: convert it to another format"


def read_indexed(files: Sequence[File], folder: Path, processes: int) -> dict[str, Content]:
    """Give files' contents by path (see :func:`pretraining.scans.find.find_scans`); what isn't in the index is read.

    The index in ``folder``, the data set's, is then of these files. Parts of a preparation wait for the first of them,
    and take the index that it leaves.

    Raises:
        GenesisError: the key of the patients' groups is gone.
    """
    (folder / CACHE).mkdir(exist_ok=True)
    with one_at_a_time(folder / CACHE / "index.lock"):
        key, index = group_key(folder), folder / FILE_NAME
        known, whole = _stored(files, folder)
        with index.open("a" if known or whole else "w", encoding="utf-8") as stream:
            if not whole:  # behind a line that was cut when its process was killed
                print("" if known else _HEAD, file=stream)
            for file, found in _read([file for file in files if file.path not in known], key, processes):
                if isinstance(found, LeftOut):
                    known[file.path] = found
                    continue
                whole, known[file.path] = False, _decode(json.loads(found)[-1], file.path)
                if isinstance(known[file.path], list):
                    keep_group_key(folder, key)
                print(found, file=stream, flush=True)
        if not whole:
            _write(files, known, index)
    return known


def _stored(files: Sequence[File], folder: Path) -> tuple[dict[str, Content], bool]:
    """Return what is known of the files, and whether just that is in the index."""
    wanted = {digest(file.real, 32): file for file in files}
    known: dict[str, Content] = {}
    has_key, names = (folder / GROUP_KEY).is_file(), list[str]()
    for name, size, time, content in _entries(folder / FILE_NAME):
        names.append(name)
        file = wanted.get(name)
        if file and file.stamp == (size, time) and (has_key or "images" not in content):
            known[file.path] = _decode(content, file.path)
    whole = names == [digest(file.real, 32) for file in files if file.path in known]
    return known, whole and (folder / FILE_NAME).is_file()


def _entries(path: Path) -> Iterator[list]:
    """Read the lines of an index, not another version's; one that was cut as its process was killed says nothing."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as stream:
        for line in stream if stream.readline().rstrip() == _HEAD else ():
            try:
                entry = json.loads(line)
            except ValueError:
                entry = ()
            yield entry if isinstance(entry, list) and len(entry) == 4 else ["", 0, 0, {}]


def _read(files: Sequence[File], key: bytes, processes: int) -> Iterator[tuple[File, str | LeftOut]]:
    """Read files' headers; give each with its line of the index, or the reason why there is none."""
    if len(files) < _FEW:
        yield from zip(files, _lines(files, key), strict=True)
        return
    killed: list[File] = []
    with tqdm(total=len(files), desc="Reading headers", unit="file") as progress:
        for some, size in ((files, _BATCH), (killed, 1)):
            batches = [some[start : start + size] for start in range(0, len(some), size)]
            for batch, lines in in_processes(partial(_lines, key=key), batches, processes):
                if isinstance(lines, BrokenProcessPool):
                    if some is not killed:
                        killed += batch
                        continue
                    lines = [LeftOut("", _CRASHES)]
                progress.update(len(batch))
                yield from zip(batch, lines, strict=True)


def _lines(files: Sequence[File], key: bytes) -> list[str | LeftOut]:
    contents = ((file, read_file(file.path, key)) for file in files)
    return [content if isinstance(content, LeftOut) else _line(file, content) for file, content in contents]


def _write(files: Sequence[File], known: Mapping[str, Content], index: Path) -> None:
    with atomic_path(index) as path, open(path, "w", encoding="utf-8") as stream:
        print(_HEAD, file=stream)
        for file in files:
            content = known[file.path]
            if not isinstance(content, LeftOut):
                print(_line(file, content), file=stream)


def _line(file: File, content: Sequence[SliceHeader] | Geometry | None) -> str:
    if isinstance(content, Geometry):
        plain: dict[str, list] = {"grid": [getattr(content, name) for name in _GRID]}
    else:
        plain = {} if content is None else {"images": [_plain(header) for header in content]}
    return json.dumps([digest(file.real, 32), *file.stamp, plain], separators=(",", ":"))


def _plain(header: SliceHeader) -> list:
    common = json.dumps([getattr(header, name) for name in _COMMON], separators=(",", ":"))
    return [*(getattr(header, name) for name in _OWN), common]


def _decode(content: dict[str, list], path: str) -> Content:
    """Make a file's content of its entry."""
    if "grid" in content:
        return Geometry(*map(_as_tuple, content["grid"]))
    if "images" not in content:
        return None
    return [
        SliceHeader(path=path, **dict(zip(_OWN, map(_as_tuple, own), strict=True)), **_common(common))
        for *own, common in content["images"]
    ]


@lru_cache(1024)
def _common(text: str) -> dict[str, Any]:
    """Decode what images of a series have in common, once for all of them; their headers share it."""
    values = dict(zip(_COMMON, map(_as_tuple, json.loads(text)), strict=True))
    return {**values, "told": tuple(_pair(*told) for told in values["told"])}


@lru_cache(4096)
def _pair(name: str, value: str) -> tuple[str, str]:
    return name, value


def _as_tuple(value: Any) -> Any:
    return sys.intern(value) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
