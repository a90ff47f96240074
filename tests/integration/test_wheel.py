"""The built wheel, in a clean virtual environment, away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIND_TRAINERS = """
import nnunet_genesis, pretraining.run
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
for name in ("", "Full", "Scratch"):
    assert find("nnUNetTrainerGenesis" + name).__module__ == "nnunet_genesis.trainer"
print(nnunet_genesis.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_both_packages_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nnunet_genesis", "pretraining"}


def test_commands_and_trainers_work_from_the_wheel(wheel, tmp_path, monkeypatch):
    for variable in ("PYTHONPATH", "nnUNet_extTrainer"):  # a checkout there would pass for the installed package
        monkeypatch.delenv(variable, raising=False)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True)
    # The dependencies are this environment's: 5 GB need not be installed again. Our editable install is not seen.
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    command = [str(python.with_name("nnUNetv2_genesis_trainers"))]
    trainers = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.strip()
    assert Path(trainers).is_relative_to(site)
    environment = os.environ | {"nnUNet_extTrainer": trainers}
    run = subprocess.run(
        [str(python), "-c", FIND_TRAINERS], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert Path(run.stdout.splitlines()[-1]).is_relative_to(site)
