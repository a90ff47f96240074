"""Raw scans, or candidates in them, to probabilities of classes: what ``nnUNetv2_genesis_classify`` does."""

import contextlib
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch

from nnunet_genesis.classification.labels import LUNA, XYZ
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path, disk_in_words
from nnunet_genesis.folders import channel_names, dataset_name, nnunet_folder
from pretraining.classification.labelling import names_of, read_for
from pretraining.classification.models import Model, Preprocessor, find_masks, trained_model
from pretraining.scans.find import find_scans
from pretraining.scans.scan import LeftOut, Scan

TRAINER = "nnUNetTrainerGenesisClassifier"
PROBABILITY = "probability"


@contextlib.contextmanager
def writable(file: Path) -> Iterator[None]:
    """Make the file's folder; a disk that is full or closed becomes a message."""
    with disk_in_words(file, "run the same command again."):
        file.parent.mkdir(parents=True, exist_ok=True)
        yield


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
            raise GenesisError(f"{folder}/fold_{fold}: segments; expected a classifier (-tr {TRAINER}). Correct -tr.")
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
        out: the CSV.
        models: folds, whose probabilities are averaged.
        device: of the networks.
        candidates: CSV of places, as for training; labels in it aren't looked at.
        ras: its coordinates are NIfTI's.
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
            raise GenesisError(f"this model was trained {'with' if wanted else 'without'} {option[2:].split()[0]}: "
                               f"{'give' if wanted else 'leave out'} {option}.")  # fmt: skip
    scans, left_out = find_scans(inputs, len(channel_names(models[0].dataset_json)))
    if not scans:
        raise GenesisError(f"{', '.join(map(str, inputs))}: no usable scan; {len(left_out)} files can't be used.")
    table, header = None, ["case", *record["classes"]]
    missing: list[str] = []
    signs = [-1, -1, 1] if ras else [1, 1, 1]
    if candidates:
        table, missing = read_for(
            candidates, {scan.case: scan.source for scan in scans}, candidates=True, labelled=False
        )
        table[XYZ] *= signs
        header = _header(candidates, record["classes"])
    left_out += [LeftOut(name, "candidates without a scan") for name in missing]
    preprocess = Preprocessor(models[0], find_masks(masks, scans) if masks else None)
    names, forwards = short_names(scans), [(model.network, model.mirror_axes) for model in models]
    with atomic_path(out) as path, open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for scan, rows, logits in preprocess.outputs(scans, forwards, device, left_out, table):
            of_folds = [fold if rows is not None else fold.mean(0, keepdim=True) for fold in logits]
            found = torch.stack([fold.softmax(1) for fold in of_folds]).mean(0).numpy()
            found = found[:, -1:] if header[-1] == PROBABILITY else found
            places = [[names[scan.case]]] if rows is None else _places(rows, signs)
            for place, values in zip(places, found, strict=True):
                writer.writerow([*place, *(f"{value:.6g}" for value in values)])
    return left_out


def _places(rows: pd.DataFrame, signs: Sequence[int]) -> list[list[str]]:
    """Name and coordinates as in the file."""
    points = rows[XYZ].to_numpy(float) * signs
    named = zip(rows["name_in_file"], points, strict=True)
    return [[name, *(repr(float(value)) for value in point)] for name, point in named]


def _header(candidates: Path, classes: Sequence[str]) -> list[str]:
    with open(candidates, newline="", encoding="utf-8-sig") as stream:
        found = [cell.strip() for cell in next(csv.reader(stream))]
    if set(found) & set(LUNA):
        return [*list(LUNA)[:4], PROBABILITY]
    return ["case", *XYZ, *classes]


def short_names(scans: Sequence[Scan]) -> dict[str, str]:
    """By case: an image's file name without ending and channel, where no other scan has the same; else the case."""
    short = {
        scan.case: min(names_of(scan.case, scan.source) - {scan.case}, key=len)
        for scan in scans
        if scan.kind != "dicom"
    }
    alone = {name for name, number in Counter(short.values()).items() if number == 1}
    return {scan.case: name if (name := short.get(scan.case, "")) in alone else scan.case for scan in scans}
