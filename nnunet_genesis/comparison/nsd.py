"""Normalised surface Dice (NSD), per class, kept beside nnU-Net's ``summary.json``."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import key_to_label_or_region, region_or_label_to_mask
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

from nnunet_genesis.comparison.runs import Run
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json, write_json

FILE = "genesis_nsd.json"


def nsd(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerance: float) -> float:
    """Calculate the share of both surfaces that lies within ``tolerance`` of the other one (Nikolov et al. 2018).

    A surface is the voxels of a mask that have a neighbour (across a face) outside of it, each counting once.

    Args:
        reference: boolean mask (z, y, x).
        prediction: boolean mask (z, y, x).
        spacing: of the voxels in mm (z, y, x).
        tolerance: in mm.

    Returns:
        0 to 1; NaN where both are empty.
    """
    box = find_objects((reference | prediction).astype(np.uint8))
    if not box:
        return float("nan")
    surfaces = [mask & ~binary_erosion(mask) for mask in (reference[box[0]], prediction[box[0]])]
    if not all(surface.any() for surface in surfaces):
        return 0.0
    within = [
        (distance_transform_edt(~other, sampling=spacing)[surface] <= tolerance + 1e-6).sum()
        for surface, other in (surfaces, surfaces[::-1])
    ]
    return float(sum(within) / sum(surface.sum() for surface in surfaces))


def nsd_of_run(run: Run, tolerance: float, references: Sequence[Path]) -> dict[str, dict[str, float]] | None:
    """Give NSD by case and class: what an earlier report stored, or computed from the predictions and stored.

    Args:
        run: the run.
        tolerance: in mm.
        references: further folders to look for reference segmentations in.

    Returns:
        ``None`` where neither a stored file of this tolerance nor all images are there.
    """
    file, summary, ending = run.validation / FILE, run.validation / "summary.json", run.dataset_json["file_ending"]
    stored = read_json(file) if file.exists() else None
    if isinstance(stored, dict) and "cases" in stored and stored.get("tolerance_mm") == tolerance:
        predictions = any(run.validation.glob(f"*{ending}"))
        if not predictions or file.stat().st_mtime >= summary.stat().st_mtime:
            return dict(stored["cases"])
    found = {}
    for case, recorded, dice in run.metrics():
        prediction, reference = run.validation / (case + ending), find_reference(case + ending, recorded, references)
        if reference is None or not prediction.is_file():
            return None
        found[case] = _of_case(run, reference, prediction, list(dice), tolerance)
    if found and os.access(run.validation, os.W_OK):
        write_json({"tolerance_mm": tolerance, "cases": found}, file)
    return found or None


def find_reference(name: str, recorded: str, folders: Sequence[Path]) -> Path | None:
    """Find the reference segmentation ``name``: where ``summary.json`` says, or in one of ``folders``."""
    candidates = [Path(recorded), *(folder / name for folder in folders)]
    return next((file for file in candidates if file.is_absolute() and file.is_file()), None)


def _of_case(run: Run, reference: Path, prediction: Path, labels: Sequence[str], tolerance: float) -> dict[str, float]:
    reader = determine_reader_writer_from_dataset_json(run.dataset_json, str(reference), verbose=False)()
    try:
        (truth, properties), (guess, _) = reader.read_seg(str(reference)), reader.read_seg(str(prediction))
    except RuntimeError as error:
        raise GenesisError(
            f"{prediction}, or its reference {reference}: can't be read ({str(error).strip().splitlines()[-1]}). "
            "Write the prediction anew: nnUNetv2_train … --val."
        ) from error
    known, found = truth[0] != run.dataset_json["labels"].get("ignore", -1), {}
    for label in labels:
        key = key_to_label_or_region(label)
        one, other = (region_or_label_to_mask(volume[0], key) & known for volume in (truth, guess))
        found[label] = round(nsd(one, other, properties["spacing"], tolerance), 6)
    return found
