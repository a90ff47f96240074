"""Measures of restoration against known values; plots are files that a person can open."""

import math

import numpy as np
import pytest
import torch

from pretraining.monitoring import (
    COLLAPSE_ADVICE,
    batch_sums,
    is_collapsed,
    middle_slices,
    plot_panel,
    plot_progress,
    psnr,
    r_squared,
    ssim,
)
from pretraining.restoration import CORRUPTIONS


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def r2_of(restored: torch.Tensor, target: torch.Tensor) -> float:
    return r_squared(torch.stack([batch_sums(a, b) for a, b in zip(restored, target, strict=True)]).numpy())


def test_r2_of_the_best_constant_is_0():
    target = noise(4, 2, 1, 8, 8, 8)
    assert r2_of(torch.full_like(target, float(target.mean())), target) == pytest.approx(0, abs=1e-4)


def test_r2_of_a_worse_constant_is_negative():
    target = noise(4, 2, 1, 8, 8, 8)
    assert r2_of(torch.zeros_like(target), target) < -2


def test_r2_of_perfect_restoration_is_1():
    target = noise(4, 2, 1, 8, 8, 8)
    assert r2_of(target.clone(), target) == 1


def test_r2_is_pooled_over_batches():
    target = torch.cat([torch.zeros(1, 8), torch.ones(1, 8)])  # no variance within a batch
    assert r2_of(target.clone(), target) == 1
    assert r2_of(torch.full_like(target, 0.5), target) == pytest.approx(0)
    assert r2_of((target + 0.5) / 2, target) == pytest.approx(0.75)


def test_r2_of_constant_targets_is_finite():
    assert math.isfinite(r2_of(torch.zeros(2, 8), torch.ones(2, 8)))


def test_batch_sums():
    assert batch_sums(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])).tolist() == [0.25, 0.5, 0.5, 1.0]


def test_r2_of_hidden_voxels_leaves_the_others_out():
    target, hidden = noise(3, 2, 2, 8, 8, 8), noise(3, 2, 1, 8, 8, 8, seed=1) < 0.3
    half = (target + target[hidden.expand_as(target)].mean()) / 2
    restored = torch.where(hidden, half, -torch.ones(()))
    sums = torch.stack([batch_sums(*batch) for batch in zip(restored, target, hidden, strict=True)]).numpy()
    assert r_squared(sums) == pytest.approx(0.75, abs=1e-4)
    assert math.isnan(r_squared(batch_sums(target, target, torch.zeros(2, 1, 8, 8, 8) > 0)[None].numpy()))


@pytest.mark.parametrize(("mse", "decibel"), [(1, 0), (0.1, 10), (1e-4, 40), (0.25, 6.0206), (0, 120)])
def test_psnr(mse, decibel):
    assert psnr(mse) == pytest.approx(decibel, abs=1e-4)


def test_ssim_of_equal_volumes_is_1():
    volume = noise(12, 14, 16).numpy()
    assert ssim(volume, volume.copy()) == pytest.approx(1)


def test_ssim_falls_with_noise():
    volume = noise(16, 16, 16).numpy()
    slightly, strongly = (volume + amount * noise(16, 16, 16, seed=1).numpy() for amount in (0.1, 1.0))
    assert 0 < ssim(strongly, volume) < ssim(slightly, volume) < 1


@pytest.mark.parametrize("shape", [(4, 32, 32), (5, 6, 32), (4, 4, 4), (32, 32, 7)])
def test_ssim_of_thin_patches(shape):
    volume = noise(*shape).numpy()
    assert ssim(volume, volume.copy()) == pytest.approx(1)
    assert ssim(1 - volume, volume) < 0.5


def test_middle_slices_are_the_three_planes():
    volume = np.arange(4 * 6 * 8).reshape(4, 6, 8)
    first, second, third = middle_slices(volume)
    np.testing.assert_array_equal(first, volume[2])
    np.testing.assert_array_equal(second, volume[:, 3])
    np.testing.assert_array_equal(third, volume[:, :, 4])


@pytest.mark.parametrize(
    ("r2", "steps", "all_steps", "collapsed"),
    [
        (0.01, 2000, 2000, True),
        (-0.5, 1001, 2000, True),
        (0.0, 501, 600, True),
        (0.02, 2000, 2000, False),
        (0.9, 2000, 2000, False),
        (0.0, 1000, 2000, False),  # the first half
        (0.0, 500, 500, False),  # nothing can be said of the first 500 steps
    ],
)
def test_collapse(r2, steps, all_steps, collapsed):
    assert is_collapsed(r2, steps, all_steps) is collapsed


def test_collapse_advice_names_remedies():
    text = COLLAPSE_ADVICE.format(r2=0.0123)
    assert "R² = 0.012 < 0.02" in text
    assert all(flag in text for flag in ("--seed", "--warmup", "--lr"))


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("r2", [0.9, -40.0])
def test_progress_plot_is_a_png(tmp_path, epochs, r2):
    names = ("train_losses", "val_losses", "lrs", "r2", *(f"r2_{name}" for name in CORRUPTIONS))
    plot_progress({name: [r2 if "r2" in name else 0.1] * epochs for name in names}, tmp_path / "progress.png")
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize("shape", [(16, 16, 16), (4, 20, 30)])
def test_panel_is_a_png(tmp_path, shape):
    volumes = [noise(*shape, seed=seed).numpy() for seed in range(3)]
    plot_panel(*volumes, tmp_path / "panel.png", "case_1, epoch 0")
    assert (tmp_path / "panel.png").read_bytes().startswith(b"\x89PNG\r\n")
