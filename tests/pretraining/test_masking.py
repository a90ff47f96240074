"""Masked autoencoding: which voxels are hidden and counted, options, a whole run; and the how-to page's trainer."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json
from nnunet_genesis.inspection import inspect_weights
from pretraining.masking import CITATION, BlockMasking, nnUNetTrainerMasking
from pretraining.options import RestorationOptions
from pretraining.restoration import RestorationTransform
from pretraining.run import find_trainer, pretrain
from pretraining.trainer import nnUNetTrainerRestoration
from tests.integration.tiny_world import prepare_scans

CPU, PAGE = torch.device("cpu"), Path(__file__).parents[2] / "docs" / "objectives.md"
MASKS = {"trainer": "nnUNetTrainerMasking", "precision": "fp32", "device": CPU}


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    prepare_scans(nnunet_folders["nnUNet_preprocessed"], nnunet_folders["nnUNet_results"].parent / "scans")
    return nnunet_folders


@pytest.mark.parametrize(("ratio", "number"), [(0.75, 48), (0.5, 32), (0.001, 1), (0.999, 63)])
def test_the_share_of_blocks_is_hidden_behind_the_mean_of_the_visible(ratio, number):
    image = torch.rand(2, 16, 24, 8)
    pair = BlockMasking(ratio, (4, 6, 2), seed=0)(image=image.clone())
    hidden = pair["hidden"]
    blocks = hidden[0].reshape(4, 4, 4, 6, 4, 2).float().mean((1, 3, 5))
    assert blocks.sum() == number
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    for channel in range(2):
        visible = pair["target"][channel][~hidden[0]]
        torch.testing.assert_close(pair["image"][channel][~hidden[0]], visible)
        assert pair["image"][channel][hidden[0]].unique().item() == pytest.approx(visible.mean().item())
    assert pair["target"].sum() == pytest.approx(image.sum())


def test_blocks_at_the_end_may_be_cut_and_masks_differ():
    masking = BlockMasking(0.5, (16, 5, 16), seed=1)
    hidden = torch.stack([masking(image=torch.rand(1, 10, 13, 9))["hidden"] for _ in range(50)])
    assert hidden.float().mean().item() == pytest.approx(2 / 3, abs=0.05)  # two of three slabs
    assert set(hidden.float().mean((1, 2, 4)).unique().tolist()) == {0.0, 1.0}


def test_restoration_hides_what_it_paints():
    transform = RestorationTransform(seed=0, p_shuffling=0, p_intensity=0, p_flip=0)
    for _ in range(20):
        pair = transform(image=torch.rand(1, 12, 14, 16))
        assert torch.equal(pair["hidden"], pair["image"] != pair["target"])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (nnUNetTrainerRestoration, {"mask_ratio": 0.5}, "--mask_ratio: nnUNetTrainerRestoration masks nothing"),
        (nnUNetTrainerMasking, {"mask_ratio": 1.0}, "--mask_ratio 1.0: expected a number between 0 and 1"),
        (nnUNetTrainerMasking, {"mask_ratio": 0.0}, "--mask_ratio 0.0: expected a number between 0 and 1"),
        (nnUNetTrainerMasking, {"mask_block": [4, 4]}, r"--mask_block \[4, 4\]: expected one or three"),
        (
            nnUNetTrainerMasking,
            {"mask_block": [16, 32, 24]},
            "--mask_block 16 32 24: the patch, 16 24 24, is one block",
        ),
    ],
)
def test_masks_that_do_not_work(kind, options, message):
    with pytest.raises(GenesisError, match=message):
        kind.check(RestorationOptions(**options), (16, 24, 24))


def test_a_run_counts_hidden_voxels_and_goes_on_with_its_masks(world):
    final = pretrain("701", "3d_fullres", epochs=2, iterations=4, mask_ratio=0.6, **MASKS)
    content = torch.load(final, weights_only=True)
    log, record = content["logging"], content["genesis"]
    assert log["r2"] == log["r2_hidden"]
    assert np.isfinite(log["r2"]).all()
    assert not [name for name in log if name == "r2_shuffling"]
    assert record["method"] == "masked autoencoding (blocks)"
    assert record["citations"][0] == CITATION
    assert record["corruption"] == {"p_masked": 0.6}
    assert record["options"]["mask_block"] == [4, 6, 6]  # patch 16×24×24
    assert record["training"]["r2_hidden"] == log["r2"][-1]
    assert "masked autoencoding" in inspect_weights(final, None, "", "")[0]
    assert (final.parent / "restoration_epoch0000.png").is_file()
    with pytest.raises(GenesisError, match=r"--mask_ratio 0.5: the run was started with 0.6"):
        pretrain("701", "3d_fullres", continue_training=True, mask_ratio=0.5, **MASKS)
    pretrain("701", "3d_fullres", continue_training=True, epochs=3, mask_block=[4, 6, 6], **MASKS)
    log = torch.load(final, weights_only=True)["logging"]
    assert len(log["r2_hidden"]) == 3


def test_loss_and_pictures_count_hidden_voxels(world):
    base = world["nnUNet_preprocessed"] / "Dataset701_One"
    plans = read_json(base / "nnUNetPlans.json") | {"continue_training": False}
    trainer = nnUNetTrainerMasking(plans, "3d_fullres", 0, read_json(base / "dataset.json"), CPU)
    target, hidden = torch.rand(2, 1, 4, 4, 4), torch.rand(2, 1, 4, 4, 4) < 0.5
    restored = torch.where(hidden, target + 0.5, 7.0)
    assert trainer._loss(restored, target, hidden) == pytest.approx(0.25)
    torch.testing.assert_close(trainer._shown(restored, target, hidden), target + 0.5 * hidden)


def test_the_how_to_pages_trainer(world, tmp_path, monkeypatch):
    """Found beside another package's folder, whose file of the same name and other trainers are left alone."""
    ours, other = tmp_path / "my trainers", tmp_path / "other"
    for folder in (ours, other):
        folder.mkdir()
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (ours / "blur.py").write_text(code)
    (other / "blur.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerOfOthers(nnUNetTrainer):\n    pass\n"
    )
    folders = [str(other), str(trainers_folder()), "", str(tmp_path / "not there"), str(ours)]
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(folders))
    final = pretrain("701", "3d_fullres", device=CPU, trainer="nnUNetTrainerDeblurring", epochs=2, iterations=4)
    content = torch.load(final, weights_only=True)
    assert content["trainer_name"] == "nnUNetTrainerDeblurring"
    assert content["genesis"]["method"] == "deblurring"
    assert np.isfinite(content["logging"]["r2_hidden"]).all()
    for name in ("nnUNetTrainerOfOthers", "nnUNetTrainerGenesisFull", "nnUNetTrainer_5epochs"):
        assert recursive_find_trainer_class_by_name(name).__name__ == name
    with pytest.raises(GenesisError, match=r"-tr nnUNetTrainerOfOthers: expected a subclass"):
        find_trainer("nnUNetTrainerOfOthers")
    shutil.copy(ours / "blur.py", ours / "broken.py")
    (ours / "broken.py").write_text("import not_there_at_all\n")
    with pytest.raises(GenesisError, match=r"broken.py, line 1, which .* can't be imported: ModuleNotFoundError"):
        find_trainer("nnUNetTrainerNowhere")
    assert find_trainer("nnUNetTrainerMasking") is nnUNetTrainerMasking  # ours are found without a search
