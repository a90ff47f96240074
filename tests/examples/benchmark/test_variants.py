"""Other ways to pretrain, for the ablation: what they corrupt, what they restore, and that fine-tuning takes them."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_genesis import checkpoint
from nnunet_genesis.cli import trainers_folder
from pretraining.masking import nnUNetTrainerMasking
from pretraining.options import RestorationOptions
from pretraining.restoration import CORRUPTIONS
from pretraining.run import pretrain
from tests.integration.tiny_world import LABELLED, prepare_labelled

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "benchmark"))
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "benchmark" / "trainers"))
import genesis_variants
import optimiser_study
from protocol import named
from protocol_options import ARMS, VARIANTS

TRAINERS = Path(genesis_variants.__file__).parent
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """Five preprocessed cases; and the trainers of both folders, as the protocol has them."""
    prepare_labelled(nnunet_folders["nnUNet_raw"], nnunet_folders["nnUNet_preprocessed"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", os.pathsep.join(map(str, (trainers_folder(), TRAINERS))))
        yield nnunet_folders


@pytest.mark.parametrize("variant", ["shuffling", "zscored"])  # one of those with other chances, and the other target
def test_a_variant_trains(world, variant):
    trainer = make_trainer(world, variant)
    trainer.run_training()
    final = Path(trainer.output_folder) / "checkpoint_final.pth"
    assert final.parents[1].name == f"{named('nnUNetTrainerRestoration', variant)}__nnUNetPlans__3d_fullres"
    assert checkpoint.load_weights(final).record.options["iterations"] == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_a_trainer_of_its_own_and_fine_tuning_too(world, variant):
    corrupt = make_trainer(world, variant).corruption()
    if variant in CORRUPTIONS:
        draws = [corrupt.get_parameters(image=torch.zeros(1, 8, 8, 8))["corruptions"] for _ in range(20)]
        assert {name for draw in draws for name, _ in draw} == {variant}
    for arm in ("genesis", "full"):
        found = recursive_find_trainer_class_by_name(named(ARMS[arm], variant))
        assert found.__name__ == named(ARMS[arm], variant)
        assert found.__init__ is recursive_find_trainer_class_by_name(ARMS[arm]).__init__


def test_pretrain_finds_a_variant_by_its_name(world):
    trainer = named("nnUNetTrainerRestoration", "masking")
    final = pretrain("702", "3d_fullres", device=CPU, trainer=trainer, epochs=1, iterations=2, precision="fp32")
    assert final.parents[1].name == f"{trainer}__nnUNetPlans__3d_fullres"


def test_the_masking_variant_is_the_first_class_one_and_z_scores_restore_normalised_intensities(world):
    assert isinstance(make_trainer(world, "masking"), nnUNetTrainerMasking)
    trainer = make_trainer(world, "zscored")
    trainer.initialize()
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    restored, target = trainer._restore(next(trainer.dataloader_train))
    assert target.std() > 0.5
    assert restored.min() < 0


def make_trainer(world, variant):
    base = world["nnUNet_preprocessed"] / LABELLED
    plans, description = (json.loads((base / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset"))
    kind = getattr(genesis_variants, named("nnUNetTrainerRestoration", variant))
    trainer = kind(plans | {"continue_training": False}, "3d_fullres", 1, description, CPU)
    trainer.use(RestorationOptions(epochs=1, iterations=2, precision="fp32"))
    return trainer


@pytest.mark.parametrize("variant", ["SGD 0.01, momentum 0.99 (nnU-Net)", "AdamW 1e-3"])
def test_the_study_of_optimisers_trains(world, tmp_path, monkeypatch, variant):
    options = ["--patch", "16", "16", "16", "--features", "2", "--epochs", "1", "--iterations", "1", "--variants"]
    monkeypatch.setattr(sys, "argv", ["study", "702", *options, variant, "-o", str(tmp_path / "study.csv")])
    optimiser_study.main()
    assert variant in (tmp_path / "study.csv").read_text()
