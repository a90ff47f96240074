"""nnU-Net's own plans for the real data sets in ``../shared/data``, made by nnU-Net's own commands."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiments,
    preprocess_dataset,
)

# Data set: cases that are enough for its plans (all of them take minutes), and the ones to train on.
CASES = {
    "Dataset003_Liver": (1, ["ts_example_ct"]),
    "Dataset004_Hippocampus": (6, ["hippocampus_001"]),
    "Dataset008_BrainTumour": (1, []),
    "Dataset027_ACDC": (6, ["patient001_frame01"]),
}
PLANNERS = {"nnUNetPlans": "ExperimentPlanner", "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM"}


def link_cases(data: Path, raw: Path, name: str, cases: list[str]) -> None:
    """A raw data set of some of the real one's cases."""
    folder = raw / name
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for file in (data / name / part).iterdir():
            if any(file.name.startswith((f"{case}_0", f"{case}.")) for case in cases):
                (folder / part / file.name).symlink_to(file.resolve())
    description = json.loads((data / name / "dataset.json").read_text()) | {"numTraining": len(cases)}
    (folder / "dataset.json").write_text(json.dumps(description))


def case_names(data: Path, name: str) -> list[str]:
    return sorted(file.name.removesuffix(".nii.gz") for file in (data / name / "labelsTr").glob("*.nii.gz"))


def plan(data: Path, folders: dict[str, Path], name: str) -> Path:
    """Both planners; the preprocessed folder."""
    number = int(name[7:10])
    link_cases(data, folders["nnUNet_raw"], name, case_names(data, name)[: CASES[name][0]])
    extract_fingerprints([number], num_processes=2, show_progress_bar=False)
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):  # it builds networks to count their maps
        patch.setenv("nnUNet_n_proc_DA", "1")  # the planner can't do with 0
        for planner in PLANNERS.values():
            plan_experiments([number], experiment_planner_class_name=planner)
    return folders["nnUNet_preprocessed"] / name


def preprocess_few(data: Path, folders: dict[str, Path], name: str, plans_name: str) -> None:
    """Preprocess the cases to train on; the plans stay those of all."""
    number, cases = int(name[7:10]), CASES[name][1] or case_names(data, name)[:1]
    link_cases(data, folders["nnUNet_raw"], name, cases)
    shutil.copy(folders["nnUNet_raw"] / name / "dataset.json", folders["nnUNet_preprocessed"] / name / "dataset.json")
    preprocess_dataset(number, plans_name, ("3d_fullres",), num_processes=(1,), show_progress_bar=False)


def read(folder: Path, plans_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plans and ``dataset.json``."""
    return json.loads((folder / f"{plans_name}.json").read_text()), json.loads((folder / "dataset.json").read_text())


def random_values(net: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Other values in every tensor: a copy can be told from an initialisation, norms and biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in net.parameters():
            value.normal_(generator=generator)
    return net
