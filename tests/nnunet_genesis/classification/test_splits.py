"""Folds: stratified, by patient, and for ever."""

import numpy as np
import pandas as pd

from nnunet_genesis.classification.splits import luna_folds, make_folds, with_unlabelled


def table(cases: int, of: int = 1) -> pd.DataFrame:
    numbers = np.arange(cases)
    return pd.DataFrame(
        {"case": [f"c{n}" for n in numbers], "label": np.where(numbers // of % 3, "b", "a"), "group": numbers // of}
    ).astype({"group": str})


def test_every_case_is_held_out_once_and_no_patient_is_divided():
    rows = table(60, of=2)
    folds = make_folds(rows, ["a", "b"])
    group = dict(zip(rows["case"], rows["group"], strict=True))
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(rows["case"])
    for fold in folds:
        assert not {group[c] for c in fold["train"]} & {group[c] for c in fold["val"]}
        assert sum(rows.set_index("case")["label"][fold["val"]] == "a") == 4


def test_fewer_folds_where_a_class_has_fewer_patients():
    assert len(make_folds(table(9), ["a", "b"])) == 3


def test_folds_stay_when_scans_are_added():
    before = make_folds(table(40), ["a", "b"])
    after = make_folds(table(60), ["a", "b"], before)
    for old, new in zip(before, after, strict=True):
        assert set(old["val"]) <= set(new["val"])
        assert set(old["train"]) <= set(new["train"])
        assert 3 <= len(set(new["val"]) - set(old["val"])) <= 5


def test_unlabelled_scans_are_trained_on_unless_their_patient_is_held_out():
    folds = make_folds(table(20), ["a", "b"])
    groups = {f"c{n}": str(n) for n in range(20)} | {"extra": "new", "again": "0"}
    for fold in with_unlabelled(folds, groups):
        assert "extra" in fold["train"]
        assert ("again" in fold["train"]) == ("c0" not in fold["val"])


def test_luna16s_own_folds():
    sources = {f"c{k}": f"luna/subset{k % 10}/{k}.mhd" for k in range(30)}
    folds = luna_folds(sources)
    assert len(folds) == 10
    assert folds[3]["val"] == ["c13", "c23", "c3"]
    assert luna_folds(sources | {"other": "more/other.mhd"}) is None


def test_luna16s_folds_keep_their_numbers_when_subsets_are_added():
    sources = {f"c{k}": f"luna/subset{k % 3}/{k}.mhd" for k in range(9)}
    first = luna_folds({case: source for case, source in sources.items() if "subset0" not in source})
    more = luna_folds(sources, first)
    assert [fold["val"] for fold in more] == [*(fold["val"] for fold in first), ["c0", "c3", "c6"]]
    stratified = make_folds(table(9), ["a", "b"])
    assert luna_folds(sources, stratified) is None  # of a first preparation of a single subset
