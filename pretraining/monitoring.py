"""How well restoration goes: R², PSNR, SSIM, collapse; a progress plot and panels that a person can judge."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from skimage.metrics import structural_similarity

from nnunet_genesis.checkpoint.record import COLLAPSED_R2
from nnunet_genesis.training.plotting import progress_figure

COLLAPSE_ADVICE = (
    "WARNING: the network restores no better than a constant image (R² = {r2:.3f} < 0.02 late in training): it has "
    "collapsed. Start again with another --seed, a longer --warmup or a lower --lr, and check that the patches in "
    "restoration_epoch*.png show anatomy. Where train_loss falls while val_loss rises, take more scans."
)


def batch_sums(restored: torch.Tensor, target: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """Take means over a batch of squared error, target and its square, and the share of voxels they count, as (4,).

    Voxels that aren't ``counted``, bool (B, 1, Z, Y, X), count as 0; ``None``: all do.
    """
    count = torch.ones_like(target) if counted is None else counted.expand_as(target).to(target.dtype)
    return torch.stack([(count * value).mean() for value in ((restored - target).square(), target, target.square(), 1)])


def means(sums: np.ndarray) -> np.ndarray:
    """Compute the means over counted voxels, NaN where there are none: squared error, target and its square."""
    *totals, share = np.asarray(sums, dtype=np.float64).mean(0)
    return np.array(totals) / (share or np.nan)


def r_squared(sums: np.ndarray) -> float:
    """Compute R² = 1 − MSE / Var(target), pooled over batches; 0 is what the best constant image reaches.

    ``sums`` are (batches, 4), as :func:`batch_sums` gives them; NaN where nothing was counted.
    """
    mse, mean, square = means(sums)
    return float(1 - mse / max(square - mean**2, 1e-12))


def psnr(mse: float) -> float:
    """Compute the peak signal-to-noise ratio in dB of images in [0, 1]: −10·log10(MSE)."""
    return -10 * math.log10(max(mse, 1e-12))


def middle_slices(volume: np.ndarray) -> list[np.ndarray]:
    """Take the three orthogonal slices through the middle of (Z, Y, X)."""
    return [np.take(volume, length // 2, axis=axis) for axis, length in enumerate(volume.shape)]


def ssim(restored: np.ndarray, target: np.ndarray) -> float:
    """Compute the mean structural similarity of the middle slices of two (Z, Y, X) volumes in [0, 1].

    Wang et al., IEEE TIP 13 (2004); scikit-image's, with a window of 7 or what a thin patch allows. Slices, since
    the whole volume takes longer than the training step.
    """
    values = []
    for ours, clean in zip(middle_slices(restored), middle_slices(target), strict=True):
        window = (min(7, *clean.shape) - 1) // 2 * 2 + 1  # odd
        values.append(structural_similarity(ours, clean, win_size=window, data_range=1.0))
    return float(np.mean(values))


def is_collapsed(r2: float, steps: int, all_steps: int) -> bool:
    """Say whether R² after ``steps`` of ``all_steps`` is a constant image's, in the second half of the training.

    Nothing can be said of the first 500 steps.
    """
    return steps > max(500, all_steps / 2) and not r2 >= COLLAPSED_R2  # NaN counts


def plot_progress(log: Mapping[str, Sequence[float]], file: Path) -> None:
    """Plot loss, R² and learning rate over epochs, as PNG.

    ``log`` has the logger's lists: ``train_losses``, ``val_losses``, ``lrs``, ``r2``, ``r2_hidden``, ``r2_CORRUPTION``.
    """
    alone = {name.removeprefix("r2_"): values for name, values in log.items() if name.startswith("r2_")}
    rows = {
        "mean squared error": {"training": log["train_losses"], "validation": log["val_losses"]},
        "R² (validation)": {"of what the loss counts": log["r2"]} | alone,
        "learning rate": {"": log["lrs"]},
    }
    figure, (loss, r2, _) = progress_figure(rows)
    loss.set(yscale="log")
    r2.lines[0].set_linewidth(3)
    r2.axhline(0, color="grey", linestyle=":", label="constant image")
    r2.set(ylim=(min(-0.1, *log["r2"]), 1))
    r2.legend(loc="lower right")  # "best" warns where it takes a second
    figure.savefig(file, dpi=80)


def plot_panel(clean: np.ndarray, corrupted: np.ndarray, restored: np.ndarray, file: Path, title: str) -> None:
    """Show three (Z, Y, X) volumes in [0, 1] as rows of a PNG, three orthogonal middle slices each as columns."""
    figure = Figure(figsize=(9, 9.5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(3, 3)
    for row, (label, volume) in enumerate({"clean": clean, "corrupted": corrupted, "restored": restored}.items()):
        for column, image in enumerate(middle_slices(volume)):
            axes[row, column].imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(label, fontsize=14)
    figure.savefig(file, dpi=80)
