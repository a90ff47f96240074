"""The report's figures, as SVG files that are legible on light and dark pages."""

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_genesis.comparison.results import KEYS, MEAN, RUN
from nnunet_genesis.comparison.statistics import LEVEL
from nnunet_genesis.errors import printable

# Each has a contrast of at least 3 to the page, light and dark (WCAG 2.2, 1.4.11); arms differ in markers, too.
COLOURS = ("#808080", "#d95f02", "#1b9e77", "#8a7fd0", "#e7298a", "#6b8e23")
MARKERS = "osD^vP"
# What is black becomes the page's colour of text.
THEME = "<style>svg{color:#222}text{fill:currentColor}@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"
SAVED: Any = {"svg.fonttype": "none", "svg.hashsalt": "nnunet-genesis", "savefig.transparent": True}


@dataclasses.dataclass
class Picture:
    """A figure of the page: ``name`` of its file, ``caption``, ``alt``, what is to be seen in it, and the SVG file."""

    name: str
    caption: str
    alt: str
    svg: bytes


def short(trainer: str) -> str:
    """Shorten a trainer's name by what all share; matplotlib's legends leave out what begins with an underscore."""
    name = trainer.removeprefix("nnUNetTrainer").lstrip("_") or trainer
    rest = name.removeprefix("Genesis")
    return rest if rest[:1].isalnum() else name


def look(order: Sequence[str], trainer: str) -> tuple[str, str]:
    """Give a trainer's colour and marker, by its place in the order."""
    number = list(order).index(trainer) % len(COLOURS)
    return COLOURS[number], MARKERS[number]


def panel(height: float = 3.4) -> Axes:
    """Make the axes of a figure, as high as said, in inches."""
    return Figure(figsize=(4.8, height), layout="constrained").subplots()


def picture(name: str, caption: str, alt: str, axes: Axes, legend: bool = True) -> Picture:
    """Make the picture of a panel: the same SVG for the same panel, with coordinates of hundredths of a point."""
    if legend:
        axes.legend(frameon=False, fontsize="small", loc="lower right")
    figure, buffer = cast(Figure, axes.figure), io.StringIO()
    with matplotlib.rc_context(SAVED):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", buffer.getvalue()).replace("#000000", "currentColor")
    return Picture(name, caption, alt, text.replace("<defs>", THEME + "<defs>", 1).encode())


def forest(questions: pd.DataFrame, order: Sequence[str], unit: str) -> list[Picture]:
    """Draw the differences of mean Dice to the baseline in points, one line a size and trainer."""
    if questions.empty:
        return []
    axes = panel(0.9 + 0.27 * len(questions))
    axes.axvline(0, color="black", linewidth=0.8)
    several = len(questions.groupby(KEYS[:2])) > 1
    labels = []
    for line, row in enumerate(questions.to_dict("records")):
        colour, marker = look(order, row["trainer"])
        low, middle, high = (100 * row[name] for name in ("difference_low", "difference", "difference_high"))
        covered = row["difference_interval"] == "runs"
        axes.plot([low, high], [line, line], color=colour, linewidth=1.8, linestyle="-" if covered else ":")
        axes.plot(middle, line, marker, color=colour, markerfacecolor=colour if row["p_holm"] < 1 - LEVEL else "none")
        where = f"{row['cases']} {unit}" + (f", {row['plans']}, {row['configuration']}" if several else "")
        labels.append(plain(f"{short(row['trainer'])}, {where}"))
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.set(ylim=(len(labels) - 0.5, -0.5), xlabel="difference in points of Dice (0.01)")
    caption = (
        f"Difference to {short(order[0])}: points of Dice, mean of the classes, with {LEVEL:.0%} intervals. Right of "
        "the line the arm is ahead. Filled: shown after Holm's correction; dotted: too few runs to cover the chance of "
        "training."
    )
    alt = f"Forest plot of {len(questions)} differences to {short(order[0])}; the table below has the same figures."
    return [picture("forest", caption, alt, axes, legend=False)]


def label_efficiency(rows: pd.DataFrame, order: Sequence[str]) -> list[Picture]:
    """Draw mean Dice of the classes over training images, one line a trainer; plans with one size have no figure."""
    rows = rows[(rows["label"] == MEAN) & (rows["metric"] == "Dice") & (rows["train"] > 0)]
    pictures: list[Picture] = []
    for key, part in rows.groupby(KEYS[:2], sort=False):
        if part["train"].nunique() < 2:
            continue
        axes = panel()
        for number, (trainer, line) in enumerate(part.groupby("trainer", sort=False)):
            colour, marker = look(order, trainer)
            errors = np.abs(line[["low", "high"]].to_numpy().T - line["mean"].to_numpy())
            style: dict[str, Any] = {"color": colour, "marker": marker, "capsize": 3, "label": plain(short(trainer))}
            axes.errorbar(line["train"] * 1.03**number, line["mean"], errors, **style)  # bars side by side
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks := sorted(part["train"].unique()), [f"{tick:g}" for tick in ticks])
        axes.set(xlabel="labelled training images", ylabel="Dice (mean of classes)")
        caption = f"Dice over labelled training images, with {LEVEL:.0%} intervals ({', '.join(key)})"
        alt = f"{_extremes(part, 'train', 'mean')} labelled training images."
        pictures.append(picture(_numbered("label_efficiency", pictures), caption, alt, axes))
    return pictures


def training_curves(
    curves: pd.DataFrame, order: Sequence[str], phases: Mapping[str, Sequence[Any]], unit: str
) -> list[Picture]:
    """Draw smoothed pseudo-Dice over iterations, the mean of the runs that have the epoch; one picture a size.

    ``order`` has the baseline first; ``phases``, by run, the first epoch and the name of each phase of its schedule.
    """
    pictures: list[Picture] = []
    for key, part in curves.sort_values("train", kind="stable").groupby(KEYS, sort=False):
        axes = panel()
        for trainer in order:
            mine = part[part["trainer"] == trainer]
            runs = mine.pivot_table(index="iteration", columns=RUN, values="pseudo_dice")
            if runs.empty:
                continue
            colour, mean = look(order, trainer)[0], runs.mean(axis=1)
            if runs.shape[1] > 1:
                axes.plot(runs.index, runs, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(runs.index, mean, color=colour, label=plain(short(trainer)))
            if trainer == order[0]:
                axes.axhline(mean.iloc[-1], color=colour, linestyle=":", linewidth=0.8)
        _mark_phases(axes, part, phases)
        axes.set(xlabel="training iterations", ylabel="pseudo-Dice (smoothed)")
        caption = f"Training with {key[2]} {unit} ({key[0]}): smoothed pseudo-Dice; thin: runs, thick: their mean, "
        caption += f"dotted: the last of {short(order[0])}"
        alt = f"{_extremes(part, 'iteration', 'pseudo_dice')} iterations."
        pictures.append(picture(_numbered("training_curves", pictures), caption, alt, axes))
    return pictures


def _mark_phases(axes: Axes, curves: pd.DataFrame, phases: Mapping[str, Sequence[Any]]) -> None:
    """Mark where the schedules' phases begin, each once."""
    steps = curves.drop_duplicates("run").set_index("run")["iterations"]
    begun = {(start * steps[run], name) for run in steps.index for start, name in phases.get(run, [])}
    for start, name in sorted(begun):
        axes.axvline(start, color="black", linestyle="--", linewidth=0.6)
        at: dict[str, Any] = {"xy": (start, 0.98), "va": "top", "xycoords": ("data", "axes fraction"), "xytext": (2, 0)}
        axes.annotate(plain(name), **at, textcoords="offset points", rotation=90, fontsize="x-small")


def _numbered(name: str, earlier: Sequence[Picture]) -> str:
    return f"{name}_{len(earlier) + 1}" if earlier else name


def _extremes(part: pd.DataFrame, over: str, value: str) -> str:
    """Say in words where each trainer's line begins and ends."""
    words = []
    for trainer, line in part.groupby("trainer", sort=False):
        ends = line.groupby(over)[value].mean()
        words.append(f"{short(trainer)}: {ends.iloc[0]:.2f} to {ends.iloc[-1]:.2f}")
    return f"{'; '.join(words)}; from {part[over].min():g} to {part[over].max():g}"


def plain(text: str) -> str:
    """Escape control characters, which are no XML, and dollars, between which matplotlib would read a formula."""
    return printable(text).replace("$", r"\$")
