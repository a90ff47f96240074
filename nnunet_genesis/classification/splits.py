"""Folds for classification: stratified by class, patients never divided, and kept when scans are added."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

Split = dict[str, list[str]]
FOLDS, SEED = 5, 12345
_LUNA_SUBSET = re.compile(r"(?:^|/)subset(\d)/")


def make_folds(table: pd.DataFrame, classes: Sequence[str], earlier: Sequence[Split] = ()) -> list[Split]:
    """Divide the labelled cases into nnU-Net's five folds, fewer where a class has fewer patients.

    Args:
        table: columns case, label, group; of a case with candidates, the highest class counts.
        classes: in order.
        earlier: folds that are there; their patients stay where they are.
    """
    ranked = table.assign(rank=table["label"].map(list(classes).index))
    of_case = ranked.groupby("case").agg(rank=("rank", "max"), group=("group", "first"))
    group_of = of_case["group"].to_dict()
    fold_of = {group_of[case]: k for k, fold in enumerate(earlier) for case in fold["val"] if case in group_of}
    number = len(earlier) or min(FOLDS, int(table.groupby("label")["group"].nunique().min()))
    if not earlier:
        folds = StratifiedGroupKFold(number, shuffle=True, random_state=SEED)
        for k, (_, val) in enumerate(folds.split(of_case, of_case["rank"], of_case["group"])):
            fold_of |= dict.fromkeys(of_case["group"].iloc[val], k)
    # Each new patient goes to the fold with the fewest of its class.
    of_group = of_case.groupby("group")["rank"].max()
    counts = Counter((fold_of[group], rank) for group, rank in of_group.items() if group in fold_of)
    for group, rank in of_group.items():
        if group not in fold_of:
            fold_of[group] = min((counts[k, rank], k) for k in range(number))[1]
            counts[fold_of[group], rank] += 1
    return _as_splits({case: fold_of[group] for case, group in group_of.items()}, number)


def luna_folds(sources: Mapping[str, str], earlier: Sequence[Split] = ()) -> list[Split] | None:
    """LUNA16's own ten folds, where every scan's path (``sources``, by case) lies in ``subset0`` … ``subset9``.

    ``earlier`` folds keep their numbers; ``None`` where they weren't made so.
    """
    found = {case: _LUNA_SUBSET.search(source) for case, source in sources.items()}
    if not found or not all(found.values()):
        return None
    numbers = {case: int(match[1]) for case, match in found.items() if match}
    there = [{numbers[case] for case in fold["val"] if case in numbers} for fold in earlier]
    used = list(dict.fromkeys([*(number for subset in there for number in subset), *sorted(set(numbers.values()))]))
    if there != [{number} for number in used[: len(there)]]:
        return None
    return _as_splits({case: used.index(k) for case, k in numbers.items()}, len(used)) if len(used) > 1 else None


def with_unlabelled(splits: Sequence[Split], groups: Mapping[str, str]) -> list[Split]:
    """The folds of the labelled cases, with all others to be trained on by pretraining.

    ``groups`` has the patient of every case; whose labelled scans are held out isn't trained on.
    """
    labelled = {case for fold in splits for case in (*fold["train"], *fold["val"])}
    more = set(groups) - labelled
    held_out = [{groups[case] for case in fold["val"]} for fold in splits]
    return [
        {**fold, "train": sorted({*fold["train"], *(case for case in more if groups[case] not in out)})}
        for fold, out in zip(splits, held_out, strict=True)
    ]


def _as_splits(fold_of: Mapping[str, int], number: int) -> list[Split]:
    folds = [sorted(case for case, k in fold_of.items() if k == fold) for fold in range(number)]
    return [{"train": sorted(set(fold_of) - set(val)), "val": val} for val in folds]
