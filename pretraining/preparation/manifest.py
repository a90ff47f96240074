"""``genesis_manifest.csv``: a row per scan, and the held-out set in ``splits_final.json``."""

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from nnunet_genesis.files import atomic_path, write_json
from pretraining.scans.scan import ERROR_LOG, LeftOut

FILE_NAME = "genesis_manifest.csv"


@dataclass(frozen=True)
class Row:
    """One scan of the manifest.

    Attributes:
        source: path relative to the input folder.
        case: name of the preprocessed case; empty where left out before one was given.
        status: ``prepared`` or ``left out``.
        reason: why it is left out.
        modality: CT, MR, …
        shape: voxels z × y × x, before preprocessing.
        spacing: mm z × y × x.
        group: scans of one patient share it; a keyed hash (:mod:`pretraining.preparation.groups`).
        remark: what is worth a look, although the scan is used.
    """

    source: str
    case: str = ""
    status: str = "left out"
    reason: str = ""
    modality: str = ""
    shape: str = ""
    spacing: str = ""
    group: str = ""
    remark: str = ""


def read_manifest(base: Path) -> list[Row]:
    """Rows of an earlier run; none if there wasn't one."""
    file = base / FILE_NAME
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [Row(**row) for row in csv.DictReader(stream)]


def write_manifest(base: Path, rows: Iterable[Row]) -> None:
    """Write the rows, sorted by source."""
    with atomic_path(base / FILE_NAME) as path, open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: (row.source, row.case)))


def log_errors(base: Path, left_out: Iterable[LeftOut]) -> None:
    """Append the tracebacks of internal errors to the log beside the manifest, which names it."""
    errors = [item for item in left_out if item.trace]
    if errors:
        with (base / ERROR_LOG).open("a", encoding="utf-8") as log:
            log.writelines(f"{item.source}\n{item.trace}\n" for item in errors)
        print(
            f"{len(errors)} of them by internal errors of nnunet-genesis, not by any fault of theirs. Please report "
            f"{base / ERROR_LOG}; look through it before: it names files."
        )


def write_split(base: Path, rows: Sequence[Row], val_fraction: float) -> tuple[int, int]:
    """Write one fold to ``splits_final.json``; patients (groups) are never divided.

    A held-out set that is there already keeps its cases, and what was added later is trained on. With a single
    patient, or a fraction of 0, the training cases are also the validation cases.

    Returns:
        Number of training and of validation cases.
    """
    groups = {row.case: row.group or row.case for row in rows if row.status == "prepared"}
    file = base / "splits_final.json"
    if file.is_file():
        held_out = {groups[case] for case in json.loads(file.read_text())[0]["val"] if case in groups}
    else:
        # By hash: which patients are held out depends neither on the order of the scans nor on a random state; nor on
        # the groups' random key, so of a case's name.
        first = {groups[case]: case for case in sorted(groups, reverse=True)}
        shuffled = sorted(first, key=lambda group: hashlib.sha256(first[group].encode()).hexdigest())
        held_out = set(shuffled[: min(len(shuffled) - 1, max(1, round(val_fraction * len(shuffled))))])
        held_out = held_out if val_fraction > 0 else set()
    train = sorted(case for case, group in groups.items() if group not in held_out)
    val = sorted(case for case, group in groups.items() if group in held_out)
    if not val or not train:
        train = val = sorted(groups)
    write_json([{"train": train, "val": val}], file)
    return len(train), len(val)
