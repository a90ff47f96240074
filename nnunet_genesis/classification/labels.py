"""Label files: which scan, or which place in it, is of which class. Read, checked, and matched with cases.

``case,label[,group]`` labels scans; ``case,x,y,z[,label][,group]`` names candidates in mm, in the columns of LUNA16
(``seriesuid,coordX,coordY,coordZ,class``) too. Tables have the first names, and ``line``, the line in the file.
"""

import csv
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file

FILE = "genesis_labels.csv"  # in a preprocessed data set's folder, with nnU-Net's names of cases
RAW_FILE = "labelsTr.csv"  # beside imagesTr of a raw data set
PREDICTIONS, SCORE = "classification.csv", "p:"  # of a fold's validation; its columns of classes begin with it
XYZ = ["x", "y", "z"]
LUNA = {"seriesuid": "case", "coordX": "x", "coordY": "y", "coordZ": "z", "class": "label"}
_CONTINUOUS = 10  # more different fractions than this are measurements, not classes


def read_labels(file: Path, candidates: bool | None = None, labelled: bool = True) -> pd.DataFrame:
    """Read a label file.

    Args:
        file: CSV in UTF-8, with a header.
        candidates: whether it must name places; ``None``: as it does.
        labelled: whether it must have a label in every row.

    Returns:
        Text columns case, label, group ("" where the file has none); of candidates x, y, z in mm (float); line.

    Raises:
        GenesisError: what is wrong with it, and in which lines.
    """
    (_, header), *rows = _cells(file)
    header = [LUNA.get(name, name) for name in header]
    _check_header(file, header, candidates, labelled)
    for line, row in rows:
        if len(row) != len(header):
            raise _error(file, f"line {line}: expected {len(header)} values, as the header has, found {len(row)}")
    table = pd.DataFrame([row for _, row in rows], columns=header, dtype=object)
    table = table.assign(**{name: "" for name in ("label", "group", "task") if name not in header})
    table["line"] = [line for line, _ in rows]
    _check_rows(file, table, labelled, "group" in header)
    if "x" in header:
        table[XYZ] = table[XYZ].apply(pd.to_numeric, errors="coerce").astype(float)
        if (bad := table[~np.isfinite(table[XYZ]).all(axis=1)]).size:
            raise _error(file, f"coordinates that aren't finite numbers in line {_lines(bad)}")
    _check_doubled(file, table)
    return table[["case", *(XYZ if "x" in header else []), "label", "group", "line"]]


def classes_of(table: pd.DataFrame, file: Path) -> list[str]:
    """The classes in order, numbers by size; the last one is a binary problem's positive one.

    Raises:
        GenesisError: there are fewer than two, one has a single case or patient, or they are no classes.
    """
    unit = table["group"].where(table["group"] != "", table["case"])
    groups = unit[table["label"] != ""].groupby(table["label"]).nunique()
    names = [str(name) for name in groups.index]
    plain = {name: _plain(name) for name in names}
    if len(names) < 2:
        raise _error(file, f"expected two classes or more, found {', '.join(map(repr, names)) or 'none'}")
    if alike := [name for name in names if list(plain.values()).count(plain[name]) > 1]:
        raise _error(file, f"classes {', '.join(map(repr, alike))} differ in nothing but their spelling")
    if len(names) > _CONTINUOUS and all(isinstance(value, float) for value in plain.values()):
        raise _error(file, f"{len(names)} different numbers as labels: regression isn't supported, classes are")
    if rare := ", ".join(repr(name) for name in names if groups[name] < 2):
        raise _error(file, f"class {rare} has a single case or patient: it can't be trained on and validated")
    return sorted(names, key=lambda name: (isinstance(plain[name], str), plain[name]))


def match(table: pd.DataFrame, names: Mapping[str, Iterable[str]], file: Path) -> tuple[pd.DataFrame, list[str]]:
    """Name the cases of a label file as nnU-Net does; ``names`` has, by case, everything that the file may call it.

    Returns:
        The rows whose scan is there, and the names in the file whose scan isn't.

    Raises:
        GenesisError: a name means several scans, two names the same, or there is no match at all.
    """
    cases: dict[str, set[str]] = {}
    for case, others in names.items():
        for name in {case, *others}:
            cases.setdefault(name, set()).add(case)
    wanted = [str(name) for name in table["case"].unique()]
    for name in wanted:
        if len(found := cases.get(name, ())) > 1:
            raise _error(file, f"{name!r} means {len(found)} scans: {some(sorted(found))}; expected a name of one")
    missing = [name for name in wanted if name not in cases]
    if len(missing) == len(wanted):
        raise _error(file, f"no scan is called as its rows are. Rows: {some(wanted)}. Scans: {some(sorted(names))}")
    table = table[table["case"].isin(cases)]
    table = table.assign(case=[next(iter(cases[name])) for name in table["case"]])
    _check_doubled(file, table)
    return table, missing


def some(names: Sequence[str], number: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(names[:number]) + more


def _error(file: Path, problem: str) -> GenesisError:
    return GenesisError(f"{file}: {problem}. Correct the file.")


def _cells(file: Path) -> list[tuple[int, list[str]]]:
    """The header and the rows, with their lines; empty lines are left out."""
    try:
        with open(regular_file(file, "a label file (.csv)"), newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            found = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        problem = f"expected CSV in UTF-8, found something else ({error}); a spreadsheet can be saved as 'CSV UTF-8'"
        raise _error(file, problem) from error
    found = [(line, row) for line, row in found if any(row)]
    if len(found) < 2:
        raise _error(file, f"expected a header and rows, found {'a header only' if found else 'an empty file'}")
    return found


def _check_header(file: Path, header: Sequence[str], candidates: bool | None, labelled: bool) -> None:
    shown = f"found {some(header, 12)}"
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise _error(file, f"expected columns divided by commas, {shown}")
    if doubled := sorted({name for name in header if header.count(name) > 1}):
        raise _error(file, f"column {', '.join(map(repr, doubled))} is there twice")
    if candidates is False and set(XYZ) <= set(header):
        raise _error(file, "names candidates (columns x, y, z): give it with --candidates")
    if sum(name.startswith("label") for name in header) > 1:
        raise _error(file, f"several columns of labels: multi-label isn't supported; {shown}")
    places = candidates if candidates is not None else bool(set(XYZ) & set(header))
    expected = ["case", *(XYZ if places else []), *(["label"] if labelled else [])]
    known = [*expected, "group"]
    for name in set(header) - set(known):
        if close := difflib.get_close_matches(name, [name for name in known if name not in header], 1, 0.75):
            raise _error(file, f"column {name!r}: did you mean {close[0]!r}?")
    if missing := [name for name in expected if name not in header]:
        raise _error(file, f"expected the columns {', '.join(expected)}, missing {', '.join(missing)}; {shown}")


def _check_rows(file: Path, table: pd.DataFrame, labelled: bool, grouped: bool) -> None:
    for name, needed in {"case": True, "label": labelled, "group": grouped}.items():
        if needed and (empty := table[table[name] == ""]).size:
            raise _error(file, f"no {name} in line {_lines(empty)}")
    if (several := table[table["label"].str.contains(r"[|;]")]).size:
        raise _error(file, f"several labels in line {_lines(several)}: multi-label isn't supported")
    if (other := table[~table["task"].isin(["", "classification"])]).size:
        raise _error(file, f"task {other['task'].iloc[0]!r}: only classification is supported")
    if grouped:
        of_case = table.groupby("case")["group"].nunique()
        if (divided := of_case[of_case > 1]).size:
            raise _error(file, f"case {some(list(divided.index))} is in several groups; expected one")


def _check_doubled(file: Path, table: pd.DataFrame) -> None:
    key = ["case", *(name for name in XYZ if name in table)]
    doubled = table[table.duplicated(key, keep=False)]
    if len(key) > 1:  # LUNA16's own file has some twice, of the same class
        doubled = doubled[doubled.groupby(key)["label"].transform("nunique") > 1]
    if doubled.size:
        raise _error(file, f"the same {'place' if len(key) > 1 else 'case'} more than once, in line {_lines(doubled)}")


def _lines(table: pd.DataFrame) -> str:
    return some([str(line) for line in table["line"]])


def _plain(name: str) -> Any:
    """A number, or the name without what a person may not see."""
    try:
        return float(name)
    except ValueError:
        return " ".join(name.casefold().split())
