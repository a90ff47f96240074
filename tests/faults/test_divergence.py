"""Images that hold NaN and absurd learning rates: steps are skipped and counted, and no bad weights are saved."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_genesis.checkpoint.writing import LATEST
from pretraining.monitoring import COLLAPSED_R2
from tests.faults.training_runs import Run, runs

KINDS = ("pretraining", "fine-tuning")
LENGTH = (2, 24)


@pytest.fixture(scope="module")
def half(world, tmp_path_factory) -> Path:
    """Results of runs that were killed after their first epoch."""
    results = tmp_path_factory.mktemp("half")
    for run in runs(world | {"nnUNet_results": results}, *LENGTH).values():
        run.kill(1)
    return results


@pytest.fixture
def begun(world, half, tmp_path) -> dict[str, Run]:
    """Such runs in a folder of their own."""
    shutil.copytree(half, tmp_path / "results")
    (tmp_path / "results" / "output.txt").unlink()
    return runs(world | {"nnUNet_results": tmp_path / "results"}, *LENGTH)


class Poison:
    """Puts NaN into preprocessed images."""

    def __init__(self, folder: Path):
        (split,) = json.loads((folder.parent / "splits_final.json").read_text())
        self.folder, self.cases = folder, [*split["train"], *split["val"]]

    def put(self, count: int) -> None:
        """In the middle of the first ``count`` cases, those to train on first."""
        data = nnUNetDatasetBlosc2(str(self.folder))
        for case in self.cases[:count]:
            image, seg, _, properties = data.load_case(case)
            image = np.array(image[:])
            image[..., 12:20] = np.nan  # every patch of 24 voxels meets it
            seg = np.array(seg[:])
            for file in self.folder.glob(f"{case}*"):
                file.unlink()
            data.save_case(image, seg, properties, str(self.folder / case), image.shape, seg.shape)


@pytest.fixture
def poison(world, tmp_path) -> Iterator[Poison]:
    """Images are as they were after the test."""
    folder = world["nnUNet_preprocessed"] / "Dataset701_One" / "nnUNetPlans_3d_fullres"
    shutil.copytree(folder, tmp_path / "clean")
    yield Poison(folder)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "clean", folder, copy_function=shutil.copy)  # newer than the ranges measured of NaN


@pytest.mark.parametrize("kind", KINDS)
def test_steps_with_nan_are_skipped_and_counted(begun, poison, kind):
    poison.put(1)
    final, log = begun[kind].finish(), begun[kind].log()
    if kind == "pretraining":
        assert begun[kind].output().count(f"WARNING: {poison.cases[0]}: holds NaN") == 1
    assert " of 24 steps skipped: loss or gradient was NaN or infinite" in log
    assert np.isfinite(final["logging"]["train_losses"]).all()
    assert all(torch.isfinite(value).all() for value in final["network_weights"].values())
    count = log.split(" of 24 steps skipped")[0].split()[-1]
    print(f"\n{kind}: NaN in one of five images, {count} of 24 steps skipped, weights finite")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_nan_stops_with_the_last_good_checkpoint(begun, poison, kind):
    run = begun[kind]
    before = (run.folder() / LATEST).read_bytes()
    poison.put(5)
    output = run.fail()
    assert "steps in a row had a NaN or infinite loss or gradient" in output
    assert f"{run.folder() / LATEST} is the last good checkpoint. Look for NaN in the images and go on" in output
    assert "with --c, or try a lower" in output
    assert "Traceback" not in output
    assert (run.folder() / LATEST).read_bytes() == before
    print(f"\n{kind}: NaN in all images stops the run, the last good checkpoint is as it was")


def test_an_absurd_learning_rate_saves_nothing(world, tmp_path):
    run = runs(world | {"nnUNet_results": tmp_path}, *LENGTH)["pretraining"]
    run.options["peak_lr"] = 1e6
    output = run.fail()
    assert "The training has diverged" in output
    assert "try a lower --lr, a longer --warmup or --precision fp32 in a new run" in output
    assert "Traceback" not in output
    assert run.checkpoint("latest")["current_epoch"] == 0
    assert not (run.folder() / "checkpoint_final.pth").exists()
    print("\npretraining: --lr 1e6 diverges and stops; what is kept is the start")


@pytest.mark.soak
def test_a_collapse_is_said(world, tmp_path):
    run = runs(world | {"nnUNet_results": tmp_path}, 2, 300)["pretraining"]
    run.options["peak_lr"] = 1e-12
    assert run.finish()["logging"]["r2"][-1] < COLLAPSED_R2
    assert "WARNING: the network restores no better than a constant image" in run.log()
    print("\npretraining: a network that learns nothing is called collapsed")
