"""nnUNetv2_train asked for what can't be had: nothing is made up."""

from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import run_training

from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.trainer import nnUNetTrainerGenesisScratch

SCRATCH = nnUNetTrainerGenesisScratch.__name__


@pytest.fixture(autouse=True)
def environment(world: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run, without its final validation."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    monkeypatch.setattr(nnUNetTrainerGenesisScratch, "perform_actual_validation", lambda *_: None)
    for name in ("epochs", "iterations"):
        monkeypatch.setenv(f"nnUNet_genesis_{name}", "1")


def train(fold: int = 0, **options: bool) -> None:
    run_training("701", "3d_fullres", fold, SCRATCH, device=torch.device("cpu"), **options)


def test_a_fold_that_is_not_there_is_refused_with_and_without_a_splits_file(world):
    file = world["nnUNet_preprocessed"] / "Dataset701_One" / "splits_final.json"
    content = file.read_text()
    with pytest.raises(SystemExit, match=r"fold 1: expected one of .*splits_final.json's folds, 0 to 0, or all"):
        train(1)
    file.unlink()
    with pytest.raises(SystemExit, match=r"fold 5: expected one of .*splits_final.json's folds, 0 to 4, or all"):
        train(5)
    assert not file.exists()
    file.write_text(content)
