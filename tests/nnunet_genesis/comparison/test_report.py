"""The report: one self-contained page and one table, from results or from an export of them."""

import contextlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK

from nnunet_genesis.comparison import figures
from nnunet_genesis.comparison.report import write_report
from nnunet_genesis.comparison.runs import find_runs
from nnunet_genesis.comparison.subsets import SubsetMap
from nnunet_genesis.errors import GenesisError
from tests.nnunet_genesis.comparison.synthetic_results import GENESIS, SCRATCH, write_run

NAME = "Dataset801_Test"
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net folders with runs of two trainers, five cases, no images."""
    return make_results(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of those, not to be written to."""
    root = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        make_results(root, patch)
        write_report([NAME], root / "one", export=root / "export")
    return root / "export"


def make_results(root: Path, patch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        patch.setenv(variable, str(root / variable))
    write_seed(root / "nnUNet_results" / NAME, 0)
    return root / "nnUNet_results"


def write_seed(folder: Path, seed: int) -> None:
    """Two runs, Genesis ahead by 0.1, as trained with this seed."""
    dice = np.random.default_rng(seed).uniform(0.5, 0.8, (5, 2))
    for trainer, gain in ((SCRATCH, 0.0), (GENESIS, 0.1)):
        cases = {f"case{i}": (float(a + gain), float(b + gain)) for i, (a, b) in enumerate(dice)}
        write_run(folder, trainer, 0, cases, (0.1, 0.5))


def add_images(results: Path) -> None:
    """References of both classes; Scratch's prediction is one voxel off, Genesis' is perfect."""
    labels = np.zeros((6, 12, 12), np.uint8)
    labels[1:5, 3:9, 3:9], labels[2:4, 5:7, 5:7] = 1, 2
    raw = results.parent / "nnUNet_raw" / NAME
    for folder, array, suffix in [
        (raw / "labelsTr", labels, ""),
        (raw / "imagesTr", labels.astype(np.float32), "_0000"),
        (results / NAME / f"{SCRATCH}__nnUNetPlans__3d_fullres/fold_0/validation", np.roll(labels, 1, 1), ""),
        (results / NAME / f"{GENESIS}__nnUNetPlans__3d_fullres/fold_0/validation", labels, ""),
    ]:
        folder.mkdir(parents=True, exist_ok=True)
        for case in range(5):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(folder / f"case{case}{suffix}.nii.gz"))


def test_an_export_gives_the_same_table_without_images_and_paths(results, tmp_path):
    add_images(results)
    page = write_report(["801"], tmp_path / "one", export=tmp_path / "export", tolerance=0.5).read_text()
    assert page.count('class="overlay"') == 3
    again = write_report([], tmp_path / "two", results=tmp_path / "export", tolerance=0.5).read_text()
    assert 'class="overlay"' not in again
    assert (tmp_path / "one/report.csv").read_bytes() == (tmp_path / "two/report.csv").read_bytes()
    rows = pd.read_csv(tmp_path / "one/report.csv").set_index(["metric", "trainer", "class_name"])
    assert rows.loc["NSD", GENESIS, "organ"]["mean"] == 1
    assert 0 < rows.loc["NSD", SCRATCH, "organ"]["mean"] < 1
    assert rows.loc["Dice", GENESIS, "mean of classes"]["difference"] == pytest.approx(0.1)
    texts = [file.read_text() for file in (tmp_path / "export").rglob("*") if file.is_file()]
    assert not any("/data/" in text or "secret" in text for text in texts)
    names = sorted(file.name for file in (tmp_path / "export" / NAME).iterdir())
    assert names == ["cases.csv", "curves.csv", "protocol.json"]
    assert list(pd.read_csv(tmp_path / "export" / NAME / "cases.csv")) == ["run", "case", "class", "Dice", "NSD"]


@pytest.mark.parametrize("name", ["cases.csv", "curves.csv", "protocol.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "a,b\n1,2\n", '{"runs": 1}', "run,case,class,Dice,NSD\nx,y,z,1,1"])
def test_a_damaged_export_is_named(exported, tmp_path, name, content):
    shutil.copytree(exported, tmp_path / "export")
    (tmp_path / "export" / NAME / name).write_text(content)
    with pytest.raises(GenesisError, match=f"{name}.*(Restore|Check the path)"):
        write_report([], tmp_path / "two", results=tmp_path / "export")


def test_names_are_text_in_the_page(results, tmp_path):
    for file in (results / NAME).glob("*/dataset.json"):
        file.write_text(file.read_text().replace("organ", EVIL.replace("/", "\\/")))
    folder = results / NAME / f"nnUNetTrainer{EVIL.replace('/', '')}__nnUNetPlans__3d_fullres" / "fold_all/validation"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{}")
    page = write_report([NAME], tmp_path / "report").read_text()
    assert page.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_several_data_sets_in_one_report(results, tmp_path):
    write_run(results / "Dataset802_Other", SCRATCH, 0, {"a": (0.5, 0.5)})
    write_report(["801", "802"], tmp_path / "report")
    assert set(pd.read_csv(tmp_path / "report/report.csv")["dataset"]) == {NAME, "Dataset802_Other"}


def test_nsd_of_another_tolerance_is_not_taken(results, tmp_path):
    add_images(results)
    write_report([NAME], tmp_path / "one", export=tmp_path / "export")
    page = write_report([], tmp_path / "two", results=tmp_path / "export", tolerance=9).read_text()
    assert "No NSD: of 2 of 2 runs" in page
    assert "none is stored for a tolerance of 9 mm" in page
    assert "NSD" not in set(pd.read_csv(tmp_path / "two/report.csv")["metric"])


def test_a_tolerance_of_nothing_is_taken_at_its_word(results, tmp_path):
    add_images(results)
    write_report([NAME], tmp_path / "one", tolerance=0.0)
    rows = pd.read_csv(tmp_path / "one/report.csv").set_index(["metric", "trainer", "class_name"])
    assert set(rows["nsd_tolerance_mm"]) == {0}
    write_report([NAME], tmp_path / "two", tolerance=0.5)  # less than a voxel: the same
    same = pd.read_csv(tmp_path / "two/report.csv").set_index(["metric", "trainer", "class_name"])
    assert rows["mean"].equals(same["mean"])


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(results, tmp_path, tolerance):
    with pytest.raises(GenesisError, match=r"--nsd_tolerance .*: expected 0 or more"):
        write_report([NAME], tmp_path, tolerance=tolerance)


def test_nsd_is_of_all_runs_or_of_none(results, tmp_path):
    add_images(results)
    next((results / NAME).glob(f"{SCRATCH}__*/fold_0/validation/case3.nii.gz")).unlink()
    assert "No NSD: of 1 of 2 runs" in write_report([NAME], tmp_path / "one").read_text()
    assert set(pd.read_csv(tmp_path / "one/report.csv")["metric"]) == {"Dice"}


def test_further_folders_are_further_runs_of_the_same_arms(results, tmp_path):
    again = [results.parent / f"again {number}" for number in (1, 2)]
    for seed, folder in enumerate(again, 1):
        write_seed(folder / NAME, seed)
    page = write_report(["801"], tmp_path / "one", results=[results, *again], export=tmp_path / "export").read_text()
    row = pd.read_csv(tmp_path / "one/report.csv").set_index(["metric", "trainer", "class_name"])
    row = row.loc["Dice", GENESIS, "mean of classes"]
    assert (row["n_runs"], row["n"], row["difference_interval"]) == (3, 5, "runs")
    assert "Genesis is ahead of Scratch by 10.0 points of Dice with all training cases" in page
    write_report([], tmp_path / "two", results=tmp_path / "export")
    assert (tmp_path / "one/report.csv").read_bytes() == (tmp_path / "two/report.csv").read_bytes()
    protocol = tmp_path / "export" / NAME / "protocol.json"
    protocol.write_text(protocol.read_text().replace('"tumour"', '"other"'))
    with pytest.raises(GenesisError, match="--results: Dataset801_Test has labels"):
        write_report([], tmp_path / "three", results=[results, tmp_path / "export"])


def test_exports_of_several_trainings_stay_several(results, tmp_path):
    for number in range(4):
        write_seed(results.parent / f"seed {number}" / NAME, number)
    seeds = [results.parent / f"seed {number}" for number in range(4)]
    for number in (0, 2):
        write_report([], tmp_path / "one", seeds[number : number + 2], export=tmp_path / f"export {number}")
    write_report([], tmp_path / "all", seeds)
    write_report([], tmp_path / "two", [tmp_path / "export 0", tmp_path / "export 2"])
    assert (tmp_path / "all/report.csv").read_bytes() == (tmp_path / "two/report.csv").read_bytes()
    assert pd.read_csv(tmp_path / "two/report.csv")["n_runs"].max() == 4


def test_a_training_that_is_given_twice_is_refused(results, tmp_path):
    shutil.copytree(results, tmp_path / "copy")
    write_report([], tmp_path / "one", export=tmp_path / "export")
    for copy in ("copy", "export"):
        with pytest.raises(GenesisError, match="have the same Dice in every case and class"):
            write_report([], tmp_path / "two", [results, tmp_path / copy])


def test_runs_with_other_classes_are_refused(results, tmp_path):
    file = next((results / NAME).glob(f"{SCRATCH}__*/fold_0/validation/summary.json"))
    content = json.loads(file.read_text())
    for case in content["metric_per_case"]:
        del case["metrics"]["2"]
    file.write_text(json.dumps(content))
    with pytest.raises(GenesisError, match=r"Scratch__.* have Dice of other classes \(2\)"):
        write_report([NAME], tmp_path / "one")


def test_a_structure_that_one_arm_alone_finds_is_said(results, tmp_path):
    shutil.rmtree(results / NAME)
    for trainer, tumour in ((SCRATCH, float("nan")), (GENESIS, 0.0)):
        write_run(results / NAME, trainer, 0, {"a": (0.7, tumour), "b": (0.6, 0.5)})
    page = write_report([NAME], tmp_path / "one").read_text()
    assert "Genesis, all cases, tumour: 1 Dice have no partner and are in no difference." in page


def test_sizes_of_folds_that_the_map_does_not_know_are_not_averaged(results, tmp_path):
    write_seed(folder := results / "Dataset802_Other", 0)
    for trainer in (SCRATCH, GENESIS):
        write_run(folder, trainer, 1, {"f": (0.5, 0.5)})
    folds = {"0": {"fold": 0, "cases": "all", "seed": None, "train": 200}}
    (folder / "genesis_splits.json").write_text(json.dumps({"folds": folds, "group_by": None}))
    write_report(["802"], tmp_path / "one")
    assert set(pd.read_csv(tmp_path / "one/report.csv")["train"]) == {200}


def test_a_data_set_that_a_folder_lacks_is_said(results, tmp_path):
    write_seed(tmp_path / "other" / "Dataset802_Other", 1)
    page = write_report(["801"], tmp_path / "one", [results, tmp_path / "other"]).read_text()
    assert f"{tmp_path / 'other'} has no {NAME}: nothing from there." in page


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("plans.json", "{}", "plans.json: expected nnU-Net's plans with 3d_fullres"),
        ("plans.json", '{"configurations": {"3d_fullres": {}}}', "plans.json: .*spacing"),
        ("dataset.json", "{}", "dataset.json: expected nnU-Net's, with labels and file_ending"),
        ("fold_0/validation/genesis_nsd.json", "{}", ""),
        ("fold_0/validation/case3.nii.gz", "no image", r"case3.nii.gz.*can't be read .*Write the prediction anew"),
    ],
)
def test_damage_is_named_or_does_no_harm(results, tmp_path, name, content, expected):
    add_images(results)
    (results / NAME / f"{SCRATCH}__nnUNetPlans__3d_fullres" / name).write_text(content)
    with pytest.raises(GenesisError, match=expected) if expected else contextlib.nullcontext():
        write_report([NAME], tmp_path / "one")


def test_a_folder_and_a_file_for_the_report_are_not_mistaken(results, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.html").mkdir()
    for out in ("file", "folder.html"):
        with pytest.raises(GenesisError, match=f"-o .*{out}: expected a folder, or NAME.html for a file"):
            write_report([NAME], tmp_path / out)


def test_logs_of_an_abandoned_longer_run_count_no_more(results, tmp_path):
    folder = next((results / NAME).glob(f"{SCRATCH}__*/fold_0"))
    first = (folder / "training_log_2026_1_1_00_00_00.txt").read_text()
    second = "".join(f"t: Epoch {n} \nt: Pseudo dice [np.float32({0.1 * n})] \n" for n in range(1, 9))
    phases = "t: Phase 1 of 2, epochs 0 to 4: a\nt: Phase 2 of 2, epochs 5 to 9: b\n"
    (folder / "training_log_2025_1_1_00_00_00.txt").write_text(phases + first + second)
    found = {run.folder: run.logged() for run in find_runs(results / NAME, SubsetMap())[0]}[folder]
    assert found == ({0: 0.1, 1: 0.5}, {0: "a"})


def test_data_sets_without_a_validated_run_are_passed_over(results, tmp_path):
    (results / "Dataset701_ChestCT" / "nnUNetTrainerRestoration__nnUNetPlans__3d_fullres").mkdir(parents=True)
    assert "Dataset701" not in write_report([], tmp_path, results).read_text()


def test_a_class_that_is_nowhere_is_said(results, tmp_path):
    shutil.rmtree(results / NAME)
    write_run(results / NAME, SCRATCH, 0, {"case0": (float("nan"), float("nan"))})
    with pytest.raises(GenesisError, match=f"{NAME}: no class is in any validation case"):
        write_report([NAME], tmp_path)


def test_a_folder_twice_or_without_results_is_refused(results, tmp_path):
    with pytest.raises(GenesisError, match="given twice"):
        write_report(["801"], tmp_path, results=[results, results])
    with pytest.raises(GenesisError, match="nothing here: expected folders DatasetXXX_NAME"):
        write_report(["801"], tmp_path, results=[results, tmp_path / "nothing here"])


def test_phases_of_the_schedule_are_in_the_curves(results, tmp_path):
    for log in (results / NAME).glob(f"{GENESIS}__*/fold_0/training_log_*.txt"):
        log.write_text("2026-01-01 00:00:00.0: Phase 2 of 2, epochs 1 to 1: everything, poly \n" + log.read_text())
    write_report([NAME], tmp_path / "one", export=tmp_path / "export")
    assert "everything, poly" in (tmp_path / "one" / f"{NAME}_training_curves.svg").read_text()
    write_report([], tmp_path / "two", results=tmp_path / "export")
    files = [tmp_path / name / f"{NAME}_training_curves.svg" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


class Structure(HTMLParser):
    """Follows the open tags and their classes, and notes what is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img" and not given.get("alt"):
            self.wrong.append("an image without alt")
        if tag == "table" and ("div", "box") not in self.open:
            self.wrong.append("a table outside of its box")
        if tag == "input" and ("label", "") not in self.open:
            self.wrong.append("an input without a label")
        if tag not in {"meta", "link", "img", "input", "br"}:
            self.open.append((tag, given.get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        if self.open.pop()[0] != tag:
            self.wrong.append(f"</{tag}> too early")


def test_the_page_is_sound_self_contained_and_always_the_same(results, tmp_path):
    add_images(results)
    page = write_report([NAME], tmp_path / "one").read_text()
    assert page == write_report([NAME], tmp_path / "again").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "http://" not in page
    assert "https://" not in page
    structure = Structure()
    structure.feed(page)
    assert structure.wrong == []
    assert structure.open == []
    assert page.count("<th ") == page.count('<button type="button">')
    assert '<html lang="en">' in page
    assert len(page) < 5e6


def luminance(colour: str) -> float:
    """Relative, after WCAG 2.2."""
    parts = np.frombuffer(bytes.fromhex(colour.lstrip("#")), np.uint8) / 255
    return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


def test_text_and_figures_have_contrast_on_light_and_dark_pages():
    style = (Path(figures.__file__).parent / "page.css").read_text()
    for theme in (dict(re.findall(r"--(\w+): (#\w+)", part)) for part in style.split("@media")[:2]):
        texts = [(theme[name], 4.5) for name in ("ink", "faint", "link")]
        for colour, least in texts + [(colour, 3.0) for colour in figures.COLOURS]:
            light, dark = sorted((luminance(theme["page"]), luminance(colour)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, colour


def test_the_page_can_be_had_alone_and_then_has_no_image_of_a_scan(results, tmp_path):
    add_images(results)
    file = write_report([NAME], tmp_path / "alone" / "page.html")
    assert list((tmp_path / "alone").iterdir()) == [file]
    page = file.read_text()
    assert "<image" not in page


def test_without_results_it_says_what_to_do(results, tmp_path):
    (results / "Dataset803_Empty").mkdir()
    with pytest.raises(GenesisError, match=r"Dataset803_Empty: expected .*summary.json, found none\. Train first"):
        write_report(["803"], tmp_path / "report")
    with pytest.raises(GenesisError, match="expected folders DatasetXXX_NAME"):
        write_report([], tmp_path / "report", results=tmp_path / "export")
    with pytest.raises(GenesisError, match="-d 899"):
        write_report(["899"], tmp_path / "report")
