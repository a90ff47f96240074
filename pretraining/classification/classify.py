"""Raw scans, or candidates in them, to probabilities of classes: what ``nnUNetv2_genesis_classify`` does."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from nnunet_genesis.classification.labels import LUNA, XYZ
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import rows_path
from nnunet_genesis.folders import dataset_name, nnunet_folder
from pretraining.classification.labelling import read_for, short_names
from pretraining.classification.models import Model, find_masks, trained_model
from pretraining.scans.scan import LeftOut


def load_folds(
    dataset: str, configuration: str, plans: str, folds: Sequence[int | str], trainer: str, device: torch.device
) -> list[Model]:
    """The classifier's folds.

    Raises:
        GenesisError: one isn't there, doesn't classify, or has other classes than the first.
    """
    folder = nnunet_folder("nnUNet_results") / dataset_name(dataset) / f"{trainer}__{plans}__{configuration}"
    models = [trained_model(folder / f"fold_{fold}", device) for fold in folds]
    for fold, model in zip(folds, models, strict=True):
        if not model.record:
            raise GenesisError(
                f"{folder}/fold_{fold}: segments; expected a classifier (-tr nnUNetTrainerGenesisClassifier). Correct "
                "-tr."
            )
        if model.record != models[0].record:
            raise GenesisError(f"{folder}: fold {fold} has other classes than fold {folds[0]}. Train it anew.")
    return models


def classify(
    inputs: Sequence[Path],
    out: Path,
    models: Sequence[Model],
    device: torch.device,
    candidates: Path | None = None,
    ras: bool = False,
    masks: Path | None = None,
) -> list[LeftOut]:
    """Write a row a scan, or a candidate, with a column a class.

    Candidates in LUNA16's columns get LUNA16's submission: their columns and ``probability``, of the last class.

    Args:
        inputs: folders or files of raw scans.
        out: the CSV; until all rows are there :func:`nnunet_genesis.files.rows_path`.
        models: folds, whose probabilities are averaged.
        candidates: CSV of places, as for training; labels in it aren't looked at. ``ras``: its axes are NIfTI's.
        masks: folder of the regions' masks, for a model that was trained on regions.

    Returns:
        Scans and candidates without a row, with the reasons.

    Raises:
        GenesisError: the model needs candidates or masks, or takes none; or a file can't be used.
    """
    record = models[0].record
    for wanted, given, option in (
        (record["candidates"], candidates, "--candidates FILE"),
        (record["regions"] and not record["candidates"], masks, "--masks FOLDER"),
    ):
        if wanted != bool(given):
            trained, do = ("with", "give") if wanted else ("without", "leave out")
            raise GenesisError(f"this model was trained {trained} {option[2:].split()[0]}: {do} {option}.")
    scans, left_out = models[0].find_scans(inputs)
    names, table, signs, header = short_names(scans), None, [1, 1, 1], ["case", *record["classes"]]
    last_only = False
    if candidates:
        sources = {scan.case: scan.source for scan in scans}
        table, missing = read_for(candidates, sources, candidates=True, labelled=False)
        left_out += [LeftOut(name, "candidates without a scan") for name in missing]
        signs = [-1, -1, 1] if ras else signs
        table[XYZ] *= signs
        last_only = len(record["classes"]) == 2 and _has_columns_of_luna16(candidates)
        header = [*list(LUNA)[:4], "probability"] if last_only else ["case", *XYZ, *record["classes"]]
    of_regions = find_masks(masks, scans) if masks else None
    forwards = [(model.network, model.mirror_axes) for model in models]
    with rows_path(out) as path, open(path, "w", buffering=1, newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for scan, rows, logits in models[0].outputs(scans, forwards, device, left_out, table, of_regions):
            of_folds = [fold if rows is not None else fold.mean(0, keepdim=True) for fold in logits]
            found = torch.stack([fold.softmax(1) for fold in of_folds]).mean(0).numpy()
            places: list[list[str]] = [[names[scan.case]]]
            if rows is not None:  # name and coordinates as in the file
                points = (rows[XYZ].to_numpy(float) * signs).tolist()
                places = [[name, *map(repr, point)] for name, point in zip(rows["name_in_file"], points, strict=True)]
            for place, values in zip(places, found[:, -1:] if last_only else found, strict=True):
                writer.writerow([*place, *(f"{value:.6g}" for value in values)])
    return left_out


def _has_columns_of_luna16(candidates: Path) -> bool:
    with open(candidates, newline="", encoding="utf-8-sig") as stream:
        return {cell.strip() for cell in next(csv.reader(stream))} >= set(list(LUNA)[:4])
