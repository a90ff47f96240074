"""Nested label subsets of nnU-Net's folds, as extra folds in ``splits_final.json``.

Fold numbers are for ever (results are filed under them), so that folds are only ever appended.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_genesis.classification.labels import FILE
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json, write_json
from nnunet_genesis.folders import SPLITS, SUBSETS

ALL = "all"
Split = dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Subset:
    """What a fold number stands for.

    It keeps the validation cases of ``fold``, and has ``train`` training cases; ``cases`` were asked for (patients,
    where folds are grouped) and drawn with ``seed``. Of ``"all"`` cases, without a seed, it is the fold itself.
    """

    fold: int
    cases: int | str
    seed: int | None
    train: int


@dataclasses.dataclass(frozen=True)
class SubsetMap:
    """Content of ``genesis_splits.json``: fold number → :class:`Subset`, and the pattern that names the patient."""

    folds: dict[int, Subset] = dataclasses.field(default_factory=dict)
    group_by: str | None = None


def read_map(file: Path) -> SubsetMap:
    """Read ``genesis_splits.json``; a missing file is an empty map.

    Raises:
        GenesisError: it holds something else.
    """
    if not file.exists():
        return SubsetMap()
    content = read_json(file)
    try:
        folds = {int(number): Subset(**subset) for number, subset in content["folds"].items()}
        return SubsetMap(folds, content["group_by"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GenesisError(
            f"{file}: expected what nnUNetv2_genesis_split writes, found {error!r}. Restore it."
        ) from error


def group_of(case: str, group_by: str | None) -> str:
    """Name a case's patient: the first group of the pattern (or its match at the start of the name); else the case.

    Raises:
        GenesisError: the pattern is no regular expression, or doesn't match.
    """
    if group_by is None:
        return case
    try:
        found = re.match(group_by, case)
    except re.error as error:
        raise GenesisError(f"--group_by {group_by!r}: expected a regular expression ({error}). Correct it.") from error
    if not found or not found[found.re.groups and 1]:
        raise GenesisError(
            f"--group_by {group_by!r} doesn't match case {case!r}. Give a pattern that matches every case."
        )
    return found[found.re.groups and 1]


def add_subsets(
    folder: Path, sizes: Sequence[int | str], folds: int = 5, seed: int = 0, group_by: str | None = None
) -> SubsetMap:
    """Append nested subsets of the first ``folds`` folds to ``splits_final.json``; what is there already is reused.

    Args:
        folder: the data set's, in nnUNet_preprocessed. Without splits, nnU-Net's own five are made, fewer of few cases.
        sizes: training cases (patients, with ``group_by``) of each fold; ``"all"`` is the fold itself.
        folds: how many.
        seed: fixes the order in which cases enter: smaller subsets are part of larger ones.
        group_by: regular expression whose match at the start of a case's name is its patient.

    Returns:
        The whole map, as stored in ``genesis_splits.json``.

    Raises:
        GenesisError: a fold has too few cases or doesn't exist, a patient is on both sides of a fold, the stored map
            contradicts the splits, or no splits can be made.
    """
    if seed < 0:
        raise GenesisError(f"--seed {seed}: expected at least 0. Correct the command.")
    if (folder / FILE).exists():
        raise GenesisError(f"{folder}: its folds are of its labels ({FILE}), and subsets are for segmentation.")
    known = read_map(folder / SUBSETS)
    splits = _read_splits(folder / SPLITS) if (folder / SPLITS).exists() else _cross_validation(folder, group_by)
    _check(folder, splits, known, folds, group_by)
    found = dict(known.folds)
    for fold in range(folds):
        found[fold] = Subset(fold, ALL, None, len(splits[fold]["train"]))
        for size in sorted({int(size) for size in sizes if size != ALL}):
            split = _subset(splits[fold], fold, size, seed, group_by)
            number = _number(splits, split, found, (fold, size, seed))
            if number == len(splits):
                splits.append(split)
            if splits[number] != split:
                raise _contradiction(folder, number)
            found[number] = Subset(fold, size, seed, len(split["train"]))
    result = SubsetMap(dict(sorted(found.items())), group_by)
    write_json(splits, folder / SPLITS)
    write_json(dataclasses.asdict(result), folder / SUBSETS)
    return result


def _number(splits: list[Split], split: Split, known: dict[int, Subset], key: tuple[int, int, int]) -> int:
    """Find the subset's fold number in the map or by its content; the next free one where it is new."""
    same = [number for number, subset in known.items() if (subset.fold, subset.cases, subset.seed) == key]
    # A run that was killed between writing the two files left the split without its entry.
    same += [number for number, old in enumerate(splits) if number not in known and old == split]
    return same[0] if same else len(splits)


def _subset(split: Split, fold: int, size: int, seed: int, group_by: str | None) -> Split:
    groups = sorted({group_of(case, group_by) for case in split["train"]})
    if not 1 <= size < len(groups):
        kind = "case(s)" if group_by is None else "patient(s)"
        raise GenesisError(
            f"--cases {size}: fold {fold} has {len(groups)} training {kind}; expected 1 to {len(groups) - 1}, or "
            "'all'. Choose fewer."
        )
    chosen = set(np.random.default_rng((seed, fold)).permutation(groups)[:size])
    return {"train": [case for case in split["train"] if group_of(case, group_by) in chosen], "val": split["val"]}


def _read_splits(file: Path) -> list[Split]:
    splits = read_json(file)
    if not isinstance(splits, list) or not all(isinstance(s, dict) and {"train", "val"} <= s.keys() for s in splits):
        raise GenesisError(f"{file}: expected nnU-Net's list of folds with 'train' and 'val'. Restore the file.")
    return splits


def _cross_validation(folder: Path, group_by: str | None) -> list[Split]:
    """Make nnU-Net's own five folds, of patients where cases are grouped; of 2 to 4, as many folds."""
    ending = read_json(folder / "dataset.json")["file_ending"]
    cases = sorted(file.name[: -len(ending)] for file in (folder / "gt_segmentations").glob(f"*{ending}"))
    groups = sorted({group_of(case, group_by) for case in cases})
    if len(groups) < 2:
        raise GenesisError(
            f"{folder / 'gt_segmentations'}: expected at least 2 cases (or patients), found {len(groups)}. "
            "Preprocess the data set first (nnUNetv2_plan_and_preprocess)."
        )
    return [
        {side: [case for case in cases if group_of(case, group_by) in set(split[side])] for side in ("train", "val")}
        for split in generate_crossval_split(groups, seed=12345, n_splits=min(5, len(groups)))
    ]


def _check(folder: Path, splits: list[Split], known: SubsetMap, folds: int, group_by: str | None) -> None:
    file = folder / SPLITS
    if known.folds and known.group_by != group_by:
        raise GenesisError(
            f"{folder / SUBSETS}: was made with --group_by {known.group_by!r}, not {group_by!r}. Use it."
        )
    parents = [n for n in range(len(splits)) if n not in known.folds or known.folds[n].cases == ALL]
    if not 1 <= folds <= len(parents) or parents[:folds] != list(range(folds)):
        raise GenesisError(f"--folds {folds}: {file} has {len(parents)} folds that aren't subsets. Choose from those.")
    for number, subset in known.folds.items():
        if number >= len(splits) or splits[number]["val"] != splits[subset.fold]["val"]:
            raise _contradiction(folder, number)
    for number, split in enumerate(splits[:folds]):
        sides = ({group_of(case, group_by) for case in split[side]} for side in ("train", "val"))
        if both := set.intersection(*sides):
            raise GenesisError(
                f"{file}: fold {number} has {sorted(both)[0]!r} in training and in validation ({len(both)} such). Move "
                "the file away and run again with --group_by, so that folds are made by patient."
            )


def _contradiction(folder: Path, number: int) -> GenesisError:
    return GenesisError(
        f"{folder / SPLITS}: fold {number} isn't what {folder / SUBSETS} says; one of the two was replaced. Restore "
        "it, or move both (and the results filed under these numbers) away."
    )


def to_text(subsets: SubsetMap) -> str:
    """Write the map for people."""
    unit = "cases" if subsets.group_by is None else "patients"
    rows = [f"{number:>6}  {s.fold:>4}  {s.cases!s:>{len(unit)}}  {s.train:>15}" for number, s in subsets.folds.items()]
    return "\n".join([f"number  fold  {unit}  training images", *rows])
