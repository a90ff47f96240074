"""The index: no header is read twice, whatever happens in between, and nothing in it tells who the patient is."""

import hashlib
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nnunet_genesis.errors import GenesisError
from pretraining.preparation import index
from pretraining.preparation.index import FILE_NAME, read_indexed
from pretraining.preparation.manifest import GROUP_KEY, Row, update
from pretraining.scans.find import find_scans
from pretraining.scans.scan import LeftOut, Scan
from tests.pretraining.preparation.synthetic_scans import write_scan
from tests.pretraining.scans.dicom_series import SECRETS, SERIES, at, make_enhanced, make_series, make_slice

Found = tuple[list[Scan], list[LeftOut]]


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """One of each kind of file that is read: classic and enhanced DICOM, no UID, NIfTI, no image, a damaged one."""
    root = tmp_path_factory.mktemp("scans of index") / "scans"
    make_series(root / "named", SeriesDescription="words-uvw", StudyInstanceUID=f"{SERIES}.9")
    make_series(root / "blank", SeriesInstanceUID="", PatientID="", ProtocolName="words-uvw", RescaleIntercept=-1000)
    frames = [at(2.5 * z, np.arange(24).reshape(4, 6) * z) for z in range(3)]
    make_enhanced(root / "enhanced.dcm", frames, SeriesInstanceUID=f"{SERIES}.2")
    write_scan(root / "a.nii.gz")
    (root / "what").write_bytes(b"no image")
    (root / "damaged.dcm").write_bytes((root / "enhanced.dcm").read_bytes()[:200])
    return root


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files whose header is read."""
    names, read_file = [], index.read_file

    def reading(path: str, key: bytes) -> object:
        names.append(os.path.basename(path))
        return read_file(path, key)

    monkeypatch.setattr(index, "read_file", reading)
    return names


def find(scans: Path, folder: Path, key: bytes | None = bytes(32), processes: int = 2) -> Found:
    folder.mkdir(exist_ok=True)
    if key and not (folder / GROUP_KEY).exists():
        (folder / GROUP_KEY).write_bytes(key)
    return find_scans([scans], None, partial(read_indexed, folder=folder, processes=processes))


def test_second_call_reads_only_what_could_not_be_read(scans, tmp_path, read):
    first = find(scans, tmp_path)
    before, read[:] = (tmp_path / FILE_NAME).stat(), []
    assert find(scans, tmp_path) == first
    assert read == ["damaged.dcm"]
    assert (tmp_path / FILE_NAME).stat().st_mtime_ns == before.st_mtime_ns
    assert [scan.source for scan in first[0]] == ["a.nii.gz", "blank", "enhanced.dcm", "named"]
    assert [scan.group.startswith("patient_") for scan in first[0]] == [False, False, True, True]
    assert first[0][3].headers == find_scans([scans / "named"], None, partial(_with_key, bytes(32)))[0][0].headers


def _with_key(key: bytes, files: list) -> dict:
    return {file.path: index.read_file(file.path, key) for file in files}


def test_changed_and_new_files_are_read_again_and_lost_ones_forgotten(tmp_path, read):
    files = make_series(tmp_path / "scans")
    find(tmp_path / "scans", tmp_path / "base")
    entries = len((tmp_path / "base" / FILE_NAME).read_text().splitlines())
    os.utime(files[3], ns=(0, 0))
    make_slice(files[4], 4, PatientComments="longer")
    files[11].unlink()
    make_slice(tmp_path / "scans" / "new.dcm", 11)
    read.clear()
    assert len(find(tmp_path / "scans", tmp_path / "base")[0][0].headers) == 12
    assert sorted(read) == ["3.dcm", "4.dcm", "new.dcm"]
    assert len((tmp_path / "base" / FILE_NAME).read_text().splitlines()) == entries


@pytest.mark.parametrize("moment", [0, 5, 17])
def test_killed_call_is_gone_on_with(scans, tmp_path, read, monkeypatch, moment):
    whole = find(scans, tmp_path / "whole")
    total, lines = len(read), index._lines
    read.clear()
    with monkeypatch.context() as patch:
        patch.setattr(index, "_FEW", 0)
        patch.setattr(index, "in_processes", lambda work, items, _: ((item, work(item)) for item in items))
        patch.setattr(index, "_BATCH", 1)
        patch.setattr(index, "_lines", lambda *args, **more: 1 / 0 if len(read) == moment else lines(*args, **more))
        with pytest.raises(ZeroDivisionError):
            find(scans, tmp_path / "killed")
    index_file = tmp_path / "killed" / FILE_NAME
    index_file.write_text(index_file.read_text()[:-20])  # the last line was cut
    assert find(scans, tmp_path / "killed") == whole
    assert len(read) <= total + 2
    assert (tmp_path / "killed" / FILE_NAME).read_bytes() == (tmp_path / "whole" / FILE_NAME).read_bytes()


def test_processes_and_parts_at_the_same_time_leave_the_same_index(scans, tmp_path, read, monkeypatch):
    one = find(scans, tmp_path / "one")
    monkeypatch.setattr(index, "_FEW", 0)
    monkeypatch.setattr(index, "_BATCH", 4)
    assert find(scans, tmp_path / "two", processes=2) == one
    monkeypatch.setattr(index, "_FEW", 1000)
    read.clear()
    with ThreadPoolExecutor(3) as threads:
        parts = [threads.submit(find, scans, tmp_path / "parts") for _ in range(3)]
    assert all(part.result() == one for part in parts)
    assert len(read) == len(set(read)) + 12 + 2  # slices of two series have the same names; the damaged one thrice
    indices = {(tmp_path / name / FILE_NAME).read_bytes() for name in ("one", "two", "parts")}
    assert len(indices) == 1


def test_no_patient_in_the_index(scans, tmp_path):
    find(scans, tmp_path, key=None)
    content = (tmp_path / FILE_NAME).read_text()
    assert (tmp_path / GROUP_KEY).stat().st_mode & 0o777 == 0o600
    planted = (*SECRETS, "words-uvw", "scans", ".dcm")
    hashes = [hashlib.sha256(word.encode()).hexdigest()[:8] for word in (SECRETS[1], "words-uvw")]
    assert [word for word in (*planted, *hashes) if word in content] == []


def test_without_its_key_an_index_does_not_count(scans, tmp_path, read):
    find(scans, tmp_path)
    (tmp_path / GROUP_KEY).unlink()
    read.clear()
    (found,) = [scan for scan in find(scans, tmp_path, key=None)[0] if scan.source == "named"]
    assert len(read) == 26
    update(tmp_path, [Row.of_prepared(found, "CT", "")], [])
    (tmp_path / GROUP_KEY).unlink()
    with pytest.raises(GenesisError, match="patients could be divided"):
        find(scans, tmp_path, key=None)


def test_header_that_ends_its_process_loses_only_its_file(scans, tmp_path, monkeypatch):
    read_file, fork = index.read_file, multiprocessing.get_context("fork")
    crash = lambda path, key: os._exit(1) if path.endswith("named/3.dcm") else read_file(path, key)  # noqa: E731
    monkeypatch.setattr(index, "read_file", crash)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    monkeypatch.setattr(index, "_FEW", 0)
    found, left_out = find(scans, tmp_path, processes=2)
    assert [scan.source for scan in found] == ["a.nii.gz", "blank", "enhanced.dcm"]
    reasons = {out.source: out.reason for out in left_out}
    assert "crashes" in reasons["named/3.dcm"]
    assert "a slice is missing" in reasons["named"]
