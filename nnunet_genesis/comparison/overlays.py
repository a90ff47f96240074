"""Slices of cases with the outlines of reference and predictions, for pages that may show images."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from PIL import Image
from scipy.ndimage import find_objects
from skimage.exposure import rescale_intensity
from skimage.measure import approximate_polygon, find_contours

from nnunet_genesis.comparison.figures import short
from nnunet_genesis.comparison.nsd import find_reference
from nnunet_genesis.comparison.results import KEYS, MEAN, RUN
from nnunet_genesis.comparison.runs import Run

SLICES, LARGEST = 16, 320  # of a case; pixels of a side
MARGINS = (0, 16, 16)  # voxels around what is outlined, z, y, x


@dataclasses.dataclass
class Overlay:
    """A case: what it is, its segmentations' names, the size of its slices (width, height) in mm and pixels, those.

    A slice is its number, a JPEG of the image, and one SVG path a segmentation, in pixels of the image.
    """

    title: str
    names: list[str]
    size_mm: tuple[float, float]
    pixels: tuple[int, int]
    slices: list[tuple[int, bytes, list[str]]]


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
    sizes = chosen["train"].fillna(0)  # not known
    chosen = chosen[sizes == sizes.max()].drop_duplicates("case")
    chosen = chosen.sort_values("value", kind="stable")
    found = []
    for name, position in {"Best": -1, "Median": len(chosen) // 2, "Worst": 0}.items():
        row, same = chosen.iloc[position], [*KEYS, *RUN, "case"]
        alike = shown[(shown[same] == row[same]).all(axis=1)].set_index("trainer")["run"].map(folders)
        order = sorted(set(alike.index), key=lambda trainer: (trainer != baseline, trainer))
        title = f"{name} case by the Dice of {short(others[0])} trained with {row['cases']}: {row['case']}, "
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
    boxes = find_objects((volumes > 0).any(0).astype(np.uint8)) or [tuple(slice(0, n) for n in volumes.shape[1:])]
    z, y, x = (slice(max(0, at.start - margin), at.stop + margin) for at, margin in zip(boxes[0], MARGINS, strict=True))
    step = max(-(-(at.stop - at.start) // LARGEST) for at in (y, x))
    inside = np.s_[:, y.start : y.stop : step, x.start : x.stop : step]
    grey = pixels[0][inside]
    grey = rescale_intensity(grey, tuple(np.percentile(grey, (0.5, 99.5))), (0, 255)).astype(np.uint8)
    numbers = np.unique(np.linspace(z.start, z.stop - 1, SLICES).round().astype(int))
    slices = [(int(n), _jpeg(grey[n]), [_path(volume[inside][n]) for volume in volumes]) for n in numbers]
    height, width = grey.shape[1:]
    spacing = properties["spacing"]
    size = (width * step * spacing[2], height * step * spacing[1])
    return Overlay(title, ["reference", *map(short, runs.index)], size, (width, height), slices)


def _jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _path(labels: np.ndarray) -> str:
    """Outline every class of a segmentation (y, x)."""
    lines = []
    for label in np.unique(labels[labels > 0]):
        for outline in find_contours(np.pad(labels == label, 1).astype(float), 0.5):
            lines.append(approximate_polygon(outline - 0.5, 0.25).round(1))  # pad −1, centre of a pixel +0.5
    return "".join("M" + "L".join(f"{x:g} {y:g}" for y, x in line) + "Z" for line in lines)
