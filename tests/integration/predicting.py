"""nnUNetv2_predict, in this process and in one of its own."""

import os
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import predict_entry_point

from tests.integration.warm_processes import Within, start_command

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
    command = Within(predict_without_package if without_package else predict_entry_point, os.getcwd())
    said = output.with_name(f"{output.name}.txt")
    process = start_command(command, ["-i", str(images), "-o", str(output), *flags, *FLAGS], said)
    process.join()
    assert process.exitcode == 0, said.read_text()


def predict_without_package() -> None:
    """Run the command where this package can't be imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("nnunet_genesis", "pretraining")]:
        del sys.modules[name]
    sys.modules["nnunet_genesis"] = sys.modules["pretraining"] = None
    os.environ.pop("nnUNet_extTrainer", None)
    predict_entry_point()
