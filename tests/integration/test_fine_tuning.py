"""Fine-tuning through nnU-Net's own entry points: training, resuming, validation, prediction, cascade, regions."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint, run_training

from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.sharing.stock_export import export_stock
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.run import pretrain
from tests.integration.predicting import predict, predict_in_a_process
from tests.integration.tiny_world import make_raw_dataset, plan_and_preprocess

CPU = torch.device("cpu")
PLAIN = {"background": 0, "outer": 1, "inner": 2}
REGIONS = {"background": 0, "whole": [1, 2], "inner": 2, "ignore": 3}


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    """801: labelled, with a cascade; 802: regions and the ignore label; 803: 801's images, prepared and pretrained."""
    raw, preprocessed = nnunet_folders["nnUNet_raw"], nnunet_folders["nnUNet_preprocessed"]
    make_raw_dataset(raw, "Dataset801_Plain", PLAIN)
    make_raw_dataset(raw, "Dataset802_Regions", REGIONS, regions_class_order=[1, 2])
    plan_and_preprocess(preprocessed, 801, lowres=True)
    plan_and_preprocess(preprocessed, 802)
    prepare_dataset(PrepareOptions((raw / "Dataset801_Plain" / "imagesTr",), 803, "Scans", like="801"))
    weights = pretrain("803", "3d_fullres", device=CPU, epochs=1, iterations=4)
    return nnunet_folders | {"weights": weights}


@pytest.fixture(autouse=True)
def environment(world: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user exports before nnUNetv2_train."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    monkeypatch.setenv("nnUNet_genesis_weights", str(world["weights"]))
    monkeypatch.setenv("nnUNet_genesis_epochs", "1")
    monkeypatch.setenv("nnUNet_genesis_iterations", "2")


def train(dataset: str, trainer: str, configuration: str = "3d_fullres", fold: int | str = 0, **kwargs) -> None:
    run_training(dataset, configuration, fold, trainer, device=CPU, **kwargs)


def results(world: dict[str, Path], trainer: str, dataset: str = "Dataset801_Plain", name: str = "3d_fullres") -> Path:
    return world["nnUNet_results"] / dataset / f"{trainer}__nnUNetPlans__{name}" / "fold_0"


def report(folder: Path) -> dict:
    return json.loads((folder / "genesis_load_report.json").read_text())


def test_train_with_probabilities_then_resume_and_validate_without_the_weights_file(world, monkeypatch):
    train("801", "nnUNetTrainerGenesis", export_validation_probabilities=True)
    folder = results(world, "nnUNetTrainerGenesis")
    assert report(folder)["coverage"] == {"encoder": 1.0, "decoder": 0.0}
    assert list((folder / "validation").glob("*.npz"))
    assert (folder / "validation" / "summary.json").is_file()
    monkeypatch.setenv("nnUNet_genesis_weights", "/moved/away.pth")
    monkeypatch.setenv("nnUNet_genesis_epochs", "2")
    train("801", "nnUNetTrainerGenesis", continue_training=True)
    assert torch.load(folder / "checkpoint_final.pth", weights_only=False)["current_epoch"] == 2
    monkeypatch.delenv("nnUNet_genesis_weights")
    train("801", "nnUNetTrainerGenesis", only_run_validation=True)


def test_a_new_run_that_was_killed_at_once_never_goes_on_from_an_earlier_one(world, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    folder = results(world, "nnUNetTrainerGenesis")
    assert (folder / "checkpoint_final.pth").is_file()  # of the test before
    earlier = torch.load(folder / "checkpoint_final.pth", weights_only=False)["network_weights"]
    begun = make_trainer("nnUNetTrainerGenesis", fold=0)
    monkeypatch.setattr(begun, "train_step", crash)
    with pytest.raises(RuntimeError, match="crash"):
        begun.run_training()
    monkeypatch.delenv("nnUNet_genesis_weights")  # they are in the checkpoint that is written before the first step
    continued = go_on("nnUNetTrainerGenesis", fold=0)
    assert continued.current_epoch == 0
    for name, value in begun.network.state_dict().items():
        assert torch.equal(value, continued.network.state_dict()[name]), name
    kept = torch.load(folder / "checkpoint_earlier_final.pth", weights_only=False)["network_weights"]
    assert all(torch.equal(value, kept[name]) for name, value in earlier.items())
    assert "an earlier run's checkpoints are kept as checkpoint_earlier_final.pth" in Path(begun.log_file).read_text()
    continued.run_training()
    assert torch.load(folder / "checkpoint_final.pth", weights_only=False)["current_epoch"] == 1


def go_on(name: str, fold: int):
    """As nnUNetv2_train does with --c."""
    trainer = get_trainer_from_args("801", "3d_fullres", fold, name, continue_training=True, device=CPU)
    maybe_load_checkpoint(trainer, True, False)
    return trainer


def crash(batch: dict) -> dict:
    raise RuntimeError("crash")


def test_val_best_takes_the_best_where_there_was_nothing_to_continue(world):
    trainer = go_on("nnUNetTrainerGenesis", fold=2)  # there is nothing
    trainer.run_training()
    best = Path(trainer.output_folder) / "checkpoint_best.pth"
    torch.save(torch.load(best, weights_only=False) | {"current_epoch": 17}, best)
    trainer.load_checkpoint(str(best))  # as nnUNetv2_train --c --val_best does next
    assert trainer.current_epoch == 17


def test_full_and_scratch_with_loader_processes(world, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    train("801", "nnUNetTrainerGenesisFull")
    assert report(results(world, "nnUNetTrainerGenesisFull"))["coverage"] == {"encoder": 1.0, "decoder": 1.0}
    monkeypatch.setenv("nnUNet_genesis_weights", "/not/looked/at.pth")
    train("801", "nnUNetTrainerGenesisScratch")
    assert not (results(world, "nnUNetTrainerGenesisScratch") / "genesis_load_report.json").exists()


def test_training_starts_from_the_pretrained_tensors(world, monkeypatch):
    pretrained = torch.load(world["weights"], weights_only=True)["network_weights"]
    trainer = make_trainer("nnUNetTrainerGenesisFull")
    trainer._load_genesis_weights()
    loaded = dict(trainer.network.named_parameters())
    same = [name for name, value in loaded.items() if torch.equal(value, pretrained[name])]
    assert {name for name in loaded if "seg_layers" not in name} <= set(same)


def test_sgd_starts_from_kernels_of_unit_variance_and_adamw_from_the_files(world, monkeypatch):
    pretrained = torch.load(world["weights"], weights_only=True)["network_weights"]
    monkeypatch.setenv("nnUNet_genesis_seed", "2")
    shrunk, ratios = {}, {}
    for optimizer in ("sgd", "adamw"):
        monkeypatch.setenv("nnUNet_genesis_optimizer", optimizer)
        trainer = make_trainer("nnUNetTrainerGenesisFull")
        trainer.on_train_start()
        loaded = dict(trainer.network.named_parameters())
        ratios = {name: (loaded[name] / pretrained[name]).flatten(1) for name in loaded if name.endswith("conv.weight")}
        shrunk[optimizer] = {name for name, ratio in ratios.items() if (ratio - 1).abs().max() > 1e-3}
        for ratio in ratios.values():  # one factor a channel
            torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)
    assert len(shrunk["sgd"]) == len(ratios) > 5
    assert not shrunk["adamw"]
    assert trainer.optimizer.param_groups[0]["weight_decay"] == trainer.described()["hparas"]["weight_decay"] == 0.01
    monkeypatch.setenv("nnUNet_genesis_optimizer", "sgd")
    monkeypatch.setenv("nnUNet_genesis_unit_variance", "0")
    trainer = make_trainer("nnUNetTrainerGenesis")
    trainer.on_train_start()
    assert torch.equal(trainer.network.encoder.stages[2][0].convs[0].conv.weight, pretrained[DEEP])


def test_a_cascade_keeps_the_image_channel(world):
    train("801", "nnUNetTrainerGenesis", "3d_lowres", fold="all")  # predicts every case for the next stage
    train("801", "nnUNetTrainerGenesis", "3d_cascade_fullres")
    loaded = report(results(world, "nnUNetTrainerGenesis", name="3d_cascade_fullres"))
    assert loaded["tensors"]["adapt"] == 1
    assert loaded["coverage"]["encoder"] > 0.95


def test_regions_and_the_ignore_label(world):
    train("802", "nnUNetTrainerGenesis")
    summary = json.loads(
        (results(world, "nnUNetTrainerGenesis", "Dataset802_Regions") / "validation/summary.json").read_text()
    )
    assert set(summary["mean"]) == {"(1, 2)", "2"}


def test_predict_evaluate_and_predict_without_this_package(world, tmp_path):
    train("801", "nnUNetTrainerGenesisScratch") if not results(world, "nnUNetTrainerGenesisScratch").exists() else None
    images = world["nnUNet_raw"] / "Dataset801_Plain" / "imagesTr"
    ours, stock = tmp_path / "our predictions", tmp_path / "stock predictions"
    flags = ["-d", "801", "-c", "3d_fullres", "-f", "0"]
    predict(images, ours, *flags, "-tr", "nnUNetTrainerGenesisScratch")
    export_stock(results(world, "nnUNetTrainerGenesisScratch").parent)
    predict_in_a_process(images, stock, *flags, without_package=True)
    for file in sorted(ours.glob("*.nii.gz")):
        one, other = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(d / file.name))) for d in (ours, stock))
        np.testing.assert_array_equal(one, other)
    assert len(list(stock.glob("*.nii.gz"))) == 5
    compute_metrics_on_folder_simple(str(images.parent / "labelsTr"), str(ours), [1, 2], num_processes=2)
    assert np.isfinite(json.loads((ours / "summary.json").read_text())["foreground_mean"]["Dice"])


def test_stock_pretrained_weights_take_our_checkpoint(world):
    trainer = get_trainer_from_args("803", "3d_fullres", 0, "nnUNetTrainer", device=CPU)
    maybe_load_checkpoint(trainer, False, False, str(world["weights"]))
    pretrained = torch.load(world["weights"], weights_only=True)["network_weights"]
    assert torch.equal(trainer.network.encoder.stages[2][0].convs[0].conv.weight, pretrained[DEEP])
    trainer = get_trainer_from_args("801", "3d_fullres", 0, "nnUNetTrainer", device=CPU)
    maybe_load_checkpoint(trainer, False, False, str(world["weights"]))
    assert torch.equal(trainer.network.encoder.stages[2][0].convs[0].conv.weight, pretrained[DEEP])


DEEP = "encoder.stages.2.0.convs.0.conv.weight"


def test_missing_weights_stop_with_the_remedy_in_the_log(world, monkeypatch):
    monkeypatch.delenv("nnUNet_genesis_weights")
    trainer = make_trainer("nnUNetTrainerGenesis")
    with pytest.raises(SystemExit, match=r"nnUNet_genesis_weights.*nnUNetTrainerGenesisScratch"):
        trainer.on_train_start()
    assert "has no weights to start from" in Path(trainer.log_file).read_text()


def test_weights_can_be_named_in_the_plans(world, monkeypatch):
    monkeypatch.delenv("nnUNet_genesis_weights")
    trainer = make_trainer("nnUNetTrainerGenesis")
    trainer.plans_manager.plans["genesis"] = {"weights": str(world["weights"])}
    trainer._load_genesis_weights()
    assert report(Path(trainer.output_folder))["source"] == str(world["weights"])


@pytest.mark.parametrize(
    ("variable", "value", "configuration", "message"),
    [
        ("nnUNet_genesis_weights", "/no/such.pth", "3d_fullres", r"/no/such.pth: no such file"),
        ("nnUNet_genesis_epoch", "3", "3d_fullres", r"Did you mean nnUNet_genesis_epochs\?"),
        ("nnUNet_genesis_epochs", "1", "2d", r"'2d' is 2D; Genesis weights are 3D"),
    ],
)
def test_what_is_wrong_stops_before_training(world, monkeypatch, variable, value, configuration, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=message):
        train("801", "nnUNetTrainerGenesis", configuration)


def test_convolutions_with_small_maps_stay_in_fp32_and_are_named(world, monkeypatch):
    monkeypatch.setenv("nnUNet_genesis_precision", "bf16")
    trainer = get_trainer_from_args("801", "3d_fullres", 1, "nnUNetTrainerGenesisScratch", device=CPU)
    trainer.configuration_manager.configuration["patch_size"] = [8, 24, 24]
    trainer.initialize()
    assert "convolution(s), encoder.stages.2.0.convs.0.conv, " in Path(trainer.log_file).read_text()
    with pytest.raises(GenesisError, match=r"images hold NaN, or torch computes bf16 wrongly on this CPU"):
        trainer.check_skipped(np.ones(10, bool))


def test_a_gradient_that_is_not_finite_is_counted_with_a_scaler_too(world):
    trainer = make_trainer("nnUNetTrainerGenesisScratch")
    trainer.grad_scaler, trainer.num_iterations_per_epoch = torch.amp.GradScaler("cpu"), 250
    batch = trainer._batches(0)[0](0)
    assert not trainer.train_step(batch)["skipped"]
    next(trainer.network.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    for _ in range(9):
        output = trainer.train_step(batch)
        assert output["skipped"]
        assert np.isfinite(output["loss"])
    with pytest.raises(GenesisError, match="10 steps in a row had a NaN or infinite loss or gradient"):
        trainer.train_step(batch)


def test_the_settings_reach_the_schedule(world, monkeypatch):
    for name, value in {"epochs": "20", "iterations": "50", "peak_lr": "0.01", "warmup_epochs": "4"}.items():
        monkeypatch.setenv(f"nnUNet_genesis_{name}", value)
    trainer = make_trainer("nnUNetTrainerGenesis")
    assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (50, 10)
    rates = []
    for epoch in range(20):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates[:5], [0.0025, 0.005, 0.0075, 0.01, 0.01])
    assert rates[4:] == sorted(rates[4:], reverse=True)


def make_trainer(name: str, fold: int = 1):
    trainer = get_trainer_from_args("801", "3d_fullres", fold, name, device=CPU)
    trainer.initialize()
    return trainer
