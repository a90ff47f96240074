"""The report's figures, as PNG files: Dice over training images, training curves, cases with their outlines."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunet_genesis.comparison.nsd import find_reference
from nnunet_genesis.comparison.results import KEYS, MEAN
from nnunet_genesis.comparison.runs import Run

COLOURS = ("#555555", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e")


def short(trainer: str) -> str:
    """Shorten a trainer's name by what all share; matplotlib's legends leave out what begins with an underscore."""
    name = trainer.removeprefix("nnUNetTrainer").lstrip("_") or trainer
    rest = name.removeprefix("Genesis")
    return rest if rest[:1].isalnum() else name


def to_png(figure: Figure) -> bytes:
    """Give the bytes of a PNG file, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def label_efficiency(rows: pd.DataFrame) -> bytes | None:
    """Draw mean Dice of the classes over training images, one line a trainer; ``None`` with fewer than two sizes."""
    rows = rows[(rows["label"] == MEAN) & (rows["metric"] == "Dice") & (rows["train"] > 0)]
    groups = [(key, part) for key, part in rows.groupby(KEYS[:2], sort=False) if part["train"].nunique() > 1]
    if not groups:
        return None
    figure = Figure(figsize=(6.5 * len(groups), 4.2), layout="constrained")
    for axes, (key, part) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for colour, (trainer, line) in zip(COLOURS * 4, part.groupby("trainer", sort=False), strict=False):
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
    """Draw smoothed pseudo-Dice over iterations, the mean of the folds that have the epoch; one panel a size."""
    if curves.empty:
        return None
    groups = list(curves.sort_values("train", kind="stable").groupby(KEYS, sort=False))
    columns = min(3, len(groups))
    figure = Figure(figsize=(4.5 * columns, 3.4 * -(-len(groups) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(groups) // columns), columns, squeeze=False, sharey=True).ravel()
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    for axes, (key, part) in zip(panels, groups, strict=False):
        for colour, trainer in zip(COLOURS * 4, order, strict=False):
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


def overlays(
    runs: Sequence[Run], measured: pd.DataFrame, baseline: str, images: Path, references: Sequence[Path]
) -> tuple[bytes, str] | None:
    """Draw the best, the median and the worst case with the outlines of reference and predictions.

    The cases are chosen by the Dice (mean of classes) of the first trainer besides the baseline, at its largest
    training set; the slice is the one with most of the reference.

    Returns:
        A figure and what it shows; ``None`` where images or predictions are missing.
    """
    folders = {run.name: run for run in runs}
    shown = measured[(measured["label"] == MEAN) & (measured["metric"] == "Dice") & measured["run"].isin(folders)]
    if shown.empty:
        return None
    others = sorted(set(shown["trainer"]) - {baseline}) or [baseline]
    chosen = shown[shown["trainer"] == others[0]]
    chosen = chosen[chosen["train"] == chosen["train"].max()].drop_duplicates("case")
    chosen = chosen.sort_values("value", kind="stable")
    columns = 1 + shown["trainer"].nunique()
    figure = Figure(figsize=(3.4 * columns, 10.2), layout="constrained")
    panels = figure.subplots(3, columns, squeeze=False)
    for line, name, position in zip(panels, ("best", "median", "worst"), (-1, len(chosen) // 2, 0), strict=True):
        row, same = chosen.iloc[position], [*KEYS, "fold", "seed", "case"]
        alike = shown[(shown[same] == row[same]).all(axis=1)].set_index("trainer")["run"].map(folders)
        order = sorted(set(alike.index), key=lambda trainer: (trainer != baseline, trainer))
        slices = _slices(alike[order], row["case"], images, references)
        if slices is None:
            return None
        _outline(line, f"{name}: {row['case']}, Dice {row['value']:.3f}", *slices)
    return to_png(figure), f"by the Dice of {short(others[0])} with {chosen['cases'].iloc[0]} training cases"


def _slices(
    runs: pd.Series, case: str, images: Path, references: Sequence[Path]
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]] | None:
    """Read the first channel and all segmentations in one slice; ``runs`` by trainer."""
    description = runs.iloc[0].dataset_json
    ending = description["file_ending"]
    recorded = {name: file for name, file, _ in runs.iloc[0].metrics()}[case]
    reference, image = find_reference(case + ending, recorded, references), images / f"{case}_0000{ending}"
    predictions = [run.validation / (case + ending) for run in runs]
    if reference is None or not all(file.is_file() for file in (image, *predictions)):
        return None
    reader = determine_reader_writer_from_dataset_json(description, str(reference), verbose=False)()
    volumes = [reader.read_seg(str(file))[0][0] for file in (reference, *predictions)]
    at = int((volumes[0] > 0).sum((1, 2)).argmax())
    names = ["reference", *map(short, runs.index)]
    pixels = reader.read_images([str(image)])[0][0, at]
    return pixels, [(name, volume[at]) for name, volume in zip(names, volumes, strict=True)]


def _outline(
    panels: Sequence[Axes], title: str, image: np.ndarray, segmentations: list[tuple[str, np.ndarray]]
) -> None:
    """Draw a slice (y, x) with the outlines of each segmentation (name, labels (y, x)) in a panel of its own."""
    low, high = np.percentile(image, (1, 99))
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, labels) in zip(panels, segmentations, strict=False):  # a run may be missing
        axes.imshow(image, cmap="gray", vmin=low, vmax=high)
        for label in np.unique(labels[labels > 0]):
            axes.contour(labels == label, [0.5], colors=[COLOURS[1 + int(label) % 5]], linewidths=1.2)
        axes.set_title(name if axes is not panels[0] else f"{title}\n{name}", fontsize=9, parse_math=False)


def _plain(text: str) -> str:
    """Escape dollars: what stands between two would stop matplotlib where it is no formula."""
    return text.replace("$", r"\$")
