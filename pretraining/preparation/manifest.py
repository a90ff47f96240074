"""``genesis_manifest.csv``: a row per scan; its groups, its log of errors, and the held-out set."""

import csv
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path, read_json, write_json
from pretraining.scans.scan import ERROR_LOG, LeftOut, Scan, digest

FILE_NAME, GROUP_KEY = "genesis_manifest.csv", "genesis_group_key"
PREPARED = "prepared"
_PATIENT = "patient_"


@dataclass(frozen=True)
class Row:
    """One scan of the manifest."""

    source: str  # path relative to the input folder; of several, to the folder that they are in
    case: str = ""  # name of the preprocessed case; empty where left out before one was given
    status: str = "left out"
    reason: str = ""  # why it is left out
    modality: str = ""
    shape: str = ""  # voxels (z, y, x), joined by "x", before preprocessing
    spacing: str = ""  # mm, likewise
    group: str = ""  # scans of one patient share it; a patient's name is a hash with the data set's key
    remark: str = ""  # what is worth a look, although the scan is used

    @classmethod
    def of_prepared(cls, scan: Scan, modality: str, remark: str) -> "Row":
        """Describe a scan that is prepared; its own modality, where it has one, counts before the data set's."""
        shape = "x".join(str(length) for length in scan.shape)
        spacing = "x".join(f"{length:.4g}" for length in scan.spacing)
        return cls(
            scan.source, scan.case, PREPARED, modality=scan.modality or modality, shape=shape, spacing=spacing,
            group=scan.group, remark=remark,
        )  # fmt: skip


def update(folder: Path, prepared: Sequence[Row], left_out: Sequence[LeftOut]) -> list[Row]:
    """Add what a run has done to the manifest; where a scan was left out earlier, what is now known of it counts.

    Returns:
        The rows of all prepared cases.
    """
    earlier = read(folder)
    cases = {row.case: row for row in [*earlier, *prepared] if row.status == PREPARED}
    known = {row.source for row in prepared} | {item.source for item in left_out}
    kept = [row for row in earlier if row.status != PREPARED and row.source not in known]
    now = [Row(item.source, reason=item.reason) for item in left_out]
    with atomic_path(folder / FILE_NAME) as path, open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([field.name for field in fields(Row)])
        rows = sorted([*cases.values(), *kept, *now], key=lambda row: (row.source, row.case))
        writer.writerows(astuple(row) for row in rows)
    return list(cases.values())


def read(folder: Path) -> list[Row]:
    """Read the rows of earlier runs; none where there wasn't one. What a spreadsheet has added is passed over.

    Raises:
        GenesisError: it isn't a manifest any more.
    """
    file, known = folder / FILE_NAME, {field.name for field in fields(Row)}
    if not file.is_file():
        return []
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, rows = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_manifest(file, str(error)) from error
    if not {"source", "case"} <= set(columns):
        raise _no_manifest(file, ", ".join(columns) or "an empty file")
    return [Row(**{key: row[key] for key in known & row.keys() if row[key] is not None}) for row in rows]


def _no_manifest(file: Path, found: str) -> GenesisError:
    return GenesisError(
        f"{file}: expected CSV in UTF-8 with columns source and case divided by commas, found {found}. Restore it, or "
        "save it as 'CSV UTF-8' with commas."
    )


def log_errors(folder: Path, left_out: Iterable[LeftOut]) -> None:
    """Append the tracebacks of internal errors to the log beside the manifest, which names it."""
    errors = [item for item in left_out if item.trace]
    if errors:
        with (folder / ERROR_LOG).open("a", encoding="utf-8") as log:
            log.writelines(f"{item.source}\n{item.trace}\n" for item in errors)
        print(
            f"{len(errors)} scans met an internal error of nnunet-genesis, which is no fault of theirs. Please report "
            f"{folder / ERROR_LOG}; look through it before, as it names files."
        )


def group_key(folder: Path) -> bytes:
    """Return the key of the data set's patients' groups; or a new one, for :func:`keep_group_key`.

    Raises:
        GenesisError: the key of an earlier run is gone.
    """
    file = folder / GROUP_KEY
    if not file.is_file():
        if any(row.group.startswith(_PATIENT) for row in read(folder)):
            raise GenesisError(
                f"{file}: no such file, but {FILE_NAME} names groups that were made with it: patients could be divided "
                "between training and held-out scans. Restore it, or prepare a new data set (-d, -n)."
            )
        return secrets.token_bytes(32)
    return file.read_bytes()


def keep_group_key(folder: Path, key: bytes) -> None:
    """Write the key, readable by its owner only, unless it is there."""
    file = folder / GROUP_KEY
    if not file.is_file():
        with atomic_path(file) as path, open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(key)


def write_split(folder: Path, rows: Sequence[Row], val_fraction: float) -> tuple[int, int]:
    """Write one fold to ``splits_final.json``; patients (groups) are never divided.

    Of a split that is there already each case stays where it is, even if its patient is only told now, and what was
    added later goes with its patient, or is trained on. With a single patient, or a fraction of 0, the training cases
    are also the validation cases; such a split holds nothing out, and is made anew by a later call.

    Returns:
        Number of training cases, and of validation cases of their own: 0 where these are the training cases.
    """
    groups = {row.case: row.group or row.case for row in rows if row.status == PREPARED}
    file, trained_on = folder / "splits_final.json", set[str]()
    earlier = read_json(file)[0] if file.is_file() else {"train": [], "val": []}
    if earlier["train"] != earlier["val"]:
        held_out = {groups[case] for case in earlier["val"] if case in groups}
        trained_on = set(earlier["train"]) - set(earlier["val"])  # stays so, whoever the patient is taken for now
    else:
        # By hash: which patients are held out depends neither on the order of the scans nor on a random state; nor on
        # the groups' random key, so of a case's name.
        first = {groups[case]: case for case in sorted(groups, reverse=True)}
        shuffled = sorted(first, key=lambda group: digest(first[group]))
        held_out = set(shuffled[: min(len(shuffled) - 1, max(1, round(val_fraction * len(shuffled))))])
        held_out = held_out if val_fraction > 0 else set()
    val = sorted(case for case, group in groups.items() if group in held_out and case not in trained_on)
    train = sorted(set(groups) - set(val))
    if not val or not train:
        train = val = sorted(groups)
    write_json([{"train": train, "val": val}], file)
    return len(train), 0 if train == val else len(val)
