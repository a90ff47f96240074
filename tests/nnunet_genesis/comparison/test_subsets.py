"""Label subsets: nested, idempotent, validation untouched, by patient where asked; nothing is ever destroyed."""

import json
from pathlib import Path

import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_genesis.comparison.subsets import ALL, Subset, add_subsets, read_map, to_text
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import SPLITS, SUBSETS

PATIENT = r"p\d+"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A preprocessed data set of 12 patients with two images each, without splits."""
    (tmp_path / "gt_segmentations").mkdir()
    (tmp_path / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    for patient in range(12):
        for frame in (1, 2):
            (tmp_path / "gt_segmentations" / f"p{patient:02d}_f{frame}.nii.gz").touch()
    return tmp_path


def splits(folder: Path) -> list[dict[str, list[str]]]:
    return json.loads((folder / SPLITS).read_text())


def number(folder: Path, fold: int, cases: int, seed: int = 0) -> int:
    found = read_map(folder / SUBSETS).folds
    return next(n for n, s in found.items() if (s.fold, s.cases, s.seed) == (fold, cases, seed))


def test_the_folds_are_nnunets_own(folder):
    add_subsets(folder, [ALL])
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (folder / "gt_segmentations").iterdir())
    assert splits(folder) == generate_crossval_split(cases, seed=12345, n_splits=5)


def test_folds_of_labels_have_no_subsets(folder):
    (folder / "genesis_labels.csv").touch()
    with pytest.raises(GenesisError, match=r"its folds are of its labels \(genesis_labels.csv\)"):
        add_subsets(folder, [ALL])


def test_few_cases_are_left_out_one_by_one(folder):
    for file in sorted((folder / "gt_segmentations").iterdir())[3:]:
        file.unlink()
    add_subsets(folder, ["all"], folds=3)
    found = json.loads((folder / "splits_final.json").read_text())
    assert sorted(case for split in found for case in split["val"]) == ["p00_f1", "p00_f2", "p01_f1"]
    assert all(len(split["train"]) == 2 for split in found)


def test_subsets_are_nested_and_validation_is_the_folds(folder):
    found = add_subsets(folder, [2, 8, 4, ALL])
    assert [found.folds[n] for n in (0, 5, 7)] == [Subset(0, ALL, None, 19), Subset(0, 2, 0, 2), Subset(0, 8, 0, 8)]
    content = splits(folder)
    for fold in range(5):
        two, four, eight = (set(content[number(folder, fold, size)]["train"]) for size in (2, 4, 8))
        assert two < four < eight < set(content[fold]["train"])
        assert all(content[number(folder, fold, size)]["val"] == content[fold]["val"] for size in (2, 4, 8))


def test_running_again_changes_nothing_and_more_sizes_are_appended(folder):
    add_subsets(folder, [2, 4])
    before, files = splits(folder), {name: (folder / name).read_bytes() for name in (SPLITS, SUBSETS)}
    add_subsets(folder, [4, 2])
    assert {name: (folder / name).read_bytes() for name in files} == files
    add_subsets(folder, [3], seed=1)
    assert splits(folder)[: len(before)] == before
    assert number(folder, 0, 3, seed=1) == len(before)


def test_an_own_split_keeps_its_numbers(folder):
    own = [{"train": ["p01_f1", "p02_f1", "p03_f1"], "val": ["p04_f1"]}, {"train": ["p04_f1"], "val": ["p01_f1"]}]
    (folder / SPLITS).write_text(json.dumps(own))
    add_subsets(folder, [1], folds=1)
    assert splits(folder)[:2] == own
    assert number(folder, 0, 1) == 2


def test_a_run_killed_between_the_two_files_is_mended(folder):
    add_subsets(folder, [2, 4])
    files = {name: (folder / name).read_bytes() for name in (SPLITS, SUBSETS)}
    (folder / SUBSETS).unlink()
    add_subsets(folder, [2, 4])
    assert {name: (folder / name).read_bytes() for name in files} == files


def test_patients_stay_together(folder):
    found = add_subsets(folder, [2, 4], group_by=PATIENT)
    assert found.folds[number(folder, 0, 4)].train == 8
    for split in splits(folder):
        assert not {case[:3] for case in split["train"]} & {case[:3] for case in split["val"]}
    assert "patients" in to_text(found)


@pytest.mark.parametrize(
    ("sizes", "kwargs", "message"),
    [
        ([19], {}, r"--cases 19: fold 0 has 19 training case\(s\); expected 1 to 18, or 'all'"),
        ([0], {}, r"--cases 0"),
        ([9], {"group_by": PATIENT}, r"fold 0 has 9 training patient\(s\)"),
        ([1], {"folds": 6}, r"--folds 6: .*has 5 folds"),
        ([1], {"group_by": "q"}, r"doesn't match case 'p00_f1'"),
        ([1], {"group_by": "("}, r"expected a regular expression"),
        ([1], {"seed": -1}, r"--seed -1"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(folder, sizes, kwargs, message):
    with pytest.raises(GenesisError, match=message):
        add_subsets(folder, sizes, **kwargs)
    assert not (folder / SPLITS).exists()


def test_folds_that_divide_a_patient_are_refused_and_kept(folder):
    add_subsets(folder, [ALL])
    (folder / SUBSETS).unlink()
    before = (folder / SPLITS).read_bytes()
    with pytest.raises(GenesisError, match="in training and in validation"):
        add_subsets(folder, [2], group_by=PATIENT)
    assert (folder / SPLITS).read_bytes() == before


def test_a_replaced_split_is_noticed(folder):
    add_subsets(folder, [2])
    (folder / SPLITS).write_text(json.dumps(splits(folder)[:5]))
    with pytest.raises(GenesisError, match="fold 5 isn't what"):
        add_subsets(folder, [2])


def test_another_grouping_is_refused(folder):
    add_subsets(folder, [2], group_by=PATIENT)
    with pytest.raises(GenesisError, match="was made with --group_by"):
        add_subsets(folder, [2])


@pytest.mark.parametrize("content", ["{", "[1]", '{"folds": {"5": {}}, "group_by": null}'])
def test_damaged_files_are_named(folder, content):
    for name in (SPLITS, SUBSETS):
        (folder / name).write_text(content)
        with pytest.raises(GenesisError, match=name):
            add_subsets(folder, [2])
        (folder / name).unlink()
