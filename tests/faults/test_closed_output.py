"""Ctrl-C on a terminal whose output goes through tee, and a terminal that is closed: a checkpoint and status 75.

The pseudoterminal and the tee are real: Ctrl-C reaches tee too, which ends, and writing to its pipe fails from then on.
"""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.run.run_training import run_training_entry

from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.training.signals import RESUME_STATUS
from pretraining.__main__ import pretrain
from tests.faults.training_runs import Run, runs
from tests.integration.warm_processes import start_command

FLAGS = "-device cpu --epochs 1000 --iterations 2 --seed 3 --precision fp32 --memory_format contiguous"
TRAIN = "701 3d_fullres 0 -tr nnUNetTrainerGenesisScratch -device cpu"
COMMANDS = {
    "pretraining": (pretrain, ["701", "3d_fullres", *FLAGS.split()]),
    "fine-tuning": (run_training_entry, TRAIN.split()),
}


@pytest.fixture(params=COMMANDS)
def run(request, world, tmp_path, monkeypatch) -> Run:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    for name, value in {"epochs": 1000, "iterations": 2, "seed": 3}.items():
        monkeypatch.setenv(f"nnUNet_genesis_{name}", str(value))
    return runs(world | {"nnUNet_results": tmp_path}, 1000, 2)[request.param]


class Terminal:
    """A terminal in which one command runs, by itself or with its output through a real tee."""

    def __init__(self, kind: str, folder: Path, tee: bool):
        command, arguments = COMMANDS[kind]
        self.master, slave = pty.openpty()
        self.log = folder / "tee.log"
        os.environ["GENESIS_TEST_TTY"], os.environ["GENESIS_TEST_TEE"] = os.ttyname(slave), str(self.log) if tee else ""
        self.process = start_command(_Within(command), arguments, folder / "output.txt", nnUNet_n_proc_DA="2")
        self.slave = slave

    def wait_for(self, file: Path, words: str) -> None:
        while not any(words in log.read_text() for log in file.parent.glob(file.name)):
            assert self.process.is_alive(), self.log.read_text()
            os.set_blocking(self.master, False)
            try:
                os.read(self.master, 1 << 16)  # what a terminal shows
            except BlockingIOError:
                time.sleep(0.05)

    def ends(self) -> int:
        self.process.join(120)
        if alive := self.process.is_alive():
            self.process.kill()
        assert not alive, "still running after two minutes"
        return self.process.exitcode


class _Within:
    """Attaches the process to the terminal, as its foreground group, then calls the command."""

    def __init__(self, command: Callable[[], None]):
        self.command, self.__name__ = command, command.__name__

    def __call__(self) -> None:
        terminal: Any = os.open(os.environ["GENESIS_TEST_TTY"], os.O_RDWR)  # start_command has made a session
        if file := os.environ["GENESIS_TEST_TEE"]:
            terminal = subprocess.Popen(["tee", file], stdin=subprocess.PIPE, stdout=terminal).stdin
        for stream in (1, 2):
            os.dup2(terminal if isinstance(terminal, int) else terminal.fileno(), stream)
        if not isinstance(terminal, int):
            terminal.close()
        sys.stdout, sys.stderr = (os.fdopen(stream, "w") for stream in (1, 2))
        self.command()


@pytest.mark.parametrize("how", ["Ctrl-C and tee", "tee killed", "terminal closed"])
def test_a_closed_output_ends_in_a_checkpoint_and_status_75(run, tmp_path, how):
    terminal = Terminal(run.name, tmp_path, tee="tee" in how)
    logs = run.folder() / "training_log_*.txt"
    terminal.wait_for(logs, "Epoch 1")
    if how == "Ctrl-C and tee":
        os.write(terminal.master, b"\x03")
    elif how == "tee killed":
        (tee,) = (pid for pid in children(terminal.process.pid) if Path(f"/proc/{pid}/comm").read_text() == "tee\n")
        os.kill(int(tee), signal.SIGKILL)
    else:
        os.close(terminal.slave)
        os.close(terminal.master)  # the kernel sends SIGHUP, and writing fails from now on
    assert terminal.ends() == RESUME_STATUS, [log.read_text()[-2000:] for log in run.folder().glob(logs.name)]
    assert run.checkpoint("latest")["current_epoch"] >= 1
    assert "Go on with the same command and --c" in run.log()
    print(f"\n{run.name}: {how}, status {RESUME_STATUS} and a checkpoint")


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
