"""Wrong label files: each is one message that names the file, what is wrong, and where."""

from pathlib import Path

import pytest

from nnunet_genesis.classification.labels import classes_of, match, read_labels
from nnunet_genesis.errors import GenesisError

SCANS = {f"scan{k}": {f"scan{k}.nii.gz"} for k in range(15)}
GOOD = "case,label\nscan0,a\nscan1,b\nscan2,a\nscan3,b\n"
WRONG = {
    "empty": ("", "found an empty file"),
    "header only": ("case,label\n", "found a header only"),
    "no header": ("scan0,a\nscan1,b\n", "expected the columns case, label, missing case, label; found scan0, a"),
    "no label": ("case,kind\nscan0,a\n", "missing label; found case, kind"),
    "misspelt column": ("case,labell\nscan0,a\n", "several columns|did you mean 'label'"),
    "misspelt group": ("case,label,groups\nscan0,a,p\n", "column 'groups': did you mean 'group'?"),
    "doubled column": ("case,label,label\nscan0,a,b\n", "column 'label' is there twice"),
    "semicolons": ("case;label\nscan0;a\n", "expected columns divided by commas"),
    "too many values": (GOOD + "scan4,a,b\n", "line 6: expected 2 values, as the header has, found 3"),
    "too few values": (GOOD + "scan4\n", "line 6: expected 2 values, as the header has, found 1"),
    "no case": (GOOD + ",a\n", "no case in line 6"),
    "no label in a row": (GOOD + "scan4,\n", "no label in line 6"),
    "no group in a row": ("case,label,group\nscan0,a,p\nscan1,b,\n", "no group in line 3"),
    "doubled case": (GOOD + "scan0,b\n", "the same case more than once, in line 2, 6"),
    "one scan by two names": (GOOD + "scan0.nii.gz,a\n", "the same case more than once, in line 2, 6"),
    "one class": ("case,label\nscan0,a\nscan1,a\n", "expected two classes or more, found 'a'"),
    "class with one case": (GOOD + "scan4,c\n", "class 'c' has a single case or patient"),
    "class with one patient": (
        "case,label,group\nscan0,a,p\nscan1,a,p\nscan2,b,q\nscan3,b,r\n", "class 'a' has a single case or patient"),
    "spelling": (GOOD + "scan4,A \nscan5,A\n", "classes 'A', 'a' differ in nothing but their spelling"),
    "1 and 1.0": ("case,label\nscan0,1\nscan1,1.0\nscan2,0\nscan3,0\n", "classes '1', '1.0' differ"),
    "several labels": (GOOD + "scan4,a|b\n", "several labels in line 6: multi-label isn't supported"),
    "several label columns": ("case,label_1,label_2\nscan0,0,1\n", "several columns of labels: multi-label"),
    "task": ("case,label,task\nscan0,0,regression\n", "task 'regression': only classification is supported"),
    "regression": (
        "case,label\n" + "".join(f"scan{k},{k / 7}\n" for k in range(15)), "15 different numbers as labels"),
    "candidates": ("case,x,y,z,label\nscan0,1,2,3,0\n", "names candidates .* give it with --candidates"),
    "no such scans": ("case,label\nother0,a\nother1,b\n", "no scan is called as its rows are. Rows: other0, other1"),
}  # fmt: skip


def read(tmp_path: Path, text: str, candidates: bool | None = False):
    file = tmp_path / "labels.csv"
    file.write_text(text)
    table, missing = match(read_labels(file, candidates), SCANS, file)
    return table, missing, classes_of(table, file)


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_one_message(tmp_path, kind):
    text, message = WRONG[kind]
    with pytest.raises(GenesisError, match=message) as error:
        read(tmp_path, text)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,x,y,label\nscan0,1,2,0\n", "missing z"),
        ("case,label\nscan0,0\n", "expected the columns case, x, y, z, label, missing x, y, z"),
        ("case,x,y,z,label\nscan0,1,2,3mm,0\n", "coordinates that aren't finite numbers in line 2"),
        ("case,x,y,z,label\nscan0,1,2,nan,0\n", "coordinates that aren't finite numbers in line 2"),
        ("case,x,y,z,label\nscan0,1,2,3,0\nscan0,1,2,3,1\n", "the same place more than once, in line 2, 3"),
        ("case,x,y,z,label,group\nscan0,1,2,3,0,p\nscan0,1,2,4,1,q\n", "case scan0 is in several groups"),
    ],
)
def test_wrong_candidates_are_one_message(tmp_path, text, message):
    with pytest.raises(GenesisError, match=message):
        read(tmp_path, text, candidates=True)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04\xff\xfe\x80", "case,label\nscan0,ä\n".encode("utf-16"), b'case,"label']
)
def test_what_is_no_csv_says_so(tmp_path, content):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(GenesisError, match=r"expected CSV in UTF-8|missing|found a header only"):
        read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize("name", ["no such file.csv", "."])
def test_no_file(tmp_path, name):
    with pytest.raises(GenesisError, match=r"no such file|found a folder"):
        read_labels(tmp_path / name)


def test_names_of_two_scans_are_not_guessed(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("case,label\nscan.nii.gz,a\n")
    with pytest.raises(GenesisError, match=r"'scan.nii.gz' means 2 scans: one, two"):
        match(read_labels(file), {"one": {"scan.nii.gz"}, "two": {"scan.nii.gz"}}, file)


def test_labels_without_a_scan_are_named(tmp_path):
    table, missing, classes = read(tmp_path, "\ufeff" + GOOD + "\nscan99,a\n")
    assert missing == ["scan99"]
    assert list(table["case"]) == ["scan0", "scan1", "scan2", "scan3"]
    assert classes == ["a", "b"]


def test_numbers_are_in_order_and_luna16s_columns_are_known(tmp_path):
    rows = "".join(f"scan{k % 5}.nii.gz,{k},{-k},2.5,{10 if k % 2 else 9}\n" for k in range(20))
    table, _, classes = read(tmp_path, "seriesuid,coordX,coordY,coordZ,class\n" + rows, candidates=True)
    assert classes == ["9", "10"]
    assert table[["x", "y", "z"]].to_numpy()[3].tolist() == [3, -3, 2.5]
    assert set(table["case"]) == {f"scan{k}" for k in range(5)}
