"""The best, the median and the worst case, with the outlines of reference and predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunet_genesis.comparison.figures import overlays, short
from nnunet_genesis.comparison.results import MEAN, Run
from nnunet_genesis.comparison.surface import find_reference


def overlay_figure(
    runs: Sequence[Run], dice: pd.DataFrame, baseline: str, images: Path, references: Sequence[Path]
) -> tuple[bytes, str] | None:
    """A figure and what it shows; ``None`` where images or predictions are missing.

    The cases are chosen by the Dice (mean of classes) of the first trainer besides the baseline, at its largest
    training set; the slice is the one with most of the reference.
    """
    shown = dice[(dice["label"] == MEAN) & dice["value"].notna()]
    others = sorted(set(shown["trainer"]) - {baseline}) or [baseline]
    chosen = shown[shown["trainer"] == others[0]]
    chosen = (
        chosen[chosen["train"] == chosen["train"].max()].drop_duplicates("case").sort_values("value", kind="stable")
    )
    rows = []
    for name, position in (("best", -1), ("median", len(chosen) // 2), ("worst", 0)):
        row = chosen.iloc[position]
        alike = [
            run
            for run in runs
            if all(run.key()[k] == row[k] for k in ("plans", "configuration", "cases", "fold", "seed"))
        ]
        ordered = sorted(alike, key=lambda run: (run.trainer != baseline, run.trainer))
        slices = _slices(ordered, row["case"], images, references)
        if slices is None:
            return None
        rows.append((f"{name}: {row['case']}, Dice {row['value']:.3f}", *slices))
    return overlays(rows), f"by the Dice of {short(others[0])} with {chosen['cases'].iloc[0]} training cases"


def _slices(
    runs: Sequence[Run], case: str, images: Path, references: Sequence[Path]
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]] | None:
    """The first channel and all segmentations in one slice."""
    description = runs[0].dataset_json
    ending = description["file_ending"]
    recorded = {name: file for name, file, _ in runs[0].metrics()}[case]
    reference, image = find_reference(case + ending, recorded, references), images / f"{case}_0000{ending}"
    predictions = [run.validation / (case + ending) for run in runs]
    if reference is None or not all(file.is_file() for file in (image, *predictions)):
        return None
    reader = determine_reader_writer_from_dataset_json(description, str(reference), verbose=False)()
    volumes = [reader.read_seg(str(file))[0][0] for file in (reference, *predictions)]
    at = int((volumes[0] > 0).sum((1, 2)).argmax())
    names = ["reference", *(short(run.trainer) for run in runs)]
    pixels = reader.read_images([str(image)])[0][0, at]
    return pixels, [(name, volume[at]) for name, volume in zip(names, volumes, strict=True)]
