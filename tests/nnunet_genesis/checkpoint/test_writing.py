"""The files of a run: which one a run goes on from, and that a whole one is always there."""

import os
import stat
from pathlib import Path

import pytest
import torch

from nnunet_genesis.checkpoint.writing import (
    BEST,
    FINAL,
    LATEST,
    PREVIOUS,
    damage,
    newest,
    replacing,
    set_aside,
)
from nnunet_genesis.errors import GenesisError


def write(folder: Path, name: str, epoch: int, age: float = 0) -> Path:
    file = folder / name
    torch.save({"epoch": epoch, "weights": torch.ones(1000)}, file)
    os.utime(file, (1e9 - age, 1e9 - age))
    return file


def epoch(file: Path | None) -> int:
    return torch.load(file, weights_only=True)["epoch"]


def test_latest_becomes_previous(tmp_path):
    for number in (1, 2, 3):
        with replacing(tmp_path / LATEST) as temporary:
            torch.save({"epoch": number}, temporary)
    assert [epoch(tmp_path / name) for name in (LATEST, PREVIOUS)] == [3, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_latest_never_takes_the_place_of_a_whole_previous(tmp_path):
    write(tmp_path, PREVIOUS, 1)
    os.truncate(write(tmp_path, LATEST, 2), 100)
    with replacing(tmp_path / LATEST) as temporary:
        torch.save({"epoch": 2}, temporary)
    assert [epoch(tmp_path / name) for name in (LATEST, PREVIOUS)] == [2, 1]


def test_what_reads_back_differently_takes_no_place(tmp_path):
    write(tmp_path, LATEST, 1)

    def save_half() -> None:
        with replacing(tmp_path / LATEST) as temporary:
            torch.save({"epoch": 2}, temporary)
            os.truncate(temporary, 100)

    with pytest.raises(GenesisError, match=r"checkpoint_latest.pth: not written: what was read back.*intact"):
        save_half()
    assert epoch(tmp_path / LATEST) == 1
    assert [file.name for file in tmp_path.iterdir()] == [LATEST]


def test_what_the_disk_does_not_keep_takes_no_place(tmp_path, monkeypatch):
    """A disk that loses data when it is told to keep them: what is read back must come from there, not from memory."""
    write(tmp_path, LATEST, 1)
    keep = os.fsync

    def lose(handle: int) -> None:
        keep(handle)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            os.ftruncate(handle, 100)

    monkeypatch.setattr(os, "fsync", lose)
    refused = pytest.raises(GenesisError, match=r"checkpoint_latest.pth: not written: what was read back")
    with refused, replacing(tmp_path / LATEST) as temporary:
        torch.save({"epoch": 2}, temporary)
    assert epoch(tmp_path / LATEST) == 1


def test_without_links_previous_is_moved(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    for number in (1, 2):
        with replacing(tmp_path / LATEST) as temporary:
            torch.save({"epoch": number}, temporary)
    assert [epoch(tmp_path / name) for name in (LATEST, PREVIOUS)] == [2, 1]


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_every_truncation_is_seen(tmp_path, share):
    file = write(tmp_path, LATEST, 1)
    assert damage(file) is None
    os.truncate(file, int(file.stat().st_size * share))
    assert damage(file)


def test_the_newest_whole_one_is_taken(tmp_path):
    assert newest(tmp_path, print) is None
    for name, number, age in ((FINAL, 3, 30), (LATEST, 7, 10), (PREVIOUS, 6, 20)):
        write(tmp_path, name, number, age)
    warnings: list[str] = []
    for expected in (7, 6, 3):  # a run that was extended from 3
        file = newest(tmp_path, warnings.append)
        assert epoch(file) == expected
        written = file.stat().st_mtime
        os.truncate(file, 50)
        os.utime(file, (written, written))
    assert len(warnings) == 3  # one for latest, then for latest and previous
    with pytest.raises(GenesisError, match=r"checkpoint_final.pth: truncated or damaged.*move the folder away"):
        newest(tmp_path, print)


def test_a_whole_best_one_is_named_where_the_final_one_is_damaged(tmp_path):
    os.truncate(write(tmp_path, FINAL, 5), 50)
    write(tmp_path, BEST, 4)
    with pytest.raises(GenesisError, match=r"found none\. Copy checkpoint_best\.pth, which is whole, to checkpoint_l"):
        newest(tmp_path, print)
    os.truncate(tmp_path / BEST, 50)
    with pytest.raises(GenesisError, match=r"found none\. Copy a whole one to checkpoint_latest"):
        newest(tmp_path, print)


def test_a_final_one_is_newer_than_a_latest_left_behind(tmp_path):
    write(tmp_path, LATEST, 4, 10)
    write(tmp_path, FINAL, 5)
    assert epoch(newest(tmp_path, print)) == 5


def test_a_new_run_never_goes_on_from_an_earlier_ones(tmp_path):
    for name, number in ((LATEST, 7), (PREVIOUS, 6), (FINAL, 5), (BEST, 4)):
        write(tmp_path, name, number)
    assert [epoch(file) for file in set_aside(tmp_path)] == [5, 7, 4]
    assert not {FINAL, LATEST, PREVIOUS, BEST} & {file.name for file in tmp_path.iterdir()}
    assert newest(tmp_path, print) is None
    assert set_aside(tmp_path) == []
