"""Other ways to pretrain, for the ablation: what they corrupt, what they restore, and that fine-tuning takes them."""

import json
import sys
from pathlib import Path

import pytest
import torch

import pretraining.run
from nnunet_genesis import checkpoint
from pretraining.options import RestorationOptions
from tests.integration.tiny_world import make_raw_dataset, plan_and_preprocess

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
from variants import CUBES, VARIANTS, Masking, pretraining_command

NAME, CPU = "Dataset812_Variants", torch.device("cpu")


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    """Five preprocessed cases."""
    make_raw_dataset(nnunet_folders["nnUNet_raw"], NAME, {"background": 0, "outer": 1, "inner": 2})
    plan_and_preprocess(nnunet_folders["nnUNet_preprocessed"], 812)
    return nnunet_folders


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_variant_trains_and_fine_tuning_takes_its_weights(world, monkeypatch, variant):
    monkeypatch.setattr(pretraining.run, "nnUNetTrainerRestoration", VARIANTS[variant])
    final = pretraining.run.pretrain("812", "3d_fullres", device=CPU, epochs=1, iterations=2, precision="fp32")
    assert final.parents[1].name.startswith(pretraining_command(variant)[0])
    weights = checkpoint.load_weights(final)
    assert weights.metadata["options"]["iterations"] == 2


def test_masking_hides_three_quarters_of_the_cubes_behind_the_mean():
    image = torch.rand(1, 24, 36, 18)
    pair = Masking(seed=0)(image=image)
    hidden = pair["image"] != pair["target"]
    assert hidden.float().mean() == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(pair["image"][hidden], image.mean().expand(int(hidden.sum())))
    cubes = hidden[0].reshape(CUBES, 4, CUBES, 6, CUBES, 3).float().mean((1, 3, 5))
    assert set(cubes.unique().tolist()) == {0.0, 1.0}


def test_masking_counts_masked_voxels_only_and_z_scores_restore_normalised_intensities(world):
    for variant in ("masking", "zscored"):
        trainer = _trainer(world, variant)
        batch = next(trainer.dataloader_train)
        restored, target = trainer._restore(batch)
        if variant == "masking":
            clean = batch["data"] == batch["target"] * _width(trainer, batch) + _lowest(trainer, batch)
            assert 0.2 < clean.float().mean() < 0.3
            assert torch.equal(restored[clean], target[clean])
        else:
            assert target.std() > 0.5
            assert restored.min() < 0


def _trainer(world, variant):
    base = world["nnUNet_preprocessed"] / NAME
    plans, description = (json.loads((base / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset"))
    trainer = VARIANTS[variant](plans | {"continue_training": False}, "3d_fullres", 1, description, CPU)
    trainer.use(RestorationOptions(epochs=1, iterations=2, precision="fp32"))
    trainer.initialize()
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    trainer.network.train()
    return trainer


def _lowest(trainer, batch):
    return torch.tensor([trainer.ranges[case][0][0] for case in batch["keys"]]).reshape(-1, 1, 1, 1, 1)


def _width(trainer, batch):
    highest = torch.tensor([trainer.ranges[case][0][1] for case in batch["keys"]]).reshape(-1, 1, 1, 1, 1)
    return highest - _lowest(trainer, batch)
