"""Paths from a stranger, in plans and archives: read as checkpoints only, never waited for, nothing written outside."""

import hashlib
import io
import os
import signal
import socket
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nnunet_genesis import cli
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json
from nnunet_genesis.settings import Settings, weights_file
from nnunet_genesis.trainer import nnUNetTrainerGenesis
from pretraining.scans.image_files import read_image_file
from tests.faults.small_world import DATASET, NAME, small_plans, write_small_world
from tests.nnunet_genesis.networks import network, save

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "benchmark"))
import protocol_data


@pytest.fixture(scope="module", autouse=True)
def world(nnunet_folders: dict[str, Path]) -> None:
    write_small_world(nnunet_folders["nnUNet_preprocessed"])


@pytest.fixture(autouse=True)
def never_hangs() -> Iterator[None]:
    """A pipe that nobody writes to would be waited for without end."""

    def stop(*_: object) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def trainer(genesis: object) -> nnUNetTrainerGenesis:
    plans = small_plans() | {"genesis": genesis, "continue_training": False}
    return nnUNetTrainerGenesis(plans, "3d_fullres", 0, dict(DATASET), torch.device("cpu"))


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return str(folder / "pipe")


def unix_socket(folder: Path) -> str:
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)  # the path of a socket may be short only
    socket.socket(socket.AF_UNIX).bind("socket")
    os.fchdir(here)
    os.close(here)
    return str(folder / "socket")


def link_to_zeros(folder: Path) -> str:
    (folder / "link.pth").symlink_to("/dev/zero")
    return str(folder / "link.pth")


def circle(folder: Path) -> str:
    (folder / "circle").symlink_to("circle")
    return str(folder / "circle")


def secret(folder: Path) -> str:
    (folder / "secret").write_text("root:x:0:0:SECRET\n" * 50)
    (folder / "plans").mkdir()
    return str(folder / "plans" / ".." / "secret")


PATHS = {
    "../../etc/passwd": lambda folder: "../../../../../../../../etc/passwd",
    "a text file by ..": secret,
    "~": lambda folder: "~",
    "~nobody-of-this-name": lambda folder: "~nobody-of-this-name/w.pth",
    "/dev/zero": lambda folder: "/dev/zero",
    "/dev/stdin": lambda folder: "/dev/stdin",
    "a link to /dev/zero": link_to_zeros,
    "a link to itself": circle,
    "a pipe": pipe,
    "a socket": unix_socket,
    "a folder": str,
    "https": lambda folder: "https://example.org/weights.pth",
    "file://": lambda folder: f"file://{folder}/weights.pth",
    "\\\\server\\share": lambda folder: "\\\\server\\share\\weights.pth",
    "a name with a null": lambda folder: "weights\0.pth",
    "a name of 5000 letters": lambda folder: "w" * 5000,
    "a command": lambda folder: "$(touch ran).pth; touch ran",
    "empty": lambda folder: "",
    "a number": lambda folder: 3,
    "a list": lambda folder: ["a.pth"],
    "a dict": lambda folder: {"path": "a.pth"},
}


@pytest.mark.parametrize("kind", PATHS)
def test_weights_that_plans_name(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for genesis in ({"weights": PATHS[kind](tmp_path)}, PATHS[kind](tmp_path) if kind == "a list" else None):
        if genesis is None:
            continue
        with pytest.raises(SystemExit) as stop:
            trainer(genesis).on_train_start()
        message = str(stop.value)
        assert message.startswith("ERROR: ")
        assert "xpected" in message or "can't be read as a checkpoint" in message
        assert len(message) < 800
        assert "SECRET" not in message
    assert not (tmp_path / "ran").exists()
    print(f"survived: plans that name {kind}")


def test_the_same_for_every_command(tmp_path, monkeypatch):
    for kind, given in PATHS.items():
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path = given(folder)
        if not isinstance(path, str) or not path or "\0" in path:
            continue
        for command, function in (("inspect", cli.inspect), ("import", cli.import_), ("plan", cli.plan)):
            arguments = {
                "inspect": [path],
                "import": [path, "-o", str(folder / "o.pth")],
                "plan": ["-d", NAME, "--weights", path],
            }
            monkeypatch.setattr(sys, "argv", [command, *arguments[command]])
            with pytest.raises(SystemExit) as stop:
                function()
            assert str(stop.value).startswith("ERROR: "), (kind, command)
    print(f"survived: {len(PATHS)} paths in three commands")


def test_a_pipe_in_place_of_json(tmp_path):
    with pytest.raises(GenesisError, match="found a device or a pipe"):
        read_json(Path(pipe(tmp_path)))
    print("survived: a pipe in place of splits_final.json")


def test_weights_with_the_digest_that_plans_name(tmp_path, monkeypatch):
    file = save(network(3), tmp_path / "w.pth")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    plans = {"genesis": {"weights": str(file), "sha256": digest.upper()}}
    assert weights_file(Settings(), plans, "T") == file
    with file.open("r+b") as stream:
        stream.seek(200)
        stream.write(b"!")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(SystemExit) as stop:
        trainer(plans["genesis"]).on_train_start()
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"expected the SHA-256 {digest.upper()}" in str(stop.value)
    assert f"found {found}" in str(stop.value)
    assert "Get the file that the plans mean" in str(stop.value)
    assert weights_file(Settings(weights=str(file)), plans, "T") == file  # chosen by the user, not by the plans
    print("survived: weights with another SHA-256 than the plans name")


@pytest.mark.parametrize("target", ["/dev/zero", "../outside/secret.raw", "{tmp}/outside/secret.raw", "pipe", "link"])
def test_a_metaimage_that_names_its_data_elsewhere(target, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "scans"
    outside.mkdir()
    folder.mkdir()
    (outside / "secret.raw").write_bytes(bytes(range(210)))
    pipe(folder)
    (folder / "link").symlink_to("/dev/zero")
    header = "ObjectType = Image\nNDims = 3\nDimSize = 5 6 7\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
    (folder / "a.mhd").write_text(f"{header}ElementDataFile = {target.format(tmp=tmp_path)}\n")
    with pytest.raises(GenesisError, match=r"its data (are in another folder|file is no regular file)"):
        read_image_file(folder / "a.mhd")
    print(f"survived: a MetaImage whose data are in {target}")


def member(name: str, **changes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside", size=1),
        member("Task04_Hippocampus/../../outside", size=1),
        member("{tmp}/outside", size=1),
        member("Task04_Hippocampus/link", type=tarfile.SYMTYPE, linkname="../../.."),
        member("Task04_Hippocampus/link", type=tarfile.LNKTYPE, linkname="../../outside"),
        member("Task04_Hippocampus/zeros", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    ],
    ids=lambda info: f"{info.name} {info.linkname}",
)
def test_an_archive_that_is_downloaded(bad, tmp_path, monkeypatch):
    bad.name = bad.name.format(tmp=tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(member("Task04_Hippocampus/dataset.json", size=2), io.BytesIO(b"{}"))
        archive.addfile(bad, io.BytesIO(b"x"))
        archive.addfile(member("Task04_Hippocampus/link/written", size=1), io.BytesIO(b"x"))
    monkeypatch.setattr(urllib.request, "urlopen", lambda _: io.BytesIO(buffer.getvalue()))
    digest = hashlib.md5(buffer.getvalue(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(protocol_data.MD5, "Task04_Hippocampus", digest)
    folder = tmp_path / "a" / "downloads"
    try:
        target = protocol_data.download("Task04_Hippocampus", folder)
    except SystemExit as stop:
        assert "can't be unpacked" in str(stop)  # noqa: PT017 - where "data" makes a member harmless, it is unpacked
    else:
        assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in target.rglob("*"))
    inside = {path for path in tmp_path.rglob("*") if folder in path.parents or path in (folder, folder.parent)}
    assert set(tmp_path.rglob("*")) == inside
    print(f"survived: a downloaded archive with {bad.name}")
