"""A prepared data set for benchmarks of training: hippocampus crops, or synthetic images where there are none."""

import json
import os
from pathlib import Path

from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.pipeline import prepare_dataset
from tests.benchmarks.timing import quiet
from tests.conftest import DATA
from tests.integration.tiny_world import make_case, write_image

DATASET, CONFIGURATION, BATCH = "701", "3d_fullres", 4


def make_world(folder: Path, scans: int = 24) -> Path:
    """Prepare data set 701, with the planned patch and half the planned features; returns its plans."""
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir()
        os.environ[name] = str(folder / name)
    os.environ.pop("nnUNet_raw", None)
    images = sorted((DATA / "Dataset004_Hippocampus" / "imagesTr").glob("*.nii.gz"))[:scans]
    if not images:
        print(f"No hippocampus at {DATA} (GENESIS_TEST_DATA): synthetic images")
        images = [folder / "scans" / f"{number}.nii.gz" for number in range(scans)]
        for number, file in enumerate(images):
            write_image(make_case(number)[0][0], file)
    with quiet():
        prepare_dataset(PrepareOptions(tuple(images), int(DATASET), "Bench", processes=1))
    file = folder / "nnUNet_preprocessed" / f"Dataset{DATASET}_Bench" / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    configuration = plans["configurations"][CONFIGURATION]
    network = configuration["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [features // 2 for features in network["features_per_stage"]]
    configuration["batch_size"] = BATCH
    file.write_text(json.dumps(plans))
    return file
