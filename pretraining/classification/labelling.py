"""Labels and candidates of a data set that is being prepared: matched with its scans, written beside its plans."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from batchgenerators.utilities.file_and_folder_operations import load_pickle

from nnunet_genesis.classification.labels import FILE, XYZ, classes_of, match, read_labels, some
from nnunet_genesis.classification.places import inside
from nnunet_genesis.classification.splits import luna_folds, make_folds, with_unlabelled
from nnunet_genesis.files import atomic_path, read_json, write_json
from nnunet_genesis.folders import SPLITS
from pretraining.preparation.manifest import PREPARED, Row
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.planning import PreparedDataset
from pretraining.scans.image_files import ending_of
from pretraining.scans.scan import LeftOut, Scan, digest

Asked = tuple[Path, pd.DataFrame, list[LeftOut]]  # a label file, its rows by case and patient, labels without a scan


def names_of(case: str, source: str) -> set[str]:
    """What a label file may call a scan: case, path or its last parts, each with and without ending and channel."""
    parts = source.split("/")
    found = {case, *("/".join(parts[i:]) for i in range(len(parts)))}
    found |= {name[: -len(ending)] for name in found if (ending := ending_of(name))}
    return found | {name[:-5] for name in found if name.endswith("_0000")}


def short_names(scans: Sequence[Scan]) -> dict[str, str]:
    """By case: an image's file name without ending and channel, where no other scan has the same; else the case."""
    images = [scan for scan in scans if scan.kind != "dicom"]
    short = {scan.case: min(names_of(scan.case, scan.source) - {scan.case}, key=len) for scan in images}
    times = Counter(short.values())
    return {scan.case: name if times[name := short.get(scan.case, "")] == 1 else scan.case for scan in scans}


def read_for(
    file: Path, sources: Mapping[str, str], candidates: bool | None = None, labelled: bool = True
) -> tuple[pd.DataFrame, list[str]]:
    """Read a label file for these scans (case → path): the rows, by case, and the names in it without a scan.

    A DICOM series may be called by its SeriesInstanceUID, which a scan doesn't keep: it is told by its digest. The
    column ``name_in_file`` has the name in the file.

    Raises:
        GenesisError: the file is wrong, or names scans doubtfully.
    """
    table = read_labels(file, candidates, labelled)
    series = {name: f"dicom_{digest(name, 12)}" for name in table["case"].unique()}
    table["name_in_file"] = table["case"]
    table["case"] = [series[name] if series[name] in sources else name for name in table["case"]]
    return match(table, {case: names_of(case, source) for case, source in sources.items()}, file)


def read_asked(options: PrepareOptions, base: Path, scans: Sequence[Scan], rows: Iterable[Row]) -> Asked | None:
    """Read the labels that a preparation was asked for (candidates in LPS), or keep those of an earlier run.

    Raises:
        GenesisError: the file is wrong.
    """
    file = options.labels or options.candidates or base / FILE
    if file == base / FILE and not file.is_file():
        return None
    known: list[Row | Scan] = [*(row for row in rows if row.status == PREPARED), *scans]
    kept, groups = file == base / FILE, {scan.case: scan.group or scan.case for scan in known}
    sources = {scan.case: scan.source for scan in known}
    table, missing = read_for(file, sources, None if kept else options.candidates is not None)
    table["group"] = table["group"].where(table["group"] != "", table["case"].map(groups))
    classes_of(table, file)  # before the hours that preparation may take
    if options.ras and not kept:
        table[XYZ] *= [-1, -1, 1]
    return file, table, [LeftOut(f"{file.name}: {name}", "a label without a scan") for name in missing]


def write_labels(dataset: PreparedDataset, labels: Asked, rows: Iterable[Row]) -> tuple[int, int, list[LeftOut]]:
    """Write the labels of the prepared cases, and their folds; ``rows`` are the manifest's, of those cases.

    Returns:
        Cases of the first fold to train on, and held out; labels without a scan, and candidates outside theirs.

    Raises:
        GenesisError: too few of a class are left.
    """
    (file, table, left_out), base = labels, dataset.folder
    prepared = {row.case: row for row in rows}
    table = table[table["case"].isin(prepared)]
    if "x" in table:
        folder, transpose = next(iter(dataset.case_folders.values())), dataset.plans["transpose_forward"]
        within = pd.Series(True, table.index)
        for case, rows_of in table.groupby("case"):  # each scan's are carried over at once
            properties = load_pickle(str(folder / f"{case}.pkl"))
            within[rows_of.index] = inside(rows_of[XYZ].to_numpy(float), properties, transpose)
        reason = "a candidate outside its scan (LPS, in mm; --ras for NIfTI's axes)"
        left_out = left_out + [LeftOut(f"{file.name}, line {line}", reason) for line in table["line"][~within]]
        table = table[within]
    groups = {case: row.group or case for case, row in prepared.items()}
    groups |= dict(zip(table["case"], table["group"], strict=True))
    classes = classes_of(table, file)
    labelled = (base / FILE).is_file()
    earlier = read_json(base / SPLITS) if labelled else ()
    splits = luna_folds({case: prepared[case].source for case in table["case"].unique()}, earlier)
    splits = splits or make_folds(table, classes, earlier)
    with atomic_path(base / FILE) as path:
        columns = ["case", *(XYZ if "x" in table else []), "label", "group"]
        table[columns].to_csv(path, index=False)
    splits = with_unlabelled(splits, groups)
    write_json(splits, base / SPLITS)
    _say(table, classes, len(splits), set(prepared) - set(table["case"]))
    return len(splits[0]["train"]), len(splits[0]["val"]), left_out


def _say(table: pd.DataFrame, classes: Sequence[str], folds: int, unlabelled: Iterable[str]) -> None:
    counts: Mapping[str, int] = table["label"].value_counts().to_dict()
    print(f"Labels: {', '.join(f'{counts[name]} {name}' for name in classes)}, {table['group'].nunique()} patients")
    print(f"{folds} folds, stratified by class, by patient" + ("; a class has too few for five" if folds < 5 else ""))
    if unlabelled := sorted(unlabelled):
        print(f"{len(unlabelled)} scans have no label, only pretraining uses them: {some(unlabelled)}")
