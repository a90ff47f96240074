"""TensorBoard and W&B beside nnU-Net's log: what reaches them, what doesn't, and that a dead one stops nothing."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args, run_training

from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.training.tracking import Guarded
from pretraining.run import pretrain
from tests.integration.tiny_world import LABELLED, prepare_labelled

CPU, SCRATCH = torch.device("cpu"), "nnUNetTrainerGenesisScratch"
HERE = {name: importlib.util.find_spec(name) is not None for name in ("tensorboard", "wandb")}


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    prepare_labelled(nnunet_folders["nnUNet_raw"], nnunet_folders["nnUNet_preprocessed"])
    return nnunet_folders


@pytest.fixture(autouse=True)
def environment(world, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    for name, value in {"epochs": "2", "iterations": "2", "seed": "0"}.items():
        monkeypatch.setenv(f"nnUNet_genesis_{name}", value)


def folder(world: dict[str, Path], trainer: str) -> Path:
    return world["nnUNet_results"] / LABELLED / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_a_tracker_that_fails_is_reported_once_and_left():
    class Dying:
        def log(self, key, value, step):
            if step:
                raise ConnectionError("server gone")
            seen.append((key, value))

    seen, told = [], []
    guarded = Guarded("W&B", Dying, told.append)
    for step in range(3):
        guarded.log("r2", 0.5, step)
    assert seen == [("r2", 0.5)]
    assert told == ["WARNING: W&B: ConnectionError: server gone. The run goes on without it."]
    Guarded("W&B", lambda: 1 / 0, told.append).log_summary("dice", 1)
    assert told[1].startswith("WARNING: W&B: ZeroDivisionError")


@pytest.mark.skipif(not HERE["tensorboard"], reason="tensorboard isn't installed: pip install tensorboard")
def test_tensorboard_gets_a_pretraining_and_no_pictures_unless_asked(world, monkeypatch):
    monkeypatch.setenv("nnUNet_genesis_tensorboard", "1")
    options = {"device": CPU, "iterations": 2, "precision": "fp32"}
    final = pretrain("702", "3d_fullres", epochs=2, **options)
    log = torch.load(final, weights_only=True)["logging"]
    found = events(final.parent)
    for key in ("r2", "train_losses", "val_losses", "lrs"):
        assert [event.value for event in found.Scalars(key)] == pytest.approx(log[key])
    assert [event.value for event in found.Scalars("phase")] == [1, 1]
    assert not found.Tags()["images"]
    monkeypatch.setenv("nnUNet_genesis_panels", "1")
    pretrain("702", "3d_fullres", epochs=3, continue_training=True, **options)
    found = events(final.parent)
    assert [event.step for event in found.Scalars("r2_hidden")] == [0, 1, 2]
    assert [event.step for event in found.Images("restoration")] == [2]


@pytest.mark.skipif(not HERE["tensorboard"], reason="tensorboard isn't installed: pip install tensorboard")
def test_tensorboard_gets_a_fine_tuning_its_phases_and_its_final_dice(world, monkeypatch):
    monkeypatch.setenv("nnUNet_genesis_tensorboard", "1")
    monkeypatch.setenv("nnUNet_genesis_epochs", "4")
    monkeypatch.setenv("nnUNet_genesis_schedule", "sawtooth")
    run_training("702", "3d_fullres", 0, SCRATCH, device=CPU)
    found = events(folder(world, SCRATCH))
    assert [event.value for event in found.Scalars("phase")] == [1, 2, 3, 4]
    assert {"lrs", "train_losses", "ema_fg_dice", "final_val/foreground_dice"} <= set(found.Tags()["scalars"])
    assert "config/text_summary" in found.Tags()["tensors"]


@pytest.mark.skipif(not HERE["wandb"], reason="wandb isn't installed: pip install wandb")
@pytest.mark.skipif("WANDB_API_KEY" in os.environ, reason="never with somebody's key")
def test_wandb_offline(world, monkeypatch):
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.setenv("nnUNet_wandb_mode", "offline")
    final = pretrain("702", "3d_fullres", fold=1, device=CPU, epochs=1, iterations=2, precision="fp32")
    import wandb

    assert "hparas" in dict(wandb.run.config)
    wandb.finish()
    content = next((final.parent / "wandb" / "latest-run").glob("*.wandb")).read_bytes()
    for key in (b"r2_hidden", b"train_losses", b"lrs", b"phase"):
        assert key in content
    assert not list((final.parent / "wandb").rglob("*.png"))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("nnUNet_wandb_enabled", "yes", "Must be '0'.*Correct or unset it"),
        ("nnUNet_wandb_enabled", "1", "W&B isn't installed. Run 'pip install wandb'"),
        ("nnUNet_genesis_tensorboard", "1", "TensorBoard isn't installed"),
        ("nnUNet_genesis_tensorboard", "2", "expected 0 or 1"),
    ],
)
def test_what_is_wrong_stops_before_the_first_step(world, monkeypatch, variable, value, message):
    if value == "1" and HERE["wandb" if "wandb" in variable else "tensorboard"]:
        pytest.skip("it is installed")
    monkeypatch.setenv(variable, value)
    with pytest.raises(GenesisError, match=message):
        pretrain("702", "3d_fullres", fold=2, trainer="nnUNetTrainerMasking", device=CPU, epochs=1, iterations=1)
    with pytest.raises(SystemExit, match=message):
        get_trainer_from_args("702", "3d_fullres", 2, SCRATCH, device=CPU).run_training()
