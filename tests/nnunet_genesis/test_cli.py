"""The commands: help without torch, exit statuses, one line of error; and that nnU-Net finds the trainers."""

import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_genesis import cli
from nnunet_genesis.errors import GenesisError
from tests.integration.warm_processes import start_command

COMMANDS = {
    "nnUNetv2_genesis_trainers": "nnunet_genesis.cli:trainers",
    "nnUNetv2_genesis_doctor": "nnunet_genesis.doctor:main",
    "nnUNetv2_genesis_export": "nnunet_genesis.cli:export",
    "nnUNetv2_genesis_import": "nnunet_genesis.cli:import_",
    "nnUNetv2_genesis_inspect": "nnunet_genesis.cli:inspect",
    "nnUNetv2_genesis_plan": "nnunet_genesis.cli:plan",
    "nnUNetv2_genesis_report": "nnunet_genesis.cli:report",
    "nnUNetv2_genesis_split": "nnunet_genesis.cli:split",
    "nnUNetv2_genesis_prepare": "pretraining.__main__:prepare",
    "nnUNetv2_genesis_pretrain": "pretraining.__main__:pretrain",
    "nnUNetv2_genesis_classify": "pretraining.classification.commands:classify",
    "nnUNetv2_genesis_features": "pretraining.classification.commands:features",
}
TRAINERS = (
    "nnUNetTrainerGenesis",
    "nnUNetTrainerGenesisFull",
    "nnUNetTrainerGenesisScratch",
    "nnUNetTrainerGenesisClassifier",
    "nnUNetTrainerGenesisClassifierScratch",
)
ROOT = Path(__file__).resolve().parents[2]


def call(command: str, *arguments: str, after: str = "", **variables: str) -> subprocess.CompletedProcess:
    """Run a command in a process of its own, as its installed script does; ``after`` is run at its end."""
    module, function = COMMANDS[command].split(":")
    script = (
        f"import atexit, sys; from {module} import {function}; atexit.register(lambda: print({after})); {function}()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_import_torch(command):
    heavy = "('torch', 'nnunetv2', 'numpy', 'SimpleITK')"
    done = call(command, "--help", after=f"'LOADED', [name for name in {heavy} if name in sys.modules]")
    assert done.returncode == 0
    assert f"usage: {command}" in done.stdout
    assert done.stdout.endswith("LOADED []\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_scripts_are_installed_under_their_names(command):
    text = (ROOT / "pyproject.toml").read_text()
    assert f'{command} = "{COMMANDS[command]}"' in text


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_flag_is_wrong_usage(command, monkeypatch, capsys):
    module, function = COMMANDS[command].split(":")
    monkeypatch.setattr(sys, "argv", [command, "--nonsense"])
    with pytest.raises(SystemExit) as stop:
        getattr(importlib.import_module(module), function)()
    assert stop.value.code == 2
    assert f"usage: {command}" in capsys.readouterr().err


def test_trainers_prints_the_folder_of_the_shim_and_nothing_else():
    done = call("nnUNetv2_genesis_trainers", after="end=''")
    (line,) = done.stdout.splitlines()
    assert Path(line, "nnunet_genesis_trainers.py").is_file()
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("nnUNetv2_genesis_export", ["{tmp}/nothing", "--stock"], "nothing: expected a trained model"),
        ("nnUNetv2_genesis_prepare", ["-i", "{tmp}/none", "-d", "1", "-n", "X"], "none does not exist"),
        ("nnUNetv2_genesis_pretrain", ["Dataset009_X", "3d_fullres"], "nnUNetPlans.json: no such plans; found none"),
    ],
)
def test_error_is_one_line_without_a_traceback(tmp_path, command, arguments, said):
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    module, function = COMMANDS[command].split(":")
    entry_point, output = getattr(importlib.import_module(module), function), tmp_path / "output.txt"
    process = start_command(entry_point, [text.format(tmp=tmp_path) for text in arguments], output, **folders)
    process.join()
    errors = [line for line in output.read_text().splitlines() if line.startswith("ERROR: ")]
    assert process.exitcode == 1
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in output.read_text()


@pytest.mark.parametrize(("flag", "value"), [("-f", "none"), ("-f", "1.5"), ("-num_gpus", "0"), ("-num_gpus", "-1")])
def test_fold_is_a_number_or_all_and_there_is_a_process(flag, value, monkeypatch, capsys):
    from pretraining.__main__ import pretrain

    monkeypatch.setattr(sys, "argv", ["nnUNetv2_genesis_pretrain", "1", "3d_fullres", flag, value])
    with pytest.raises(SystemExit) as stop:
        pretrain()
    assert stop.value.code == 2
    assert f"error: {'argument ' * (flag == '-f')}{flag}" in capsys.readouterr().err


@pytest.mark.parametrize(("result", "status"), [(None, 0), (0, 0), (3, 3)])
def test_exit_status_is_the_commands(result, status):
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: result)
    assert stop.value.code == status


def test_error_becomes_the_exit_message():
    def command() -> None:
        raise GenesisError("a.pth: no such file")

    with pytest.raises(SystemExit) as stop:
        cli.run(command)
    assert stop.value.code == "ERROR: a.pth: no such file"


def test_other_exceptions_keep_their_traceback():
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(command)


@pytest.mark.parametrize("name", TRAINERS)
def test_nnunet_finds_one_picklable_class(name, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(cli.trainers_folder()))
    first, second = recursive_find_trainer_class_by_name(name), recursive_find_trainer_class_by_name(name)
    assert first is second
    module = "nnunet_genesis.classification.trainer" if "Classifier" in name else "nnunet_genesis.trainer"
    assert (first.__name__, first.__module__) == (name, module)
    assert pickle.loads(pickle.dumps(first)) is first  # noqa: S301 - our own bytes
