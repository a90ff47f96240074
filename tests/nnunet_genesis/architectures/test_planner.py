"""Plans for the original Genesis 3D U-Net through nnU-Net's own functions, and what is done with them."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.run.run_training import run_training

from nnunet_genesis import checkpoint, cli
from nnunet_genesis.architectures.genesis_unet3d import ZSCORE_WINDOW, architecture
from nnunet_genesis.architectures.planner import PLANS_NAME, GenesisUNet3DPlanner
from nnunet_genesis.architectures.planning import plan_network, summary
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.sharing.stock_export import export_stock
from pretraining.run import pretrain
from tests.integration.predicting import predict, predict_in_a_process
from tests.integration.tiny_world import make_raw_dataset, write_image
from tests.nnunet_genesis.importers.test_planned_files import from_v2, v2_content

CPU = torch.device("cpu")
ID, NAME = "805", "Dataset805_Genesis"
LABELS = {"background": 0, "outer": 1, "inner": 2}
NARROW = [4, 8, 16, 32]


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    """805: labelled, five MR-like cases of 24×32×32 voxels; planned (the fingerprint with it)."""
    make_raw_dataset(nnunet_folders["nnUNet_raw"], NAME, LABELS)
    return nnunet_folders | {"plans": plan_network(ID)}


@pytest.fixture(scope="module")
def narrow(world: dict[str, Path]) -> dict[str, Path]:
    """805's plans with few features and a small patch, preprocessed, and weights pretrained with them."""
    plans = json.loads(world["plans"].read_text()) | {"plans_name": "Narrow"}
    plans["configurations"]["3d_fullres"].update(patch_size=[16, 24, 24], batch_size=2)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = NARROW
    (world["plans"].parent / "Narrow.json").write_text(json.dumps(plans))
    preprocess_dataset(int(ID), "Narrow", ["3d_fullres"], num_processes=[1], show_progress_bar=False)
    # channels last: the network has tensors with another number of axes than a 3D kernel
    options = {"precision": "fp32", "memory_format": "channels_last"}
    weights = pretrain(ID, "3d_fullres", "Narrow", device=CPU, epochs=1, iterations=2, **options)
    return world | {"weights": weights}


def make_plans(world: dict[str, Path], **fingerprint_changes) -> dict:
    """Plans of 805 as if its fingerprint were another, under a name of their own."""
    options = {"plans_name": "Other", "network": architecture()} | fingerprint_changes.pop("options", {})
    planner = GenesisUNet3DPlanner(ID, **options)
    planner.dataset_json = planner.dataset_json | fingerprint_changes.pop("dataset", {})
    planner.dataset_fingerprint = planner.dataset_fingerprint | fingerprint_changes
    return planner.plan_experiment()


def as_if(shape: list[int], spacing: list[float], cases: int = 100) -> dict:
    return {
        "shapes_after_crop": [shape] * cases,
        "spacings": [spacing] * cases,
        "dataset": {"numTraining": cases},
    }


def test_plans_are_3d_only_and_in_nnunets_form(world):
    plans = json.loads(world["plans"].read_text())
    assert (plans["plans_name"], plans["experiment_planner_used"]) == (PLANS_NAME, "GenesisUNet3DPlanner")
    assert list(plans["configurations"]) == ["3d_fullres"]
    assert plans["genesis"] == {"architecture": "genesis_unet3d"}
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert arguments["features_per_stage"] == [64, 128, 256, 512]
    assert arguments["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]


def test_patch_is_the_median_shape_rounded_up_where_it_fits(world):
    plan = make_plans(world, **as_if([25, 33, 40], [1.0, 1.0, 1.0]))["configurations"]["3d_fullres"]
    assert plan["patch_size"] == [32, 40, 40]
    assert plan["batch_size"] == round(0.05 * 100 * 25 * 33 * 40 / (32 * 40 * 40))  # 5 % of the voxels


def test_large_images_get_a_patch_of_their_proportions_in_the_memory_target(world):
    plans = make_plans(world, **as_if([150, 500, 500], [2.5, 0.8, 0.8]))["configurations"]
    for plan in (plans["3d_fullres"], plans["3d_lowres"]):
        patch = np.array(plan["patch_size"])
        assert all(patch % 8 == 0)
        assert 0.85 < patch.prod() * 465 / 560e6 <= 1  # 465 output elements of convolutions a voxel, with 3 classes
        assert plan["batch_size"] == 2
    assert plans["3d_fullres"]["patch_size"][1] > 3 * plans["3d_fullres"]["patch_size"][0]
    assert plans["3d_cascade_fullres"] == {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    assert plans["3d_lowres"]["next_stage"] == "3d_cascade_fullres"


def test_more_memory_means_a_larger_patch_and_too_little_is_said(world):
    shape = as_if([200, 200, 200], [1.0, 1.0, 1.0])
    volumes = [
        np.prod(make_plans(world, options={"gpu_memory_target_in_gb": gb}, **copy.deepcopy(shape))
                ["configurations"]["3d_fullres"]["patch_size"])
        for gb in (4, 8, 24)
    ]  # fmt: skip
    assert volumes == sorted(set(volumes))
    with pytest.raises(GenesisError, match=r"-gpu_memory_target 0.01: expected enough for 2 patches of \[16, 16, 16\]"):
        make_plans(world, options={"gpu_memory_target_in_gb": 0.01}, **shape)


def test_input_map_of_each_channel_is_planned(world):
    ct = {"mean": 100.0, "std": 50.0, "percentile_00_5": -900.0, "percentile_99_5": 800.0}
    dataset = {"channel_names": {"0": "CT", "1": "T1", "2": "rescale_to_0_1"}}
    properties = {str(channel): ct for channel in range(3)}
    plans = make_plans(world, dataset=dataset, foreground_intensity_properties_per_channel=properties)
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    width = ZSCORE_WINDOW[1] - ZSCORE_WINDOW[0]
    np.testing.assert_allclose(arguments["input_scale"], [50 / 2000, 1 / width, 1])
    np.testing.assert_allclose(arguments["input_shift"], [1100 / 2000, -ZSCORE_WINDOW[0] / width, 0])


def test_data_are_shared_with_the_default_plans_where_they_are_the_same(world):
    identifier = make_plans(world)["configurations"]["3d_fullres"]["data_identifier"]
    assert identifier == "nnUNetPlans_3d_fullres"
    spacing = {"options": {"overwrite_target_spacing": [2.0, 2.0, 2.0]}}
    plan = make_plans(world, **spacing)["configurations"]["3d_fullres"]
    assert (plan["data_identifier"], list(plan["spacing"])) == ("Other_3d_fullres", [2.0, 2.0, 2.0])


def test_data_are_not_shared_with_default_plans_of_another_spacing(world):
    file = world["plans"].parent / "nnUNetPlans.json"
    plans = json.loads(world["plans"].read_text())
    try:
        file.write_text(json.dumps(plans))
        assert make_plans(world)["configurations"]["3d_fullres"]["data_identifier"] == "nnUNetPlans_3d_fullres"
        plans["configurations"]["3d_fullres"]["spacing"] = [1.0, 0.5, 0.5]
        file.write_text(json.dumps(plans))
        assert make_plans(world)["configurations"]["3d_fullres"]["data_identifier"] == "Other_3d_fullres"
    finally:
        file.unlink()


def test_2d_images_are_refused(world):
    with pytest.raises(GenesisError, match="the images are 2D"):
        make_plans(world, **as_if([1, 256, 256], [999.0, 1.0, 1.0]))


def test_next_commands_are_printed(world):
    text = summary(world["plans"])
    assert f"  nnUNetv2_preprocess -d {ID} -p {PLANS_NAME} -c 3d_fullres" in text
    assert f"  nnUNetv2_train {ID} 3d_fullres 0 -p {PLANS_NAME} -tr nnUNetTrainerGenesisFull" in text
    assert "weights: none yet; set nnUNet_genesis_weights=" in text


def test_pretrained_weights_are_named_in_the_plans_and_give_their_widths(narrow):
    file = plan_network(ID, narrow["weights"], plans_name="WithWeights")
    plans = json.loads(file.read_text())
    assert plans["genesis"]["weights"] == str(narrow["weights"])
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert arguments["features_per_stage"] == NARROW
    assert f"weights: {narrow['weights']}" in summary(file)


def test_epsilon_comes_from_the_weights(narrow, tmp_path):
    content = checkpoint.load(narrow["weights"])
    plans = content["genesis"]["plans"]
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["norm_eps"] = 1e-3
    checkpoint.save(content, tmp_path / "keras.pth")
    plans = json.loads(plan_network(ID, tmp_path / "keras.pth", plans_name="Keras").read_text())
    assert plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["norm_eps"] == 1e-3


def test_weights_of_another_network_are_refused(narrow, tmp_path):
    content = checkpoint.load(narrow["weights"])
    content["network_weights"] = {"encoder.stages.0.0.convs.1.conv.weight": torch.zeros(4, 4, 3, 3, 3)}
    checkpoint.save(content, tmp_path / "damaged.pth")
    with pytest.raises(GenesisError, match=r"damaged.pth: its Genesis record is damaged.*4 strides for 1 enc"):
        plan_network(ID, tmp_path / "damaged.pth")
    checkpoint.save(from_v2(v2_content()).checkpoint, tmp_path / "plain.pth")
    with pytest.raises(GenesisError, match=r"plain.pth: expected weights of the original Genesis 3D U-Net.*use --for"):
        plan_network(ID, tmp_path / "plain.pth")


@pytest.mark.parametrize(
    ("trainer", "command"), [("nnUNetTrainer", predict_in_a_process), ("nnUNetTrainerGenesisFull", predict)]
)
def test_training_and_prediction_run_with_nnunets_commands(narrow, monkeypatch, tmp_path, trainer, command):
    variables = {"extTrainer": str(cli.trainers_folder()), "genesis_weights": str(narrow["weights"])}
    for name, value in (variables | {"genesis_epochs": "1", "genesis_iterations": "2"}).items():
        monkeypatch.setenv(f"nnUNet_{name}", value)
    if trainer == "nnUNetTrainer":
        trainer = "nnUNetTrainer_1epoch"
        monkeypatch.setattr(f"{STOCK_ONE_EPOCH}.__init__", one_short_epoch)
    run_training(ID, "3d_fullres", 0, trainer, "Narrow", device=CPU)
    folder = narrow["nnUNet_results"] / NAME / f"{trainer}__Narrow__3d_fullres"
    if trainer == "nnUNetTrainerGenesisFull":
        report = json.loads((folder / "fold_0" / "genesis_load_report.json").read_text())
        assert report["coverage"] == {"encoder": 1.0, "decoder": 1.0}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "case_0000.nii.gz").symlink_to(narrow["nnUNet_raw"] / NAME / "imagesTr" / "case0_0000.nii.gz")
    flags = ["-d", ID, "-c", "3d_fullres", "-p", "Narrow", "-tr", trainer, "-f", "0"]
    command(tmp_path / "in", tmp_path / "out", *flags)
    assert (tmp_path / "out" / "case.nii.gz").is_file()
    with pytest.raises(GenesisError, match="stock nnU-Net can't build it"):
        export_stock(folder, tmp_path / "stock")


STOCK_ONE_EPOCH = "nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs.nnUNetTrainer_1epoch"


def one_short_epoch(self, plans, configuration, fold, dataset_json, device=CPU) -> None:
    """nnU-Net's trainer for one epoch of two iterations."""
    super(type(self), self).__init__(plans, configuration, fold, dataset_json, device)
    self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1


def test_real_hippocampi(data, nnunet_folders, tmp_path):
    source, folder = data / "Dataset004_Hippocampus", nnunet_folders["nnUNet_raw"] / "Dataset004_Hippocampus"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
        for file in sorted((source / kind).glob("*.nii.gz"))[:6]:
            (folder / kind / file.name).symlink_to(file)
    description = json.loads((source / "dataset.json").read_text()) | {"numTraining": 6}
    (folder / "dataset.json").write_text(json.dumps(description))
    plan = json.loads(plan_network("4").read_text())["configurations"]["3d_fullres"]
    median = np.array(plan["median_image_size_in_voxels"])
    assert list(plan["patch_size"]) == (np.ceil(median / 8) * 8).astype(int).tolist()
    assert plan["batch_size"] == 2


def test_ct_is_planned_exactly(nnunet_folders):
    folder = nnunet_folders["nnUNet_raw"] / "Dataset806_CT"
    make_raw_dataset(nnunet_folders["nnUNet_raw"], "Dataset806_CT", LABELS, cases=2, channel_names={"0": "CT"})
    hu = np.random.default_rng(0).normal(0, 300, (24, 32, 32)).astype(np.float32)
    write_image(hu, folder / "imagesTr" / "case0_0000.nii.gz")
    plans = json.loads(plan_network("806").read_text())
    properties = plans["foreground_intensity_properties_per_channel"]["0"]
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert arguments["input_scale"] == pytest.approx([properties["std"] / 2000])
    assert arguments["input_shift"] == pytest.approx([(properties["mean"] + 1000) / 2000])


def test_a_fingerprint_that_exists_is_used(world):
    file = world["plans"].parent / "dataset_fingerprint.json"
    before = file.stat().st_mtime_ns
    plan_network(ID)
    assert file.stat().st_mtime_ns == before


def test_the_command_plans_and_says_what_is_next(world, monkeypatch, capsys):
    flags = "-gpu_memory_target 4 -overwrite_target_spacing 1.5 1.5 1.5 -overwrite_plans_name Coarse"
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_genesis_plan", "-d", ID, *flags.split()])
    with pytest.raises(SystemExit) as stop:
        cli.plan()
    assert stop.value.code == 0
    assert f"nnUNetv2_train {ID} 3d_fullres 0 -p Coarse -tr nnUNetTrainerGenesisFull" in capsys.readouterr().out
    plan = json.loads((world["plans"].parent / "Coarse.json").read_text())["configurations"]["3d_fullres"]
    assert plan["spacing"] == [1.5, 1.5, 1.5]


def test_missing_environment_is_one_line(world, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_genesis_plan", "-d", ID])
    with pytest.raises(SystemExit, match=r"^ERROR: nnUNet_raw is not set"):
        cli.plan()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "999"}, r"-d 999: .*Could not find a dataset with the ID 999"),
        ({"dataset": "liver"}, r"-d liver: .*give an integer number"),
        ({"dataset": "Dataset900_None"}, r"Dataset900_None/dataset.json: no such file; planning needs the raw"),
        ({"dataset": ID, "gpu_memory_target": 0}, r"-gpu_memory_target 0.*expected numbers above 0"),
        ({"dataset": ID, "spacing": [1, 0, 1]}, r"-overwrite_target_spacing \[1, 0, 1\]"),
        ({"dataset": ID, "spacing": [1, float("nan"), 1]}, r"-overwrite_target_spacing \[1, nan, 1\]"),
        ({"dataset": ID, "gpu_memory_target": float("inf")}, r"-gpu_memory_target inf.*expected numbers above 0"),
        ({"dataset": ID, "file": Path("/no/such.pth")}, r"/no/such.pth: no such file"),
    ],
)
def test_what_cannot_be_planned_is_said(world, arguments, message):
    with pytest.raises(GenesisError, match=message):
        plan_network(**arguments)


def test_plans_of_another_planner_are_not_overwritten(world):
    file = world["plans"].parent / "Default.json"
    file.write_text('{"experiment_planner_used": "ExperimentPlanner", "configurations": {}}')
    with pytest.raises(GenesisError, match=r"Default.json: exists already and is ExperimentPlanner's"):
        plan_network(ID, plans_name="Default")
    assert file.read_text() == '{"experiment_planner_used": "ExperimentPlanner", "configurations": {}}'
