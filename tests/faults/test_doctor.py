"""nnUNetv2_genesis_doctor: each thing broken in turn is named, with what to do."""

import resource
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import torch

from nnunet_genesis import cli, doctor
from nnunet_genesis.doctor import OK, PROBLEM, WARNING, Finding

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine set up as the README says."""
    for variable in doctor.FOLDERS:
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("nnUNet_extTrainer", str(cli.trainers_folder()))
    monkeypatch.setattr(doctor, "disk_usage", lambda _: Usage(10**12, 0, 10**12))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def levels(check) -> list[str]:
    return [finding.level for finding in check()]


def only(check, level: str) -> Finding:
    """The one finding that isn't OK; it says what to do."""
    (found,) = [finding for finding in check() if finding.level != OK]
    assert found.level == level
    assert found.advice
    print(f"survived: {found.text}")
    return found


def test_all_is_well(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_genesis_doctor"])
    with pytest.raises(SystemExit) as stop:
        doctor.main()
    printed = capsys.readouterr().out
    assert stop.value.code == 0, printed
    assert "0 problems" in printed
    for part in (
        "nnUNet_raw",
        "Python 3",
        "torch",
        "nnunetv2",
        "SimpleITK",
        "nnUNet_extTrainer",
        "GPU",
        "open files",
        "numba",
        "cores",
    ):
        assert part in printed


def test_a_problem_is_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_genesis_doctor"])
    monkeypatch.setattr(doctor, "examine", lambda: [Finding(PROBLEM, "disk: \x1b[2J", "Do this."), Finding(OK, "rest")])
    with pytest.raises(SystemExit) as stop:
        doctor.main()
    assert stop.value.code == 1
    assert capsys.readouterr().out == (
        "PROBLEM  disk: \\x1b[2J\n         -> Do this.\nOK       rest\n\n1 OK, 0 warnings, 1 problems\n"
    )


@pytest.mark.parametrize("variable", doctor.FOLDERS)
def test_folders(variable, healthy, monkeypatch):
    monkeypatch.delenv(variable)
    assert f"{variable}: not set" in only(doctor.check_folders, PROBLEM).text
    monkeypatch.setenv(variable, str(healthy / "gone"))
    assert "is no folder" in only(doctor.check_folders, PROBLEM).text
    (healthy / "file").touch()
    monkeypatch.setenv(variable, str(healthy / "file"))
    assert "is no folder" in only(doctor.check_folders, PROBLEM).text
    monkeypatch.setenv(variable, "/proc")  # a folder that takes no file, even root's
    level = WARNING if variable == "nnUNet_raw" else PROBLEM
    assert "can't be written to" in only(doctor.check_folders, level).text


@pytest.mark.parametrize(("free", "level"), [(5e8, PROBLEM), (5e9, WARNING), (5e10, OK)])
def test_disks(free, level, monkeypatch):
    monkeypatch.setattr(doctor, "disk_usage", lambda _: Usage(1e12, 0, free))
    assert levels(doctor.check_folders) == [level] * 3


def test_versions(monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.9.0" if name == "nnunetv2" else version(name))
    found = only(doctor.check_versions, PROBLEM)
    assert "nnunetv2: 2.9.0, expected" in found.text
    assert "pip install" in found.advice

    def without(name: str) -> str:
        if name == "numba":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    assert "numba: not installed" in only(doctor.check_versions, PROBLEM).text

    def not_installed(_: str) -> list[str]:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", not_installed)
    assert "nnunet-genesis: not installed" in only(doctor.check_versions, PROBLEM).text


def test_trainers(healthy, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer")
    assert "not set" in only(doctor.check_trainers, PROBLEM).text
    monkeypatch.setenv("nnUNet_extTrainer", str(healthy))
    assert "no nnUNetTrainerGenesis" in only(doctor.check_trainers, PROBLEM).text
    (healthy / "other").mkdir()
    (healthy / "other" / "copy_of_it.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerGenesis(nnUNetTrainer): pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(healthy / "other"))
    assert "has another nnUNetTrainerGenesis" in only(doctor.check_trainers, PROBLEM).text


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("nnUNet_genesis_epoch", "3", "Did you mean nnUNet_genesis_epochs?"),
        ("nnUNet_genesis_epochs", "many", "expected a whole number"),
        ("nnUNet_genesis_weights", "/no/such.pth", "no such file"),
    ],
)
def test_settings(variable, value, said, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert said in only(doctor.check_settings, PROBLEM).text


def test_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "none")
    assert "GPU: none" in only(doctor.check_gpu, WARNING).text
    monkeypatch.setattr(doctor, "DRIVER", tmp_path)
    assert "can't use it" in only(doctor.check_gpu, PROBLEM).text


@pytest.mark.parametrize(("free", "level"), [(20e9, OK), (2e9, WARNING)])
def test_a_gpu(free, level, monkeypatch):
    a_gpu(monkeypatch, free)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1))
    assert levels(doctor.check_gpu) == [level]


def test_a_gpu_that_cannot_compute(monkeypatch):
    a_gpu(monkeypatch, 20e9)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(torch, "ones", fails)
    assert "can't compute (CUDA error: no kernel image is available)" in only(doctor.check_gpu, PROBLEM).text


def a_gpu(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Test 24 GB")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 24e9))


@pytest.mark.parametrize(("size", "level"), [(64e6, PROBLEM), (1e9, WARNING), (8e9, OK)])
def test_shared_memory(size, level, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "SHARED", tmp_path)
    monkeypatch.setattr(doctor, "disk_usage", lambda _: Usage(size, 0, size))
    assert levels(doctor.check_shared_memory) == [level]


def test_open_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        assert "at most 256" in only(doctor.check_files, WARNING).text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_compiler(monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/nowhere")
    assert "no place for the result" in only(doctor.check_compiler, WARNING).text
    monkeypatch.setitem(sys.modules, "numba", None)
    (found,) = doctor.guarded(doctor.check_compiler)
    assert found.level == PROBLEM
    assert "compiler: can't be checked" in found.text


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "nnUNet_n_proc_DA"])
@pytest.mark.parametrize("value", ["9999", "many", "-1"])
def test_cores(variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert f"{variable}={value}" in only(doctor.check_cores, WARNING).text
