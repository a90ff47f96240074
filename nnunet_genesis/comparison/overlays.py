"""Slices of cases with the outlines of reference and predictions, for pages that may show images."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from nnunet_genesis.comparison.figures import short
from nnunet_genesis.comparison.nsd import find_reference
from nnunet_genesis.comparison.results import KEYS, MEAN, RUN
from nnunet_genesis.comparison.runs import Run

SLICES, MARGIN, LARGEST = 16, 16, 320  # of a case; voxels around what is outlined; pixels of a side


@dataclasses.dataclass
class Slice:
    """A slice: its number, a JPEG of the image, and one SVG path a segmentation, in pixels of the image."""

    number: int
    jpeg: bytes
    paths: list[str]


@dataclasses.dataclass
class Overlay:
    """A case: what it is, its segmentations' names, the size of its slices (width, height) in mm and pixels, those."""

    title: str
    names: list[str]
    size_mm: tuple[float, float]
    pixels: tuple[int, int]
    slices: list[Slice]


def overlays(
    runs: Sequence[Run], measured: pd.DataFrame, baseline: str, images: Path, references: Sequence[Path]
) -> list[Overlay]:
    """Show the best, the median and the worst case, by the Dice of the first arm besides the baseline at most cases.

    Returns:
        Nothing where images or predictions are missing.
    """
    folders = {run.name: run for run in runs}
    shown = measured[(measured["label"] == MEAN) & (measured["metric"] == "Dice") & measured["run"].isin(folders)]
    if shown.empty:
        return []
    others = sorted(set(shown["trainer"]) - {baseline}) or [baseline]
    chosen = shown[shown["trainer"] == others[0]]
    chosen = chosen[chosen["train"] == chosen["train"].max()].drop_duplicates("case")
    chosen = chosen.sort_values("value", kind="stable")
    found = []
    for name, position in {"Best": -1, "Median": len(chosen) // 2, "Worst": 0}.items():
        row, same = chosen.iloc[position], [*KEYS, *RUN, "case"]
        alike = shown[(shown[same] == row[same]).all(axis=1)].set_index("trainer")["run"].map(folders)
        order = sorted(set(alike.index), key=lambda trainer: (trainer != baseline, trainer))
        title = f"{name} case by the Dice of {short(others[0])} with {row['cases']} training cases: {row['case']}, "
        if overlay := _of_case(alike[order], row["case"], f"{title}{row['value']:.3f}", images, references):
            found.append(overlay)
    return found if len(found) == 3 else []


def _of_case(runs: pd.Series, case: str, title: str, images: Path, references: Sequence[Path]) -> Overlay | None:
    """Read the first channel and all segmentations; ``runs`` by trainer."""
    description = runs.iloc[0].dataset_json
    ending = description["file_ending"]
    recorded = {name: file for name, file, _ in runs.iloc[0].metrics()}[case]
    reference, image = find_reference(case + ending, recorded, references), images / f"{case}_0000{ending}"
    predictions = [run.validation / (case + ending) for run in runs]
    if reference is None or not all(file.is_file() for file in (image, *predictions)):
        return None
    reader = determine_reader_writer_from_dataset_json(description, str(reference), verbose=False)()
    volumes = np.stack([reader.read_seg(str(file))[0][0] for file in (reference, *predictions)])
    pixels, properties = reader.read_images([str(image)])
    z, *inside = (_extent(volumes > 0, axis, margin) for axis, margin in ((1, 0), (2, MARGIN), (3, MARGIN)))
    step = max(1, *(-(-(at.stop - at.start) // LARGEST) for at in inside))
    box = [slice(at.start, at.stop, step) for at in inside]
    numbers = np.unique(np.linspace(z.start, z.stop - 1, SLICES).round().astype(int))
    grey = _grey(pixels[0][:, box[0], box[1]])
    slices = [Slice(int(n), _jpeg(grey[n]), list(_paths(volumes[:, n, box[0], box[1]]))) for n in numbers]
    height, width = grey.shape[1:]
    spacing = properties["spacing"]
    size = (width * step * spacing[2], height * step * spacing[1])
    return Overlay(title, ["reference", *map(short, runs.index)], size, (width, height), slices)


def _extent(mask: np.ndarray, axis: int, margin: int) -> slice:
    """Find where along an axis anything is (all, where nothing is), with a margin."""
    found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
    ends = (found[0], found[-1]) if len(found) else (0, mask.shape[axis] - 1)
    return slice(max(0, int(ends[0]) - margin), min(mask.shape[axis], int(ends[1]) + 1 + margin))


def _grey(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (0.5, 99.5))
    return (np.clip((image - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def _jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _paths(segmentations: np.ndarray) -> Iterator[str]:
    """Outline every class of each segmentation (y, x)."""
    for labels in segmentations:
        outlines: list[Any] = []
        for label in np.unique(labels[labels > 0]):
            outlines += find_contours(np.pad(labels == label, 1).astype(float), 0.5)
        lines = [approximate_polygon(line - 0.5, 0.25).round(1) for line in outlines]  # pad −1, centre of a pixel +0.5
        yield "".join("M" + "L".join(f"{x:g} {y:g}" for y, x in line) + "Z" for line in lines)
