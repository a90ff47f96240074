"""Files are there whole or not at all, and what a disk refuses is said in words."""

import errno
import json
import os
from pathlib import Path

import pytest

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import (
    atomic_path,
    disk_in_words,
    not_writable,
    read_json,
    remove_unfinished,
    whole_folder,
    write_json,
)
from nnunet_genesis.folders import environment


def half_written(file: Path, error: BaseException) -> None:
    with atomic_path(file) as temporary:
        Path(temporary).write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    file = tmp_path / "c.pth"
    file.write_text("old")
    with pytest.raises(type(error)):
        half_written(file, error)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["c.pth"]


def test_the_old_file_is_whole_until_the_new_one_is_complete(tmp_path):
    file = tmp_path / "c.pth"
    file.write_text("old")
    with atomic_path(file) as temporary:
        Path(temporary).write_text("new")
        assert Path(temporary).parent == tmp_path
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["c.pth"]


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    (tmp_path / "checkpoint_latest.pth.tmp123").touch()
    (tmp_path / "a.json").touch()
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["a.json"]


def test_json_is_written_as_nnunet_does_and_read_back(tmp_path):
    write_json({"b": [1, "ü"], "a": None}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == json.dumps({"b": [1, "ü"], "a": None}, indent=4)
    assert read_json(tmp_path / "a.json") == {"b": [1, "ü"], "a": None}


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (
            errno.ENOSPC,
            r"file: not written: No space left on device \(\d+ MiB are free there\). Free some space",
        ),
        (errno.EFBIG, "file: not written: File too large"),
        (errno.EROFS, "file: not written: Read-only file system. Make it writable, or choose another folder"),
        (errno.EACCES, "file: Permission denied. Check the owner and mode of the file and its folder"),
    ],
)
def test_a_disk_that_refuses_is_named(tmp_path, number, expected):
    error = OSError(number, os.strerror(number), str(tmp_path / "file.tmp42"))
    with (
        pytest.raises(GenesisError, match=expected + ".*, then run it again."),
        disk_in_words(tmp_path, "run it again."),
    ):
        raise error
    assert not_writable(error)


def test_a_full_disk_is_named_where_the_path_is_a_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GenesisError, match="MiB are free there"), disk_in_words("genesis.pth", "run it again."):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_folder_that_one_is_in_is_filled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with whole_folder(Path(".")) as partial:
        (partial / "README.md").touch()
    assert os.listdir(".") == ["README.md"]
    assert not list(tmp_path.parent.glob("*.partial"))


def test_other_errors_pass(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, "no such file"), RuntimeError("a bug")):
        with pytest.raises(type(error)), disk_in_words(tmp_path, "run it again."):
            raise error


def test_the_environment_is_as_it_was_after_the_block(monkeypatch):
    monkeypatch.setenv("A_VARIABLE", "before")
    with environment(A_VARIABLE="within", ANOTHER="within"):
        assert (os.environ["A_VARIABLE"], os.environ["ANOTHER"]) == ("within", "within")
    assert os.environ["A_VARIABLE"] == "before"
    assert "ANOTHER" not in os.environ
