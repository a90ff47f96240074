"""The progress plot of a run, of pretraining and of fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from nnunet_genesis.training.schedule import Phase


def progress_figure(
    rows: Mapping[str, Mapping[str, Sequence[float]]], phases: Sequence[Phase] = ()
) -> tuple[Figure, list[Any]]:
    """Plot curves over epochs, a row of axes for each label of an axis, and where the phases of a schedule begin.

    Args:
        rows: what the vertical axis shows → name of the curve → values by epoch.
        phases: of the schedule; their names stand in the last row.
    """
    figure = Figure(figsize=(10, 4 * len(rows)), layout="constrained")
    all_axes = list(figure.subplots(len(rows), 1, sharex=True))
    for axes, (label, curves) in zip(all_axes, rows.items(), strict=True):
        for name, values in curves.items():
            axes.plot(values, label=name)
        axes.set(ylabel=label)
        for phase in phases[1:]:
            axes.axvline(phase.start - 0.5, color="grey", linestyle="--", linewidth=1)
        if len(curves) > 1:
            axes.legend(loc="upper right")
    all_axes[-1].set(xlabel="epoch")
    last = all_axes[-1]
    place = {"transform": last.get_xaxis_transform(), "rotation": 90, "va": "bottom", "fontsize": 9, "in_layout": False}
    for phase in phases:
        last.text(phase.start - 0.4, 0.02, phase.name, **place)
    return figure, all_axes
