"""nnUNetv2_predict, in this process and in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import predict_entry_point

COMMAND = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as p; p()"
FLAGS = ["-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]


def predict(images: Path, output: Path, *flags: str) -> None:
    """The command's function, in this process."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nnUNetv2_predict", "-i", str(images), "-o", str(output), *flags, *FLAGS])
        predict_entry_point()
    torch.set_num_threads(threads)  # it takes all cores on a CPU


def predict_in_a_process(images: Path, output: Path, *flags: str, without_package: bool = False) -> None:
    """In a process of its own; ``without_package``: where this package can't be imported."""
    hide = "import sys; sys.modules['nnunet_genesis'] = sys.modules['pretraining'] = None; " if without_package else ""
    environment = {k: v for k, v in os.environ.items() if not (without_package and k == "nnUNet_extTrainer")}
    command = [sys.executable, "-c", hide + COMMAND, "-i", str(images), "-o", str(output), *flags, *FLAGS]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
