"""nnUNetv2_train asked for what can't be had, or for no checkpoints: nothing is made up, and nothing is lost."""

from pathlib import Path

import pytest
import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.run.run_training import run_training

from nnunet_genesis import checkpoint, importers
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


def train(fold: int = 0, trainer: str = SCRATCH, **options: bool) -> Path:
    """Returns the run's folder."""
    run_training("701", "3d_fullres", fold, trainer, device=torch.device("cpu"), **options)
    return Path(nnUNet_results) / "Dataset701_One" / f"{trainer}__nnUNetPlans__3d_fullres" / f"fold_{fold}"


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


def test_without_checkpointing_an_earlier_runs_checkpoints_stay(world):
    folder = train()
    (folder / "checkpoint_latest.pth").write_bytes(b"of a run that was stopped")
    (folder / "checkpoint_previous.pth").write_bytes(b"the one before")
    before = {file.name: file.read_bytes() for file in folder.glob("*.pth")}
    assert len(before) == 4  # final and best, too
    train(disable_checkpointing=True)
    assert {file.name: file.read_bytes() for file in folder.glob("*.pth")} == before


def test_a_decoder_is_not_begun_from_random_values_in_silence(world, tmp_path, monkeypatch):
    content = importers.convert(train() / "checkpoint_final.pth").checkpoint
    weights = {name: value for name, value in content["network_weights"].items() if name.startswith("encoder.")}
    checkpoint.save(content | {"network_weights": weights}, tmp_path / "encoder.pth")
    monkeypatch.setenv("nnUNet_genesis_weights", str(tmp_path / "encoder.pth"))
    with pytest.raises(
        SystemExit, match=r"nothing of these weights .*not in the pretrained.* Use nnUNetTrainerGenesis,"
    ):
        train(trainer="nnUNetTrainerGenesisFull")
