"""SIGTERM to the process group in nnU-Net's final validation: an end at once, status 75, and what to do next."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run.run_training import get_trainer_from_args, run_training_entry
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.training.signals import RESUME_STATUS
from tests.faults.training_runs import runs
from tests.integration.tiny_world import prepare_scans
from tests.integration.warm_processes import start_command

ARGUMENTS = ["701", "3d_fullres", "0", "-tr", "nnUNetTrainerGenesisScratch", "-device", "cpu"]


class SlowCases(nnUNetDatasetBlosc2):
    """Cases that take minutes to read."""

    def load_case(self, identifier: str) -> Any:
        Path(os.environ["GENESIS_TEST_READS"]).touch()
        time.sleep(600)
        return super().load_case(identifier)


def train_and_validate_slowly() -> None:
    """``nnUNetv2_train``, whose final validation reads slowly."""
    from nnunet_genesis.trainer import nnUNetTrainerGenesisScratch as Trainer

    validate = Trainer.perform_actual_validation

    def validate_slowly(trainer: Trainer, save_probabilities: bool = False) -> None:
        trainer.dataset_class = SlowCases
        validate(trainer, save_probabilities)

    Trainer.perform_actual_validation = validate_slowly
    run_training_entry()


def test_sigterm_to_the_group_in_the_final_validation(nnunet_folders, tmp_path, monkeypatch):
    prepare_scans(nnunet_folders["nnUNet_preprocessed"], tmp_path / "scans")
    run = runs(nnunet_folders, 1, 2)["fine-tuning"]
    for name, value in run.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    output, reads = tmp_path / "output.txt", tmp_path / "reads"
    process = start_command(train_and_validate_slowly, ARGUMENTS, output, GENESIS_TEST_READS=str(reads))
    while not reads.exists():
        assert process.is_alive(), output.read_text()
        time.sleep(0.05)
    time.sleep(3)  # until nnU-Net's workers wait for work: one of them holds the lock of their queue
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    alive = process.is_alive()
    process.kill()
    assert not alive, "hangs"
    assert process.exitcode == RESUME_STATUS, output.read_text()
    assert "SIGTERM: stopped in the final validation. The training has ended, and checkpoint_final.pth is whole" in (
        said := output.read_text()
    )
    assert "with --val in place of --c" in said
    assert "Nothing is lost" not in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    trainer = get_trainer_from_args("701", "3d_fullres", 0, "nnUNetTrainerGenesisScratch", device=torch.device("cpu"))
    trainer.load_checkpoint(str(run.folder() / "checkpoint_final.pth"))
    print("\nfine-tuning: SIGTERM to the group in the final validation, status 75")
