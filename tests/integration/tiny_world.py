"""A tiny world for the tests: real files on disk, nnU-Net's own planner and preprocessor, small networks."""

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiments,
    preprocess_dataset,
)

from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.pipeline import prepare_dataset

SHAPE = (24, 32, 32)  # z, y, x
LABELLED = "Dataset702_Old"  # its name in old_checkpoints


def make_case(seed: int, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """An MR-like image (C, Z, Y, X) with two nested structures, and their labels."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, length) for length in SHAPE), indexing="ij"))
    centre = random.uniform(-0.2, 0.2, (3, 1, 1, 1))
    radius = np.sqrt(((grid - centre) ** 2).sum(0))
    labels = (radius < 0.6).astype(np.uint8) + (radius < 0.3)
    texture = np.sin(8 * grid + random.uniform(0, 6, (3, 1, 1, 1))).sum(0)
    image = 100 + 60 * labels + 10 * texture + random.normal(0, 5, SHAPE)
    return np.stack([image + 5 * channel for channel in range(channels)]).astype(np.float32), labels


def write_image(array: np.ndarray, file: Path) -> None:
    """Write (Z, Y, X) with 1 mm voxels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(file))


def make_raw_dataset(raw: Path, name: str, labels: dict[str, Any], cases: int = 5, **more: Any) -> None:
    """A labelled data set in nnU-Net's raw format; every third voxel row is 3 where ``labels`` has ``ignore``."""
    folder = raw / name
    for index in range(cases):
        image, label = make_case(index)
        if "ignore" in labels:
            label[::3] = labels["ignore"]
        write_image(image[0], folder / "imagesTr" / f"case{index}_0000.nii.gz")
        write_image(label, folder / "labelsTr" / f"case{index}.nii.gz")
    description = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description | more))


def prepare_scans(preprocessed: Path, scans: Path) -> None:
    """Data set 701: five scans, prepared in this process, which is quick, with a shrunken network."""
    prepared = Path(_prepared_scans().name)
    shutil.copytree(prepared / "scans", scans, dirs_exist_ok=True)
    shutil.copytree(prepared / "preprocessed", preprocessed, dirs_exist_ok=True)


@cache
def _prepared_scans() -> TemporaryDirectory:
    """Once for all modules of tests."""
    folder = TemporaryDirectory()
    scans, preprocessed = Path(folder.name, "scans"), Path(folder.name, "preprocessed")
    preprocessed.mkdir()
    for index in range(5):
        write_image(make_case(index)[0][0], scans / f"scan{index}.nii.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_preprocessed", str(preprocessed))
        for module in ("pretraining.preparation.fingerprint", "pretraining.preparation.preprocess"):
            patch.setattr(f"{module}.for_each_scan", lambda work, scans, *_: [(scan, work(scan)) for scan in scans])
        prepare_dataset(PrepareOptions((scans,), 701, "One", val_fraction=0.4))
    file = preprocessed / "Dataset701_One" / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    shrink(plans["configurations"]["3d_fullres"])
    file.write_text(json.dumps(plans))
    return folder


def prepare_labelled(raw: Path, preprocessed: Path) -> None:
    """Data set 702: five labelled cases, planned and preprocessed by nnU-Net."""
    prepared = Path(_prepared_labelled().name)
    shutil.copytree(prepared / "raw", raw, dirs_exist_ok=True)
    shutil.copytree(prepared / "preprocessed", preprocessed, dirs_exist_ok=True)


@cache
def _prepared_labelled() -> TemporaryDirectory:
    """Once for all modules of tests."""
    folder = TemporaryDirectory()
    raw, preprocessed = Path(folder.name, "raw"), Path(folder.name, "preprocessed")
    preprocessed.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(raw))
        patch.setenv("nnUNet_preprocessed", str(preprocessed))
        make_raw_dataset(raw, LABELLED, {"background": 0, "outer": 1, "inner": 2})
        plan_and_preprocess(preprocessed, 702)
    return folder


def shrink(configuration: dict[str, Any]) -> None:
    """Make a planned configuration quick: few features, a small patch."""
    kwargs = configuration["architecture"]["arch_kwargs"]
    stages = 3
    for key, value in list(kwargs.items()):
        if isinstance(value, list):
            kwargs[key] = value[: stages - 1] if key.endswith("decoder") else value[:stages]
    kwargs.update(n_stages=stages, features_per_stage=[4, 8, 12], strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]])
    configuration.update(patch_size=[16, 24, 24], batch_size=2)


def plan_and_preprocess(preprocessed: Path, dataset_id: int, lowres: bool = False) -> Path:
    """nnU-Net's fingerprint, planner and preprocessor, with a shrunken network; returns the preprocessed folder."""
    extract_fingerprints([dataset_id], num_processes=2, show_progress_bar=False)
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):  # it builds networks to count their maps
        patch.setenv("nnUNet_n_proc_DA", "1")  # the planner can't do with 0
        plan_experiments([dataset_id])
    folder = next(preprocessed.glob(f"Dataset{dataset_id:03d}_*"))
    file = folder / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    shrink(plans["configurations"]["3d_fullres"])
    if lowres:
        add_cascade(plans["configurations"])
    file.write_text(json.dumps(plans))
    names = ("3d_fullres", "3d_lowres") if lowres else ("3d_fullres",)
    preprocess_dataset(dataset_id, configurations=names, num_processes=(2,) * len(names), show_progress_bar=False)
    return folder


def add_cascade(configurations: dict[str, Any]) -> None:
    """What nnU-Net plans for large images: a coarse configuration and the cascade that follows it."""
    coarse = json.loads(json.dumps(configurations["3d_fullres"]))
    coarse.update(spacing=[1.5, 1.5, 1.5], data_identifier="nnUNetPlans_3d_lowres", next_stage="3d_cascade_fullres")
    configurations["3d_lowres"] = coarse
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
