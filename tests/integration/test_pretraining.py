"""Pretraining end to end on tiny scans: what it writes, that it is reproducible, resumable and distributed."""

import json
import os
import shutil
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_genesis import checkpoint
from nnunet_genesis.errors import GenesisError
from pretraining.__main__ import pretrain as command
from pretraining.options import RestorationOptions
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.restoration import CORRUPTIONS
from pretraining.run import pretrain
from pretraining.trainer import nnUNetTrainerRestoration
from tests.integration.tiny_world import make_case, shrink, write_image
from tests.integration.warm_processes import start_command

CPU = torch.device("cpu")
FORMATS = {"precision": "fp32", "memory_format": "contiguous"}  # left to itself, each run would measure
SHORT = {"epochs": 2, "iterations": 3}


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Scans of one and of two channels, prepared: 701 (plain network), 702 (two channels, residual network)."""
    scans = tmp_path_factory.mktemp("scans")
    for index in range(5):
        image, _ = make_case(index, channels=2)
        write_image(image[0], scans / "one" / f"scan{index}.nii.gz")
        for channel in (0, 1):
            write_image(image[channel], scans / "two" / f"scan{index}_{channel:04d}.nii.gz")
    prepare_dataset(PrepareOptions((scans / "one",), 701, "One", val_fraction=0.4))
    prepare_dataset(PrepareOptions((scans / "two",), 702, "Two", planner="nnUNetPlannerResEncM"))
    for file in nnunet_folders["nnUNet_preprocessed"].glob("*/nnUNet*Plans.json"):
        plans = json.loads(file.read_text())
        shrink(plans["configurations"]["3d_fullres"])
        file.write_text(json.dumps(plans))
    _add_folds_of_all_cases(nnunet_folders["nnUNet_preprocessed"] / "Dataset701_One")
    return nnunet_folders


def test_a_run_writes_what_a_person_and_a_program_need(world):
    final = pretrain("701", "3d_fullres", device=CPU, **SHORT)
    written = {file.name for file in final.parent.iterdir()}
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "restoration_epoch0001.png"} <= written
    assert "checkpoint_latest.pth" not in written
    content = torch.load(final, weights_only=True)  # plain torch, nothing allowed besides tensors and plain data
    genesis, log = content["genesis"], content["logging"]
    assert genesis["schema_version"] == checkpoint.SCHEMA_VERSION
    assert genesis["normalization"]["schemes"] == ["ZScoreNormalization"]
    assert genesis["corruption"]["p_intensity"] == 0.9
    assert genesis["data"]["number_of_cases"] == {"training": 3, "validation": 2}
    assert genesis["patch_size"] == [16, 24, 24]
    assert genesis["axis_order"] == "zyx"
    assert any("Models Genesis" in citation for citation in genesis["citations"])
    for key in ("train_losses", "val_losses", "psnr", "ssim", "r2", *(f"r2_{name}" for name in CORRUPTIONS)):
        assert len(log[key]) == 2
        assert np.isfinite(log[key]).all()


def test_an_existing_result_is_never_overwritten_and_a_finished_run_stays(world):
    with pytest.raises(GenesisError, match=r"checkpoint_final.pth: exists already.*--c"):
        pretrain("701", "3d_fullres", device=CPU, **SHORT)
    before = (final := _folder(world, "701") / "checkpoint_final.pth").read_bytes()
    assert pretrain("701", "3d_fullres", device=CPU, continue_training=True) == final
    assert final.read_bytes() == before


def test_a_finished_run_can_be_extended(world):
    final = pretrain("701", "3d_fullres", device=CPU, continue_training=True, epochs=3)
    assert torch.load(final, weights_only=True)["current_epoch"] == 3


def test_no_second_copy_of_the_weights_stays_while_a_run_goes_on(world, monkeypatch):
    load, kept, alive = checkpoint.load, [], []

    def watched(*arguments):
        content = load(*arguments)
        kept.extend(map(weakref.ref, content["network_weights"].values()))
        return content

    monkeypatch.setattr(checkpoint, "load", watched)
    monkeypatch.setattr(
        nnUNetTrainerRestoration, "run_training", lambda _: alive.extend(ref() is not None for ref in kept)
    )
    pretrain("701", "3d_fullres", device=CPU, continue_training=True, epochs=9)
    assert alive
    assert not any(alive)


@pytest.mark.parametrize("changed", [{"seed": 7}, {"batch_size": 3}])
def test_a_run_is_not_continued_with_another_option(world, changed):
    with pytest.raises(GenesisError, match=r"the run was started with .*start anew"):
        pretrain("701", "3d_fullres", device=CPU, continue_training=True, **changed)


def test_two_channels_and_a_residual_network(world):
    final = pretrain("702", "3d_fullres", "nnUNetResEncUNetMPlans", device=CPU, **SHORT)
    content = torch.load(final, weights_only=True)
    weights, plan = content["network_weights"], content["nnssl_adaptation_plan"]
    assert all(weights[f"{key}.weight"].shape[1] == 2 for key in plan["keys_to_in_proj"])
    assert weights["encoder.stem.convs.0.conv.weight"].shape[1] == 2
    assert weights["decoder.seg_layers.1.weight"].shape[0] == 2


def test_the_seed_decides_whatever_the_number_of_workers(world, monkeypatch):
    runs = []
    for fold, workers in (("all", "0"), (1, "2")):  # two results folders, the same cases
        monkeypatch.setenv("nnUNet_n_proc_DA", workers)
        runs.append(
            torch.load(
                pretrain("701", "3d_fullres", fold=fold, device=CPU, seed=5, **SHORT, **FORMATS), weights_only=True
            )
        )
    assert runs[0]["logging"]["train_losses"] == runs[1]["logging"]["train_losses"]
    _assert_equal_weights(*runs)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_killed_and_resumed_equals_uninterrupted(world, tmp_path):
    options = {"epochs": 4, "iterations": 3, "seed": 7, **FORMATS}
    whole = torch.load(pretrain("701", "3d_fullres", fold=2, device=CPU, **options), weights_only=True)
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    arguments = ["701", "3d_fullres", "-f", "3", "-device", "cpu", *flags]
    process = start_command(command, arguments, output := tmp_path / "output.txt", nnUNet_n_proc_DA="2")
    while not (output.is_file() and "Epoch 1" in output.read_text()):
        assert process.is_alive(), output.read_text()
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.join()
    assert len(workers) >= 3  # two for training, one for validation
    _assert_all_end(workers)
    final = pretrain("701", "3d_fullres", fold=3, device=CPU, continue_training=True)
    resumed = torch.load(final, weights_only=True)
    for key in ("train_losses", "val_losses", "r2", "ssim"):
        assert resumed["logging"][key] == whole["logging"][key]
    _assert_equal_weights(resumed, whole)


def test_convolutions_with_small_maps_stay_in_fp32_and_are_named(world):
    base = world["nnUNet_preprocessed"] / "Dataset701_One"
    plans = json.loads((base / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [8, 24, 24]  # deepest maps of 2×6×6
    (base / "flatPlans.json").write_text(json.dumps(plans | {"plans_name": "flatPlans"}))
    final = pretrain("701", "3d_fullres", "flatPlans", device=CPU, precision="bf16", epochs=1, iterations=1)
    (log,) = final.parent.glob("training_log_*.txt")
    assert "2 convolution(s), encoder.stages.2.0.convs.0.conv, encoder.stages.2.0.convs.1.conv" in log.read_text()
    assert torch.load(final, weights_only=True)["genesis"]["options"]["precision"] == "bf16"


def test_channels_last_gives_the_same_and_goes_on(world):
    runs = {}
    for fold, memory_format in ((5, "contiguous"), (6, "channels_last")):
        options = {**SHORT, "precision": "fp32", "memory_format": memory_format, "seed": 5}
        pretrain("701", "3d_fullres", fold=fold, device=CPU, **options)
        final = pretrain("701", "3d_fullres", fold=fold, device=CPU, continue_training=True, epochs=3)
        runs[memory_format] = torch.load(final, weights_only=True)
        assert runs[memory_format]["genesis"]["options"]["memory_format"] == memory_format
    logs = [run["logging"]["train_losses"] for run in runs.values()]
    np.testing.assert_allclose(*logs, rtol=1e-4)
    weights = [run["network_weights"]["encoder.stages.1.0.convs.0.conv.weight"] for run in runs.values()]
    assert [w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights] == [False, True]


@pytest.mark.parametrize("saved", ["contiguous", "channels_last"])
def test_moments_follow_the_weights_into_another_memory_format(world, tmp_path, saved):
    first = make_trainer(world, memory_format=saved)
    batches = iter(first.get_dataloaders()[0])
    for _ in range(3):
        first.train_step(next(batches))
    first.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    batch, after = next(batches), []
    for memory_format in ("contiguous", "channels_last"):
        trainer = make_trainer(world, memory_format=memory_format)
        trainer.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
        trainer.train_step(batch)
        after.append([value.flatten() for value in trainer.network.parameters() if value.dim() == 5])
    for one, other in zip(*after, strict=True):  # biases in front of norms have noise for a gradient
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def make_trainer(world: dict[str, Path], **options: str) -> nnUNetTrainerRestoration:
    base = world["nnUNet_preprocessed"] / "Dataset701_One"
    plans, dataset_json = (json.loads((base / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    trainer = nnUNetTrainerRestoration({**plans, "continue_training": False}, "3d_fullres", 7, dataset_json, CPU)
    trainer.use(RestorationOptions(**SHORT, **FORMATS | options))
    trainer.initialize()
    return trainer


def test_a_step_never_waits_for_the_device(world):
    trainer = make_trainer(world)
    loader, _ = trainer.get_dataloaders()
    trainer.network.train()
    trainer.train_step(next(loader))
    # AdamW counts its steps in tensors that lie on the CPU, whatever the device.
    counters = {state["step"].data_ptr() for state in trainer.optimizer.state.values()}
    batch = next(loader)
    with ValuesRead(counters) as seen:
        loss = trainer.train_step(batch)["loss"]
        assert seen.operations > 100
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            float(loss)


class ValuesRead(TorchDispatchMode):
    """Fails where an operation hands a tensor's value to Python: on a GPU, that waits for the device."""

    def __init__(self, allowed: set[int]):
        super().__init__()
        self.allowed, self.operations = allowed, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal"):
            assert args[0].data_ptr() in self.allowed, func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))


def test_two_processes_train_one_network(world):
    final = pretrain("701", "3d_fullres", fold=4, device=CPU, num_gpus=2, **SHORT)
    log = torch.load(final, weights_only=True)["logging"]
    assert len(log["train_losses"]) == 2
    assert np.isfinite(log["r2"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("999", "3d_fullres"), "Could not find a dataset with the ID 999"),
        (("701", "3d_fulres"), "no configuration '3d_fulres'; found 2d, 3d_fullres"),
        (("701", "2d"), "Use 3d_fullres"),
        (("701", "3d_fullres", "otherPlans"), r"otherPlans.json: no such plans; found .*nnUNetPlans"),
    ],
)
def test_what_is_not_there_is_named(world, arguments, message):
    with pytest.raises(GenesisError, match=message):
        pretrain(*arguments, device=CPU)


def test_a_fold_that_is_not_there_is_refused(world):
    with pytest.raises(GenesisError, match=r"fold 8: expected one of .*splits_final.json's folds, 0 to 7, or all"):
        pretrain("701", "3d_fullres", fold=8, device=CPU)


def test_fewer_cases_than_nnunet_divides_are_refused(world):
    base = world["nnUNet_preprocessed"] / "Dataset711_Few"
    shutil.copytree(base.with_name("Dataset701_One"), base)
    (base / "splits_final.json").unlink()
    for file in (base / "nnUNetPlans_3d_fullres").iterdir():
        if not file.name.startswith(("scan0", "scan1")):
            file.unlink()
    with pytest.raises(GenesisError, match=r"divides no fewer than 5 cases; found 2\. Take all of them \(fold all\)"):
        pretrain("711", "3d_fullres", device=CPU)
    shutil.rmtree(base / "nnUNetPlans_3d_fullres")
    with pytest.raises(GenesisError, match=r"no such folder; expected preprocessed cases"):
        pretrain("711", "3d_fullres", device=CPU)


def test_several_processes_of_mps_are_refused(world):
    with pytest.raises(GenesisError, match=r"-device mps: expected one process, found 2"):
        pretrain("701", "3d_fullres", device=torch.device("mps"), num_gpus=2)


MINE = """
from pretraining.trainer import nnUNetTrainerRestoration

class nnUNetTrainerMine(nnUNetTrainerRestoration):
    pass
"""


def test_a_trainer_of_ones_own(world, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path / 'nowhere'}{os.pathsep}{tmp_path}")
    final = pretrain("701", "3d_fullres", device=CPU, trainer="nnUNetTrainerMine", epochs=1, iterations=1)
    assert final.parents[1].name == "nnUNetTrainerMine__nnUNetPlans__3d_fullres"
    assert torch.load(final, weights_only=True)["trainer_name"] == "nnUNetTrainerMine"
    for name, message in {"nnUNetTrainerYours": "Could not find", "nnUNetTrainer": "expected a subclass of"}.items():
        with pytest.raises(GenesisError, match=f"-tr {name}: {message}"):
            pretrain("701", "3d_fullres", device=CPU, trainer=name)


def test_a_patch_too_thin_to_corrupt_is_named(world):
    base = world["nnUNet_preprocessed"] / "Dataset701_One"
    plans = json.loads((base / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [3, 24, 24]
    (base / "thinPlans.json").write_text(json.dumps(plans | {"plans_name": "thinPlans"}))
    with pytest.raises(GenesisError, match=r"patch size \[3, 24, 24\].*at least 4 voxels"):
        pretrain("701", "3d_fullres", "thinPlans", device=CPU, **SHORT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(world):
    with pytest.raises(GenesisError, match=r"found 0 GPU.*-device cpu"):
        pretrain("701", "3d_fullres")


def _assert_all_end(pids: list[str]) -> None:
    """Nothing of a killed run stays behind."""
    deadline = time.monotonic() + 60
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.2)


def _folder(world: dict[str, Path], dataset: str, fold: int = 0) -> Path:
    base = next(world["nnUNet_results"].glob(f"Dataset{dataset}_*"), world["nnUNet_results"] / f"Dataset{dataset}_One")
    return base / "nnUNetTrainerRestoration__nnUNetPlans__3d_fullres" / f"fold_{fold}"


def _add_folds_of_all_cases(base: Path) -> None:
    """Folds 1 to 7: all cases on both sides, as in fold ``all``, each with a results folder of its own."""
    file = base / "splits_final.json"
    splits = json.loads(file.read_text())
    cases = sorted(splits[0]["train"] + splits[0]["val"])
    file.write_text(json.dumps(splits + [{"train": cases, "val": cases}] * 7))


def _assert_equal_weights(one: dict, other: dict) -> None:
    for name, value in one["network_weights"].items():
        assert torch.equal(value, other["network_weights"][name]), name


def test_data_set_that_names_its_channels_modality(world):
    file = world["nnUNet_preprocessed"] / "Dataset701_One" / "dataset.json"
    before = file.read_text()
    file.write_text(before.replace('"channel_names"', '"modality"'))
    final = pretrain("701", "3d_fullres", fold=7, device=CPU, epochs=1, iterations=1, **FORMATS)
    file.write_text(before)
    assert torch.load(final, weights_only=True)["genesis"]["data"]["channel_names"] == {"0": "MR"}
