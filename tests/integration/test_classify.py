"""From raw scans and a label file to a CSV of probabilities, by the commands' own functions."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import torch
from nnunetv2.run.run_training import run_training

from nnunet_genesis import checkpoint, importers
from nnunet_genesis.cli import trainers_folder
from nnunet_genesis.errors import GenesisError
from pretraining.classification import commands, models
from pretraining.classification.classify import classify, load_folds
from pretraining.classification.features import extract, load
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.run import pretrain
from tests.integration.tiny_world import SHAPE, make_case, shrink

CPU = torch.device("cpu")
SCRATCH = "nnUNetTrainerGenesisClassifierScratch"
CASES = 8
BALL = (12, 16, 16)  # z, y, x


def write_scan(index: int, file: Path) -> np.ndarray:
    """A scan of odd spacing and place, with a bright ball; where the ball is, x, y, z in mm."""
    image, _ = make_case(index)
    image[0, 11:14, 15:18, 15:18] += 400
    scan = SimpleITK.GetImageFromArray(image[0])
    scan.SetSpacing((0.9, 1.1, 1.2))
    scan.SetOrigin((-50, 20, 300 + index))
    scan.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(scan, str(file))
    return np.array(scan.TransformIndexToPhysicalPoint(BALL[::-1]))


def prepare(options: PrepareOptions, preprocessed: Path) -> list:
    left_out = prepare_dataset(options)
    file = preprocessed / options.dataset_name / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    shrink(plans["configurations"]["3d_fullres"])
    file.write_text(json.dumps(plans))
    return left_out


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """831: labelled scans; 832: candidates in LUNA16's columns; a training of each, and pretrained weights."""
    folder = tmp_path_factory.mktemp("raw scans")
    labels, candidates = ["case,label,group"], ["seriesuid,coordX,coordY,coordZ,class"]
    for index in range(CASES):
        ball = write_scan(index, folder / "scans" / f"1.2.{index}.mha")
        step = np.array([8, 0, 0])
        labels.append(f"1.2.{index}.mha,{'odd' if index % 2 else 'even'},p{index}")
        candidates += [f"1.2.{index},{','.join(map(str, ball + k * step))},{int(k == 0)}" for k in (-1, 0, 1)]
    (folder / "labels.csv").write_text("\n".join([*labels[:-1], "1.2.99,odd,p99"]))
    (folder / "candidates.csv").write_text("\n".join([*candidates, "1.2.0,0,0,9000,0"]))
    inputs, preprocessed = (folder / "scans",), nnunet_folders["nnUNet_preprocessed"]
    left = {
        "labels": prepare(PrepareOptions(inputs, 831, "Scans", labels=folder / "labels.csv"), preprocessed),
        "candidates": prepare(
            PrepareOptions(inputs, 832, "Places", candidates=folder / "candidates.csv"), preprocessed
        ),
    }
    settings = {"nnUNet_genesis_epochs": "1", "nnUNet_genesis_iterations": "2", "nnUNet_genesis_seed": "1",
                "nnUNet_extTrainer": str(trainers_folder())}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        for dataset in ("831", "832"):
            run_training(dataset, "3d_fullres", 0, SCRATCH, device=CPU)
    weights = pretrain("831", "3d_fullres", device=CPU, epochs=1, iterations=1)
    return nnunet_folders | {"folder": folder, "weights": weights, "left": left}


def test_labels_are_matched_and_folds_are_stratified(world):
    base = world["nnUNet_preprocessed"] / "Dataset831_Scans"
    table = pd.read_csv(base / "genesis_labels.csv")
    assert table["label"].value_counts().to_dict() == {"even": 4, "odd": 3}
    splits = json.loads((base / "splits_final.json").read_text())
    assert len(splits) == 3
    unlabelled = {path.stem for path in (base / "nnUNetPlans_3d_fullres").glob("*.pkl")} - set(table["case"])
    assert len(unlabelled) == 1
    assert all(unlabelled <= set(fold["train"]) for fold in splits)
    assert [(item.source, item.reason) for item in world["left"]["labels"]] == [
        ("labels.csv: 1.2.99", "a label without a scan")
    ]


def test_another_run_keeps_labels_and_folds(world):
    base = world["nnUNet_preprocessed"] / "Dataset831_Scans"
    before = (base / "splits_final.json").read_text(), (base / "genesis_labels.csv").read_text()
    prepare_dataset(PrepareOptions((world["folder"] / "scans",), 831, "Scans"))
    assert before == ((base / "splits_final.json").read_text(), (base / "genesis_labels.csv").read_text())


def test_candidates_outside_their_scan_are_named(world):
    (item,) = world["left"]["candidates"]
    assert item.source == f"candidates.csv, line {3 * CASES + 2}"
    assert "outside its scan" in item.reason
    assert len(pd.read_csv(world["nnUNet_preprocessed"] / "Dataset832_Places" / "genesis_labels.csv")) == 3 * CASES


def test_the_trained_patches_have_the_ball_in_their_middle(world):
    from nnunetv2.run.run_training import get_trainer_from_args

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", str(trainers_folder()))
        trainer = get_trainer_from_args("832", "3d_fullres", 0, SCRATCH, device=CPU)
    trainer.initialize()
    _, validation = trainer._batches(0)
    batch = validation(0)
    middle = tuple(length // 2 for length in batch["data"].shape[2:])
    around = batch["data"][
        :, 0, middle[0] - 1 : middle[0] + 2, middle[1] - 1 : middle[1] + 2, middle[2] - 1 : middle[2] + 2
    ]
    assert ((around.flatten(1).mean(1) > 3) == (batch["target"] == 1)).all()


def status(command: Callable[[], None], *arguments: object) -> Any:
    """What a command ends with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            command()
    return end.value.code


def arguments_of(world: dict[str, Path], command: Callable[[], None], out: Path, device: str = "cpu") -> list[object]:
    """What a command needs to write a row for each of the scans."""
    model = ["-d", "831", "-c", "3d_fullres", "-f", "0", "-tr", SCRATCH]
    model = model if command is commands.classify else [world["weights"]]
    return [*model, "-o", out, "-device", device, "-i", world["folder"] / "scans"]


def test_classify_writes_a_row_a_scan_and_a_column_a_class(world, tmp_path):
    out = tmp_path / "predictions.csv"
    assert status(commands.classify, *arguments_of(world, commands.classify, out)) == 0
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    found = pd.read_csv(out)
    assert list(found.columns) == ["case", "even", "odd"]
    assert sorted(found["case"]) == [f"1.2.{index}" for index in range(CASES)]
    np.testing.assert_allclose(found["even"] + found["odd"], 1, atol=1e-4)
    results = world["nnUNet_results"] / "Dataset831_Scans" / f"{SCRATCH}__nnUNetPlans__3d_fullres"
    validated = pd.read_csv(results / "fold_0" / "validation" / "classification.csv")
    ours = found.set_index("case")["odd"].to_dict()
    for _, row in validated.iterrows():  # from files and from preprocessed images
        np.testing.assert_allclose(ours[row["case"].rsplit("_", 1)[0].replace("-", ".")], row["p:odd"], atol=2e-3)


def test_candidates_get_luna16s_columns(world, tmp_path):
    models = load_folds("832", "3d_fullres", "nnUNetPlans", [0], SCRATCH, CPU)
    scans, file = world["folder"] / "scans", world["folder"] / "candidates.csv"
    left_out = classify([scans], tmp_path / "scores.csv", models, CPU, file)
    found = pd.read_csv(tmp_path / "scores.csv")
    assert list(found.columns) == ["seriesuid", "coordX", "coordY", "coordZ", "probability"]
    given = pd.read_csv(file).iloc[:-1]
    merged = given.merge(found, on=["seriesuid", "coordX", "coordY", "coordZ"])
    assert len(merged) == len(given) == len(found)
    assert [item.reason for item in left_out] == ["a candidate outside its scan"]
    with pytest.raises(GenesisError, match="trained with candidates: give --candidates FILE"):
        classify([scans], tmp_path / "scores.csv", models, CPU)


def test_what_is_no_classifier_says_so(world, tmp_path):
    with pytest.raises(GenesisError, match=r"checkpoint_final.pth: no such file"):
        load_folds("831", "3d_fullres", "nnUNetPlans", [4], SCRATCH, CPU)


@pytest.mark.parametrize("name", ["features.csv", "features.npz"])
def test_features_of_pretrained_weights_and_of_a_trained_model(world, tmp_path, name):
    inputs = [world["folder"] / "scans"]
    model = load(world["weights"], "0", CPU)
    assert extract(inputs, tmp_path / name, model, CPU, [0, 2], world["folder"] / "labels.csv") == []
    assert (tmp_path / "features.png").is_file()
    results = world["nnUNet_results"] / "Dataset831_Scans" / f"{SCRATCH}__nnUNetPlans__3d_fullres"
    extract(inputs, tmp_path / "trained.csv", load(results, "0", CPU), CPU)
    assert pd.read_csv(tmp_path / "trained.csv").shape == (CASES, 1 + 12)
    if name.endswith("npz"):
        stored = np.load(tmp_path / name)
        assert stored["features"].shape == (CASES, 4 + 12)
    else:
        assert list(pd.read_csv(tmp_path / name).columns[:2]) == ["case", "stage0_0"]


def test_wrong_options_of_features(world, tmp_path):
    model = load(world["weights"], "0", CPU)
    for out, stages, message in (("f.csv", [7], "stages 0 to 2"), ("f.txt", None, r"expected NAME.csv or NAME.npz")):
        with pytest.raises(GenesisError, match=message):
            extract([world["folder"]], tmp_path / out, model, CPU, stages)


def test_a_region_model_needs_masks(world, tmp_path):
    models = load_folds("831", "3d_fullres", "nnUNetPlans", [0], SCRATCH, CPU)
    for model in models:
        model.record["regions"] = True
    scans, masks = world["folder"] / "scans", tmp_path / "masks"
    with pytest.raises(GenesisError, match="trained with masks: give --masks FOLDER"):
        classify([scans], tmp_path / "p.csv", models, CPU)
    mask = SimpleITK.ReadImage(str(scans / "1.2.0.mha")) > 300
    masks.mkdir()
    SimpleITK.WriteImage(mask, str(masks / "1.2.0.nii.gz"))
    left_out = classify([scans], tmp_path / "p.csv", models, CPU, masks=masks)
    assert len(left_out) == CASES - 1
    assert len(pd.read_csv(tmp_path / "p.csv")) == 1
    assert SHAPE == (24, 32, 32)


def test_a_mask_counts_where_its_header_says_that_it_lies(world, tmp_path):
    model = load(world["weights"], "0", CPU)
    scans, left_out = model.find_scans([world["folder"] / "scans" / "1.2.0.mha"])
    mask = SimpleITK.ReadImage(str(world["folder"] / "scans" / "1.2.0.mha")) > 300
    moved = SimpleITK.Image(mask)
    moved.SetOrigin((500, 500, 500))
    found = {}
    for name, image in {"same": mask, "flipped": SimpleITK.Flip(mask, (False, True, False)), "cut": mask[5:-5, 2:, 1:],
                        "moved": moved}.items():  # fmt: skip
        (tmp_path / name).mkdir()
        SimpleITK.WriteImage(image, str(tmp_path / name / "1.2.0.nii.gz"))
        for reader in ("SimpleITKIO", "NibabelIOWithReorient"):
            model.plans["image_reader_writer"] = reader
            masks = models.find_masks(tmp_path / name, scans)
            rows = list(model.outputs(scans, [(model.network.features, ())], CPU, left_out, masks=masks))
            found[name, reader] = [outputs for _, _, (outputs,) in rows]
    for reader in ("SimpleITKIO", "NibabelIOWithReorient"):
        for name in ("flipped", "cut"):
            torch.testing.assert_close(found[name, reader], found["same", reader], rtol=0, atol=0)
        assert found["moved", reader] == []
    assert [item.reason for item in left_out] == [
        "no voxel of its mask lies in the scan: their origins, spacings or directions differ"
    ] * 2


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIOWithReorient"])
def test_a_scan_thinner_than_a_planned_voxel_loses_no_other(world, tmp_path, reader):
    shutil.copytree(world["folder"] / "scans", tmp_path / "scans")
    thin = SimpleITK.ReadImage(str(tmp_path / "scans" / "1.2.0.mha"))[:, :, 11:13]
    thin.SetSpacing((0.9, 1.1, 0.2))
    SimpleITK.WriteImage(thin, str(tmp_path / "scans" / "thin.mha"))
    model = load(world["weights"], "0", CPU)
    model.plans["image_reader_writer"] = reader
    (left_out,) = extract([tmp_path / "scans"], tmp_path / "f.csv", model, CPU)
    assert (left_out.source, left_out.trace) == ("thin.mha", "")
    assert "smaller than two voxels along an axis" in left_out.reason
    assert len(pd.read_csv(tmp_path / "f.csv")) == CASES


@pytest.mark.parametrize("command", [commands.classify, commands.features])
def test_an_error_of_our_own_is_logged_and_loses_no_other_scan(world, tmp_path, monkeypatch, capsys, command):
    starts_of, calls = models.starts_of, []

    def fail(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise TypeError("unsupported operand")
        return starts_of(*arguments)

    monkeypatch.setattr(models, "starts_of", fail)
    assert status(command, *arguments_of(world, command, tmp_path / "rows.csv")) == 1
    assert len(pd.read_csv(tmp_path / "rows.csv")) == CASES - 1
    assert "TypeError: unsupported operand" in (tmp_path / "genesis_errors.log").read_text()
    assert "left out: 1.2.2.mha: internal error (TypeError), see genesis_errors.log" in capsys.readouterr().out


@pytest.mark.parametrize("command", [commands.classify, commands.features])
def test_rows_of_an_interrupted_run_are_kept(world, tmp_path, monkeypatch, capsys, command):
    outputs, out = models.Model.outputs, tmp_path / "rows.csv"
    out.write_text("of an earlier run")

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for number, found in enumerate(outputs(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(models.Model, "outputs", interrupted)
    assert status(command, *arguments_of(world, command, out)) == 130
    assert out.read_text() == "of an earlier run"
    assert list(pd.read_csv(tmp_path / "rows.partial.csv")["case"]) == ["1.2.0", "1.2.1", "1.2.2"]
    said = capsys.readouterr().out
    assert f"{tmp_path / 'rows.partial.csv'} has the rows that are finished; the same command begins anew" in said
    assert "go on" not in said


@pytest.mark.parametrize("command", [commands.classify, commands.features])
def test_what_can_not_work_is_refused_at_once(world, tmp_path, monkeypatch, command):
    monkeypatch.setattr(models.Model, "find_scans", lambda *_: pytest.fail("work has begun"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (tmp_path / "folder.csv").mkdir()
    for out, device, message in (
        ("folder.csv", "cpu", f"-o {tmp_path / 'folder.csv'}: expected a file to write, found a folder"),
        ("new/rows.csv", "cuda", "would need 1 GPU(s), found 0 GPU(s). Use -device cpu"),
    ):
        assert message in status(command, *arguments_of(world, command, tmp_path / out, device))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_weights_that_do_not_say_how_scans_are_preprocessed(world, tmp_path):
    content = torch.load(world["weights"], weights_only=True)
    keys = ("network_weights", "nnssl_adaptation_plan", "citations")
    torch.save({key: content[key] for key in keys}, tmp_path / "nnssl.pth")
    checkpoint.save(importers.convert(tmp_path / "nnssl.pth").checkpoint, tmp_path / "imported.pth")
    with pytest.raises(GenesisError, match=r"imported.pth: .* don't say how scans are preprocessed. Plan and train"):
        load(tmp_path / "imported.pth", "0", CPU)
