"""Schedules of fine-tuning in nnU-Net's own loop: what is frozen, what stock nnU-Net does, and runs that go on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from torch import distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from nnunet_genesis.classification.trainer import nnUNetTrainerGenesisClassifierScratch
from nnunet_genesis.trainer import nnUNetTrainerGenesisScratch
from tests.faults.training_runs import Run, assert_equal_runs, runs

CPU, SCRATCH = torch.device("cpu"), "nnUNetTrainerGenesisScratch"
EPOCHS, ITERATIONS = 4, 2


def make_run(world: dict[str, Path], results: Path, **variables: str) -> Run:
    results.mkdir(exist_ok=True)
    run = runs(world | {"nnUNet_results": results}, EPOCHS, ITERATIONS)["fine-tuning"]
    return replace(run, environment=run.environment | {f"nnUNet_genesis_{k}": v for k, v in variables.items()})


def make_trainer(monkeypatch: pytest.MonkeyPatch, run: Run, trainer: str = SCRATCH):
    for name, value in run.environment.items():
        monkeypatch.setenv(name, value)
    made = get_trainer_from_args("701", "3d_fullres", 0, trainer, device=CPU)
    made.initialize()
    return made


def test_the_sawtooth_leaves_the_encoder_first_and_resumes_in_the_right_phase(world, tmp_path, monkeypatch):
    run = make_run(world, tmp_path / "whole", schedule="sawtooth")
    whole = run.finish()
    assert whole["init_args"]["genesis"]["schedule"] == {
        "kind": "sawtooth", "peak_lr": 0.01, "lengths": [1, 1, 1], "frozen": False}  # fmt: skip
    text = run.log()
    for words in (
        "Schedule sawtooth, peak learning rate 0.01 (for the run's 16 patches; 1e-2 up to 4,000, 1e-3 from 75,000",
        "the encoder is frozen, and",
        "Phase 2 of 4, epochs 1 to 1: decoder only, poly",
        "Phase 3 of 4, epochs 2 to 2: everything, warm-up",
    ):
        assert words in text
    run = make_run(world, tmp_path / "killed in each", schedule="sawtooth")
    for epoch in range(1, EPOCHS):
        run.kill(epoch)
    assert_equal_runs(run.finish(), whole)
    assert "Phase 4 of 4, epochs 3 to 3: everything, poly" in run.log()


def test_gradients_of_the_encoder_by_phase(world, tmp_path, monkeypatch):
    trainer = make_trainer(monkeypatch, make_run(world, tmp_path, schedule="sawtooth"))
    trainer.on_train_start()
    encoder, decoder = ({name: p for name, p in trainer.network.named_parameters() if name.startswith(part)}
                        for part in ("encoder.", "decoder."))  # fmt: skip
    before = {name: value.detach().clone() for name, value in encoder.items()}
    for epoch in range(EPOCHS):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        trainer.train_step(next(trainer.dataloader_train))
        still = epoch < 2
        assert all(p.grad is None or not p.grad.any() for p in encoder.values()) == still
        assert all(torch.equal(value, before[name]) for name, value in encoder.items()) == still
        assert any(p.grad.any() for p in decoder.values())


def test_poly_is_stock_nnunet_for_scratch(world, tmp_path, monkeypatch):
    run = make_run(world, tmp_path, schedule="poly")
    ours, stock = (make_trainer(monkeypatch, run, name) for name in (SCRATCH, "nnUNetTrainer"))
    stock.num_epochs = EPOCHS
    stock.optimizer, stock.lr_scheduler = stock.configure_optimizers()
    for epoch in range(EPOCHS):
        groups = []
        for trainer in (ours, stock):
            trainer.lr_scheduler.step(epoch)
            groups.append({k: v for k, v in trainer.optimizer.param_groups[0].items() if k != "params"})
        assert groups[0] == groups[1]
    assert groups[0]["momentum"] == 0.99


class Short(nnUNetTrainerGenesisScratch):
    """In nnU-Net's usual style."""

    def __init__(self, plans, configuration, fold, dataset_json, device=CPU):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 20


class ShortAndSlow(Short):
    def __init__(self, plans, configuration, fold, dataset_json, device=CPU):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 5e-3


class ShortClassifier(nnUNetTrainerGenesisClassifierScratch):
    def __init__(self, plans, configuration, fold, dataset_json, device=CPU):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.initial_lr = 20, 5e-3


@pytest.mark.parametrize(
    ("kind", "variable", "peak"),
    [(Short, None, 4.9e-3), (ShortAndSlow, None, 5e-3), (ShortAndSlow, "0.02", 0.02), (ShortClassifier, None, 5e-3)],
)
def test_a_subclass_that_sets_its_length_and_peak_gets_a_schedule_for_them(world, monkeypatch, kind, variable, peak):
    if variable:
        monkeypatch.setenv("nnUNet_genesis_peak_lr", variable)
    base = world["nnUNet_preprocessed"] / "Dataset701_One"
    cases = sorted(file.stem for file in (base / "nnUNetPlans_3d_fullres").glob("*.pkl"))
    labels = [f"{case},{number % 2}" for number, case in enumerate(cases)]
    (base / "genesis_labels.csv").write_text("\n".join(["case,label", *labels]))
    plans, dataset = (json.loads((base / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset"))
    trainer = kind(plans | {"continue_training": False}, "3d_fullres", 0, dataset, CPU)
    trainer.initialize()
    assert [(phase.end, phase.peak_lr) for phase in trainer.phases] == [(2, peak), (20, peak)]
    assert trainer.initial_lr == peak


def test_a_frozen_encoder_stays(world, tmp_path, monkeypatch):
    trainer = make_trainer(monkeypatch, make_run(world, tmp_path, freeze="encoder"))
    trainer.on_train_start()
    trainer.current_epoch = EPOCHS - 1
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    assert all(p.grad is None for name, p in trainer.network.named_parameters() if name.startswith("encoder."))


def test_going_on_with_another_schedule_is_refused_and_an_early_runs_is_todays(world, tmp_path, monkeypatch):
    run = make_run(world, tmp_path)
    run.kill(1)
    for name, value, then in (
        ("schedule", "poly", "warmup"),
        ("peak_lr", "0.1", "0.01"),
        ("freeze", "encoder", "None"),
        ("mirroring", "0", "1"),
        ("optimizer", "adamw", "sgd"),
        ("iterations", "3", "2"),
    ):
        output = replace(run, environment=run.environment | {f"nnUNet_genesis_{name}": value}).fail()
        assert f"nnUNet_genesis_{name}={value}: the run in" in output
        assert f"was started with {then}. Unset it" in output
    file = run.folder() / "checkpoint_latest.pth"
    content = torch.load(file, weights_only=False)
    for name in ("schedule", "epochs", "iterations"):  # as before they were kept
        del content["init_args"]["genesis"][name]
    torch.save(content, file)
    final = run.finish()
    assert final["init_args"]["genesis"]["schedule"]["peak_lr"] == 1e-3
    assert final["logging"]["lrs"][1] == pytest.approx(1e-3 * 0.75**0.9)


def test_without_mirroring_left_stays_left_after_an_interruption_too(world, tmp_path):
    run = make_run(world, tmp_path, mirroring="0")
    run.kill(1)
    other = replace(run, environment=run.environment | {"nnUNet_genesis_mirroring": "1"})
    assert "nnUNet_genesis_mirroring=1: the run in" in other.fail()
    del run.environment["nnUNet_genesis_mirroring"]
    final = run.finish()
    assert final["inference_allowed_mirroring_axes"] is None


def test_a_fresh_shell_goes_on_with_the_runs_length_and_optimiser(world, tmp_path, monkeypatch):
    run = make_run(world, tmp_path / "whole", optimizer="adamw")
    whole = run.finish()
    run = make_run(world, tmp_path / "killed", optimizer="adamw")
    run.kill(1)
    for name in ("epochs", "iterations", "optimizer"):
        del run.environment[f"nnUNet_genesis_{name}"]
    assert_equal_runs(run.finish(), whole)
    for name, value in run.environment.items():
        monkeypatch.setenv(name, value)
    made = get_trainer_from_args("701", "3d_fullres", 0, SCRATCH, device=CPU)
    made.load_checkpoint(str(run.folder() / "checkpoint_final.pth"))  # as nnUNetv2_train --val does
    assert (made.num_epochs, made.num_iterations_per_epoch) == (EPOCHS, ITERATIONS)
    assert isinstance(made.optimizer, torch.optim.AdamW)
    longer = replace(run, environment=run.environment | {"nnUNet_genesis_epochs": "5"})
    assert longer.finish()["current_epoch"] == 5
    assert "Epochs: 5, before this 4" in longer.log()


def _sawtooth_rank(rank: int, folder: str) -> None:
    """Train the decoder, then everything, one step each with images of the rank's own; keep what there is then."""
    made = get_trainer_from_args("701", "3d_fullres", 0, SCRATCH, device=CPU)  # before the group: nnU-Net wants CUDA
    made.initialize()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting point", rank=rank, world_size=2)
    torch.manual_seed(rank)
    made.is_ddp, made.network = True, DistributedDataParallel(made.network)
    found = []
    for frozen in (True, False):
        made._freeze_encoder(frozen)
        for _ in range(2):  # DDP made for everything would wait for the encoder in the second
            made.optimizer.zero_grad()
            image = torch.rand(1, 1, *made.configuration_manager.patch_size)
            sum(output.square().mean() for output in made.network(image)).backward()
            made.optimizer.step()
        found.append({n: (p.detach().clone(), p.grad) for n, p in made.bare_network().named_parameters()})
    torch.save(found, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_two_processes_wait_for_the_gradients_that_a_phase_has_and_stay_equal(world, tmp_path, monkeypatch):
    before = dict(make_trainer(monkeypatch, make_run(world, tmp_path, schedule="sawtooth")).network.named_parameters())
    multiprocessing.spawn(_sawtooth_rank, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    for frozen, first, second in zip((True, False), one, other, strict=True):
        for name, (value, gradient) in first.items():
            assert torch.equal(value, second[name][0])
            if name.startswith("encoder."):
                assert (gradient is None) == frozen
                assert torch.equal(value, before[name]) or not frozen
        assert first["decoder.seg_layers.0.weight"][1].any()
