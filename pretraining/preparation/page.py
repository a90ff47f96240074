"""``genesis_manifest.html``: the manifest to look at. Thumbnails, counts, histograms; self-contained and bounded.

No text but the manifest's own is in it. It is written from the manifest and from what the cases' files hold, so it is
the same after an interruption, and after parts.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import load_pickle

from nnunet_genesis.files import atomic_path
from nnunet_genesis.html import template
from pretraining.preparation import manifest
from pretraining.preparation.manifest import PREPARED, Row
from pretraining.preparation.preview import Preview

FILE_NAME = "genesis_manifest.html"
PREVIEW = "genesis_preview"  # in a case's properties
_MOST_SCANS, _MOST_ROWS = 500, 100
_LONGEST = 300  # letters of a text
_BINS = 40


def write_page(folder: Path) -> Path:
    """Write the page beside the manifest of a data set, whose folder is given; returns its path."""
    rows = manifest.read(folder)
    prepared = [row for row in rows if row.status == PREPARED]
    shown = [(row, _preview(folder, row.case)) for row in prepared[:_MOST_SCANS]]
    remarks = ((row, text) for row in rows for text in row.remark.split("; ") if text)
    page = template("pretraining", "preparation", "manifest.html.jinja", cut=lambda text: text[:_LONGEST]).render(
        prepared=prepared,
        left_out=len(rows) - len(prepared),
        counts=_counts((row, row.reason) for row in rows),
        corrections=_counts(remarks),
        most=_MOST_ROWS,
        shown=shown,
        histograms=list(_histograms([found for _, found in shown if found], prepared)),
    )
    file = folder / FILE_NAME
    with atomic_path(file) as path:
        Path(path).write_text(page, encoding="utf-8")
    return file


def _preview(folder: Path, case: str) -> Preview | None:
    """Return what a case's files hold of it; ``None`` if an earlier version made them."""
    for file in sorted(folder.glob(f"*/{case}.pkl")):
        if isinstance(found := load_pickle(str(file)).get(PREVIEW), dict):
            return Preview(**found)
    return None


def _counts(texts: Iterable[tuple[Row, str]]) -> list[dict[str, Any]]:
    """Count texts, the most frequent first; those that differ in numbers only are told of together."""
    alike: dict[tuple[str, str], list[tuple[Row, str]]] = defaultdict(list)
    for row, text in texts:
        alike[row.status, re.sub(r"\d+(\.\d+)?", "…", text)].append((row, text))
    counts = []
    for (status, pattern), group in alike.items():
        sources = ", ".join(row.source for row, _ in group[:3]) + (", …" if len(group) > 3 else "")
        text = pattern if len({text for _, text in group}) > 1 else group[0][1]
        counts.append({"status": status, "text": text, "number": len(group), "sources": sources})
    return sorted(counts, key=lambda count: (count["status"] != PREPARED, -count["number"], count["text"]))


def _histograms(previews: Sequence[Preview], prepared: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Count spacings, and each channel's intensities within the body; every scan counts as much."""
    spacings = np.array([[float(length) for length in row.spacing.split("x")] for row in prepared if row.spacing])
    if len(spacings):
        yield _histogram("Distance of slices", "mm", spacings[:, 0], (0, float(spacings[:, 0].max())))
        yield _histogram("Voxels within a slice", "mm", spacings[:, 1:].ravel(), (0, float(spacings[:, 1:].max())))
    unit = "HU" if {row.modality for row in prepared} == {"CT"} else "as stored"
    channels = min((len(found.percentiles) for found in previews), default=0)
    for channel in range(channels):
        values = np.stack([found.percentiles[channel] for found in previews])
        limits = float(np.median(values[:, 0])), float(np.percentile(values[:, 99], 90))
        title = "Intensities within the body" + (f", channel {channel}" if channels > 1 else "")
        yield _histogram(title, unit, values[:, :-1].ravel(), limits)


def _histogram(title: str, unit: str, values: np.ndarray, limits: tuple[float, float]) -> dict[str, Any]:
    low, high = limits
    counts, edges = np.histogram(values, _BINS, (low, high) if high > low else (low, low + 1))
    return {"title": title, "unit": unit, "counts": counts.tolist(), "edges": edges.tolist()}
