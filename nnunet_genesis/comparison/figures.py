"""The report's figures, as PNG files."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnunet_genesis.comparison.results import KEYS, MEAN

COLOURS = ("#555555", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e")


def short(trainer: str) -> str:
    """A trainer's name without what all share; never with an underscore first, which matplotlib's legends leave out."""
    name = trainer.removeprefix("nnUNetTrainer").lstrip("_") or trainer
    rest = name.removeprefix("Genesis")
    return rest if rest[:1].isalnum() else name


def to_png(figure: Figure) -> bytes:
    """The bytes of a PNG file, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def label_efficiency(rows: pd.DataFrame) -> bytes | None:
    """Mean Dice of the classes over training images, one line a trainer; ``None`` with fewer than two sizes."""
    rows = rows[(rows["label"] == MEAN) & (rows["metric"] == "Dice") & (rows["train"] > 0)]
    groups = [(key, part) for key, part in rows.groupby(KEYS[:2], sort=False) if part["train"].nunique() > 1]
    if not groups:
        return None
    figure = Figure(figsize=(6.5 * len(groups), 4.2), layout="constrained")
    for axes, (key, part) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for colour, (trainer, line) in zip(_colours(), part.groupby("trainer", sort=False), strict=False):
            errors = np.abs(line[["low", "high"]].to_numpy().T - line["mean"].to_numpy())
            axes.errorbar(
                line["train"], line["mean"], errors, color=colour, marker="o", capsize=3, label=_plain(short(trainer))
            )
        axes.set_xscale("log", base=2)
        ticks = sorted(part["train"].unique())
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(xlabel="labelled training images", ylabel="Dice (mean of classes)", title=_plain(", ".join(key)))
        axes.legend()
    return to_png(figure)


def training_curves(curves: pd.DataFrame, order: Sequence[str]) -> bytes | None:
    """Smoothed pseudo-Dice over iterations, the mean of the folds that have the epoch; one panel a size."""
    if curves.empty:
        return None
    groups = list(curves.sort_values("train", kind="stable").groupby(KEYS, sort=False))
    columns = min(3, len(groups))
    figure = Figure(figsize=(4.5 * columns, 3.4 * -(-len(groups) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(groups) // columns), columns, squeeze=False, sharey=True).ravel()
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    for axes, (key, part) in zip(panels, groups, strict=False):
        for colour, trainer in zip(_colours(), order, strict=False):
            runs = part[part["trainer"] == trainer].pivot_table(
                index="iteration", columns=["fold", "seed"], values="pseudo_dice"
            )
            if runs.empty:
                continue
            axes.plot(runs.index, runs, color=colour, alpha=0.2, linewidth=0.8)
            axes.plot(runs.index, runs.mean(axis=1), color=colour, label=_plain(short(trainer)))
            if trainer == order[0]:
                axes.axhline(runs.mean(axis=1).iloc[-1], color=colour, linestyle=":", linewidth=0.8)
        axes.set(
            xlabel="training iterations", ylabel="pseudo-Dice (smoothed)", title=_plain(f"{key[2]} cases ({key[0]})")
        )
        axes.legend()
    return to_png(figure)


def overlays(rows: Sequence[tuple[str, np.ndarray, list[tuple[str, np.ndarray]]]]) -> bytes:
    """Slices with the outlines of segmentations.

    Args:
        rows: title, image (y, x), and segmentations (name, labels (y, x)).
    """
    columns = max(len(segmentations) for _, _, segmentations in rows)
    figure = Figure(figsize=(3.4 * columns, 3.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for line, (title, image, segmentations) in zip(panels, rows, strict=True):
        low, high = np.percentile(image, (1, 99))
        for axes, (name, labels) in zip(line, segmentations, strict=False):  # a run may be missing
            axes.imshow(image, cmap="gray", vmin=low, vmax=high)
            for label in np.unique(labels[labels > 0]):
                colour = COLOURS[1 + int(label) % (len(COLOURS) - 1)]
                axes.contour(labels == label, [0.5], colors=[colour], linewidths=1.2)
            axes.set_title(name if axes is not line[0] else f"{title}\n{name}", fontsize=9, parse_math=False)
    return to_png(figure)


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: formulas between dollars that aren't any would stop it."""
    return text.replace("$", r"\$")


def _colours() -> list[str]:
    return list(COLOURS) * 4
