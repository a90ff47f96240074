"""The held-out set: patients stay together, and where they are."""

import json
from dataclasses import replace

import pytest

from nnunet_genesis.errors import GenesisError
from pretraining.preparation.manifest import Row, read, update, write_split
from pretraining.scans.scan import LeftOut


def test_patients_are_not_divided_and_stay_where_they_are(tmp_path):
    rows = [Row(f"{i}", f"case_{i}", "prepared", group=f"patient_{i // 3}") for i in range(12)]
    assert write_split(tmp_path, rows, 0.25) == (9, 3)
    (fold,) = json.loads((tmp_path / "splits_final.json").read_text())
    assert len({int(case.removeprefix("case_")) // 3 for case in fold["val"]}) == 1
    more = [Row("x", "x", "prepared", group="new"), Row("y", "y", "prepared", group="new"), Row("z", "z")]
    assert write_split(tmp_path, rows + more, 0.9) == (11, 3)
    (again,) = json.loads((tmp_path / "splits_final.json").read_text())
    assert again == {"train": sorted([*fold["train"], "x", "y"]), "val": fold["val"]}


@pytest.mark.parametrize(("cases", "fraction"), [(3, 0.5), (12, 0.0), (1, 0.1)])
def test_single_patient_or_no_fraction_validates_on_the_training_cases(tmp_path, cases, fraction):
    rows = [Row(f"{i}", f"case_{i}", "prepared", group=f"patient_{i // 3}") for i in range(cases)]
    assert write_split(tmp_path, rows, fraction) == (cases, 0)
    (fold,) = json.loads((tmp_path / "splits_final.json").read_text())
    assert fold["train"] == fold["val"] == sorted(row.case for row in rows)
    more = [Row(f"x{i}", f"x{i}", "prepared", group=f"x{i}") for i in range(10)]
    assert write_split(tmp_path, [*rows, *more], 0.0) == (cases + 10, 0)
    training, validation = write_split(tmp_path, [*rows, *more], 0.2)
    assert validation < training
    assert training + validation == cases + 10


def test_rows_of_what_is_left_out_stay_until_more_is_known(tmp_path):
    series, scouts = Row("P1", "dicom_1", "prepared"), LeftOut("P1", "3 files: localizer (scout) images")
    twice = [LeftOut("bad.nii.gz", "truncated")] * 2  # of two roots
    update(tmp_path, [series], [scouts, *twice])
    update(tmp_path, [Row("P2", "dicom_2", "prepared")], [])
    rows = [(row.source, row.status) for row in read(tmp_path)]
    left_out = [("P1", "left out"), *[("bad.nii.gz", "left out")] * 2]
    assert sorted(rows) == sorted([("P1", "prepared"), ("P2", "prepared"), *left_out])
    update(tmp_path, [series, Row("bad.nii.gz", "bad", "prepared")], [scouts])
    rows = [(row.source, row.status) for row in read(tmp_path)]
    assert ("bad.nii.gz", "left out") not in rows
    assert rows.count(("P1", "left out")) == 1


def test_a_patient_who_is_told_later_moves_no_case_that_was_trained_on(tmp_path):
    rows = [Row(f"{n}.nii.gz", f"case{n}", "prepared", group=f"case{n}") for n in range(8)]
    write_split(tmp_path, rows, 0.25)
    before = json.loads((tmp_path / "splits_final.json").read_text())[0]
    together = [replace(row, group=f"patient{n // 2}") for n, row in enumerate(rows)]
    held_out = before["val"][0]
    new = Row("new.nii.gz", "new", "prepared", group=next(row.group for row in together if row.case == held_out))
    write_split(tmp_path, [*together, new], 0.25)
    assert json.loads((tmp_path / "splits_final.json").read_text())[0] == {
        "train": before["train"],
        "val": sorted([*before["val"], "new"]),
    }


def test_manifest_that_a_spreadsheet_has_written(tmp_path):
    rows = [Row("ä.nii.gz", "a_1", "prepared", group="g", remark="x"), Row("b.nii.gz", reason="bad")]
    text = "source,case,status,reason,mine,group,remark\nä.nii.gz,a_1,prepared,,1,g,x,\nb.nii.gz,,left out,bad,,,\n"
    (tmp_path / "genesis_manifest.csv").write_text(text, encoding="utf-8-sig")
    assert read(tmp_path) == rows


@pytest.mark.parametrize(
    "content",
    [b"source;case;status\na.nii.gz;a_1;prepared", b"case,status\na_1,prepared", b"source,case\n\xe4,a_1", b""],
)
def test_manifest_that_can_not_be_read_is_named(tmp_path, content):
    (tmp_path / "genesis_manifest.csv").write_bytes(content)
    with pytest.raises(GenesisError, match=r"genesis_manifest.csv: expected .* source and case .* 'CSV UTF-8'"):
        read(tmp_path)
