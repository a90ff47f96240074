"""The protocol: what pretraining sees of a fold, whose weights a subset starts from, jobs, plans, and a real report."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from nnunetv2.run.run_training import run_training

from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.comparison.report import write_report
from nnunet_genesis.comparison.subsets import add_subsets
from pretraining.options import RestorationOptions
from pretraining.trainer import nnUNetTrainerRestoration
from tests.integration.tiny_world import make_raw_dataset, plan_and_preprocess

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "benchmark"))
import protocol
from protocol_data import dataset_name, link_or_clear
from protocol_jobs import Job, run_jobs
from protocol_options import arguments
from protocol_plans import smaller_patch, write_small_plans

NAME, CPU = "Dataset811_Protocol", torch.device("cpu")


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    """Seven preprocessed cases with nnU-Net's five folds and subsets of 2 and 4 cases."""
    make_raw_dataset(nnunet_folders["nnUNet_raw"], NAME, {"background": 0, "outer": 1, "inner": 2}, cases=7)
    plan_and_preprocess(nnunet_folders["nnUNet_preprocessed"], 811)
    add_subsets(nnunet_folders["nnUNet_preprocessed"] / NAME, [2, 4, "all"])
    return nnunet_folders


def options(world: dict[str, Path], *more: str) -> argparse.Namespace:
    root = world["nnUNet_raw"].parent
    return arguments("", [str(root / "nnUNet_raw" / NAME), "-o", str(root), "--budget", "cpu", *more])


def splits(world: dict[str, Path]) -> list[dict[str, list[str]]]:
    return json.loads((world["nnUNet_preprocessed"] / NAME / "splits_final.json").read_text())


@pytest.mark.parametrize("fold", [0, 3])
def test_pretraining_on_a_fold_draws_no_validation_case_of_it(world, fold):
    base = world["nnUNet_preprocessed"] / NAME
    plans, description = (json.loads((base / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset"))
    trainer = nnUNetTrainerRestoration(plans | {"continue_training": False}, "3d_fullres", fold, description, CPU)
    trainer.use(RestorationOptions(epochs=1, iterations=20))
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    drawn = {key for _ in range(20) for key in next(loader)["keys"]}
    split = splits(world)[fold]
    assert set(trainer.get_tr_and_val_datasets()[0].identifiers) == set(split["train"])
    assert not set(split["train"]) & set(split["val"])
    assert drawn <= set(split["train"])
    assert len(drawn) > 3


def test_subsets_start_from_the_pretraining_of_their_fold(world):
    own = protocol.Protocol(options(world, "--cases", "2", "4", "all"), world["nnUNet_raw"] / NAME)
    for fold in range(5):
        pretraining = own.pretraining(fold)
        assert pretraining.command[pretraining.command.index("-f") + 1] == str(fold)
        for cases in own.args.cases:
            job = own.fine_tuning(fold, cases, "genesis", pretraining)
            weights = Path(job.environment["nnUNet_genesis_weights"])
            assert (weights.parent.name, weights.name) == (f"fold_{fold}", "checkpoint_final.pth")
            number = int(job.command[job.command.index("3d_fullres") + 1])
            assert splits(world)[number]["val"] == splits(world)[fold]["val"]
            assert job.after == (pretraining,)
        scratch = own.fine_tuning(fold, "2", "scratch", pretraining)
        assert "nnUNet_genesis_weights" not in scratch.environment
        assert not scratch.after
        assert scratch.environment["nnUNet_genesis_seed"] == "0"


def test_scratch_runs_once_and_each_variant_under_names_of_its_own(world, monkeypatch):
    own = options(world, "--folds", "0", "--variants", "restoration", "masking", "--arms", "scratch", "genesis")
    monkeypatch.setattr(protocol, "time_steps", lambda *_: (1.0, 1.0, 1))
    jobs = protocol.Protocol(own, world["nnUNet_raw"] / NAME).jobs()
    trainers = [job.command[job.command.index("-tr") + 1] for job in jobs]
    assert trainers[:3] == ["nnUNetTrainerRestoration", "nnUNetTrainerGenesisScratch", "nnUNetTrainerGenesis"]
    assert trainers[3:] == ["nnUNetTrainerRestoration_masking", "nnUNetTrainerGenesis_masking"]
    assert "nnUNetTrainerRestoration_masking__" in jobs[4].environment["nnUNet_genesis_weights"]
    assert jobs[4].after[0].command == jobs[3].command


def test_all_folds_start_from_one_pretraining_on_unlabelled_scans(world, monkeypatch, tmp_path):
    monkeypatch.setattr(protocol, "time_steps", lambda *_: (1.0, 1.0, 1))
    scans = str(tmp_path / "CT scans")
    own = options(world, "--unlabelled", scans, "--folds", "0", "1", "--arms", "scratch", "genesis")
    jobs = protocol.Protocol(own, world["nnUNet_raw"] / NAME).jobs()
    assert [job.name for job in jobs[:2]] == ["prepare unlabelled scans", "pretrain restoration, unlabelled scans"]
    assert [job.environment.get("nnUNet_genesis_weights") for job in jobs[2::2]] == [None, None]
    weights = {job.environment["nnUNet_genesis_weights"] for job in jobs[3::2]}
    assert [Path(path).parts[-4:-1] for path in weights] == [
        ("Dataset999_Unlabelled", "nnUNetTrainerRestoration__nnUNetHalfPlans__3d_fullres", "fold_0")
    ]
    assert scans in jobs[0].command
    assert jobs[1].command[1] == "Dataset999_Unlabelled"


def test_the_differences_from_the_published_protocol_are_all_named(world):
    small = protocol.Protocol(options(world, "--folds", "0", "--arms", "scratch"), world["nnUNet_raw"] / NAME)
    named = {what for what, _, _ in small.differences()}
    assert {"epochs of fine-tuning", "network's features per stage", "folds", "arms"} <= named
    full = protocol.Protocol(options(world, "--budget", "full"), world["nnUNet_raw"] / NAME)
    assert full.differences() == []


def test_a_coarser_spacing_is_planned_and_named(world):
    own = protocol.Protocol(options(world, "--spacing", "5", "2.5", "2.5"), world["nnUNet_raw"] / NAME)
    plan = list(own.set_up()[0].command)
    assert plan[plan.index("-overwrite_target_spacing") + 1 :][:3] == ["5.0", "2.5", "2.5"]
    assert ("target spacing in mm", None, [5, 2.5, 2.5]) in own.differences()


def test_other_settings_in_the_same_folder_are_refused(world):
    protocol.Protocol(options(world), world["nnUNet_raw"] / NAME).refuse_other_settings()
    protocol.Protocol(options(world, "--cases", "2"), world["nnUNet_raw"] / NAME).refuse_other_settings()
    with pytest.raises(SystemExit, match="made with"):
        protocol.Protocol(options(world, "--seed", "1"), world["nnUNet_raw"] / NAME).refuse_other_settings()


def test_real_runs_give_a_report_with_overlays(world, tmp_path, monkeypatch):
    for name, value in {"epochs": "1", "iterations": "2"}.items():
        monkeypatch.setenv(f"nnUNet_genesis_{name}", value)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    run_training("811", "3d_fullres", 0, "nnUNetTrainerGenesisScratch", device=CPU)
    page = write_report(["811"], tmp_path, export=tmp_path / "export").read_text()
    assert page.count('class="overlay"') == 3
    rows = pd.read_csv(tmp_path / "report.csv")
    assert set(rows["metric"]) == {"Dice", "NSD"}
    assert set(rows["n"]) == {len(splits(world)[0]["val"])}


@pytest.mark.parametrize(
    ("patch", "strides", "expected"),
    [
        ([40, 56, 40], [[1] * 3, [2] * 3, [2] * 3, [2] * 3], [40, 56, 40]),
        ([10, 160, 160], [[1] * 3, [1, 4, 4], [2, 8, 8]], [10, 96, 96]),
        ([128] * 3, [[1] * 3] + [[2] * 3] * 5, [32, 32, 64]),
    ],
)
def test_small_patches_keep_thin_axes_and_divisibility(patch, strides, expected):
    assert smaller_patch(patch, strides, 93_000) == expected


def test_small_plans_share_the_preprocessed_data(world):
    folder = world["nnUNet_preprocessed"] / NAME
    write_small_plans(folder, "Small", 93_000, 1)
    small, planned = (json.loads((folder / f"{n}.json").read_text()) for n in ("Small", "nnUNetPlans"))
    one, other = (plans["configurations"]["3d_fullres"] for plans in (small, planned))
    assert one["data_identifier"] == other["data_identifier"]
    assert one["architecture"]["arch_kwargs"]["features_per_stage"] == [2, 4, 6]
    assert (small["plans_name"], one["batch_size"]) == ("Small", 1)


def test_jobs_run_in_order_once_and_a_failure_stops_only_what_needs_it(tmp_path):
    def job(name: str, code: str, *after: Job) -> Job:
        file = tmp_path / name
        return Job(name, [sys.executable, "-c", code, str(file)], file.exists, {"WORD": name}, after)

    touch = "import sys, os; open(sys.argv[1], 'x').write(os.environ['WORD'])"
    first = job("first", touch)
    broken = job("broken", "print('because'); raise SystemExit(3)", first)
    jobs = [job("blocked", touch, broken), job("last", touch, first), broken, first]
    failed = run_jobs(jobs, tmp_path, os.environ, parallel=2)
    assert [name.split(" (")[0] for name in failed] == ["broken", "blocked"]
    assert (tmp_path / "last").read_text() == "last"
    assert "because" in (tmp_path / "logs" / "broken.txt").read_text()
    assert len(run_jobs([first, jobs[1]], tmp_path, os.environ)) == 0  # 'x' would fail on what is there
    partly = replace(job("partly", touch + "; raise SystemExit(3)"), statuses=(0, 3))
    assert run_jobs([partly], tmp_path, os.environ) == []
    assert len((tmp_path / "jobs.csv").read_text().splitlines()) == 5


def test_msd_and_nnunet_folders_are_told_apart(world, tmp_path):
    raw = world["nnUNet_raw"] / NAME
    assert dataset_name(raw) == NAME
    link_or_clear(raw, tmp_path)
    assert (tmp_path / NAME / "dataset.json").samefile(raw / "dataset.json")
    task = tmp_path / "Task11_Protocol"
    for name in ("imagesTr", "labelsTr"):
        (task / name).mkdir(parents=True)
    (task / "dataset.json").write_text('{"modality": {"0": "MRI"}}')
    assert dataset_name(task) == "Dataset011_Protocol"
    (tmp_path / "Dataset011_Protocol" / "imagesTr").mkdir(parents=True)  # left by an interrupted conversion
    link_or_clear(task, tmp_path)
    assert not (tmp_path / "Dataset011_Protocol").exists()
    with pytest.raises(SystemExit, match="expected an MSD folder"):
        dataset_name(tmp_path)
