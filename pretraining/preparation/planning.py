"""Plans for unlabelled scans: nnU-Net's planner on their fingerprint, or another data set's plans."""

import contextlib
import inspect
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nnunetv2
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json, write_json
from nnunet_genesis.folders import dataset_name, environment, nnunet_folder
from pretraining.preparation.options import PrepareOptions

DEFAULT_PLANNER, FINGERPRINT = "ExperimentPlanner", "dataset_fingerprint.json"


def planner_class(name: str | None) -> type:
    """nnU-Net's planner of that name.

    Raises:
        GenesisError: nnU-Net has no such planner.
    """
    folder = os.path.join(nnunetv2.__path__[0], "experiment_planning")
    found = recursive_find_python_class(folder, name or DEFAULT_PLANNER, "nnunetv2.experiment_planning")
    if found is None:
        raise GenesisError(
            f"-pl {name}: nnU-Net has no such planner. For example ExperimentPlanner, nnUNetPlannerResEncM, "
            "nnUNetPlannerResEncL or nnUNetPlannerResEncXL."
        )
    return found


def planned_name(options: PrepareOptions) -> str:
    """Name of the plans that the options lead to."""
    if options.like:
        return options.plans_name
    return inspect.signature(planner_class(options.planner)).parameters["plans_name"].default


def make_plans(options: PrepareOptions, base: Path, dataset_json: dict[str, Any]) -> dict[str, Any]:
    """Run nnU-Net's planner on ``base/dataset_fingerprint.json``; write plans and ``dataset.json`` to ``base``."""
    planner = planner_class(options.planner)
    with _temporary_folders(base, dataset_json), contextlib.redirect_stdout(io.StringIO()):
        plans, name = plan_experiment_dataset(options.dataset_id, planner, options.gpu_memory_target)
    write_json(dataset_json, base / "dataset.json")
    write_json(plans, base / f"{name}.json")  # last: where they are, all else is
    return plans


def like_folder(options: PrepareOptions) -> Path:
    """Folder of the data set to be like.

    Raises:
        GenesisError: it or its plans aren't there.
    """
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(str(options.like), f"--like {options.like}")
    missing = [
        name for name in (f"{options.plans_name}.json", "dataset.json", FINGERPRINT) if not (folder / name).is_file()
    ]
    if missing:
        raise GenesisError(
            f"--like {options.like}: {folder} lacks {', '.join(missing)}. Plan that data set first: "
            f"nnUNetv2_plan_and_preprocess -d {options.like} -c 3d_fullres, and name its plans with -p."
        )
    return folder


def plans_like(options: PrepareOptions) -> dict[str, Any]:
    """The other data set's plans, for the new one."""
    plans = read_json(like_folder(options) / f"{options.plans_name}.json")
    plans["dataset_name"] = options.dataset_name
    plans.pop("genesis", None)
    return plans


def write_plans_like(options: PrepareOptions, base: Path, plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    """Write these plans, the other data set's fingerprint and our ``dataset.json`` to ``base``."""
    source = like_folder(options)
    write_json(read_json(source / FINGERPRINT), base / FINGERPRINT, sort_keys=True)
    write_json(dataset_json, base / "dataset.json")
    write_json(plans, base / f"{options.plans_name}.json")


@contextlib.contextmanager
def _temporary_folders(base: Path, dataset_json: dict[str, Any]) -> Iterator[None]:
    """A raw data set of nothing but ``dataset.json``, for nnU-Net's planner insists on one, and a folder to write to.

    What the planner writes isn't whole at every moment.
    """
    with tempfile.TemporaryDirectory() as raw, tempfile.TemporaryDirectory() as preprocessed:
        folder, copy = Path(raw) / base.name, Path(preprocessed) / base.name
        folder.mkdir()
        copy.mkdir()
        shutil.copyfile(base / FINGERPRINT, copy / FINGERPRINT)
        # The planner looks at the first image's name only to find a reader, which dataset.json names already.
        listed = {"dataset": {"scan": {"images": ["scan_0000.nii.gz"], "label": "scan.nii.gz"}}}
        save_json({**dataset_json, **listed}, str(folder / "dataset.json"), sort_keys=False)
        # The planner sets torch's threads to nnUNet_n_proc_DA, which fails on the 0 that training accepts.
        threads = str(max(1, get_allowed_n_proc_DA()))
        folders = {nnUNet_raw.env_var_name: raw, nnUNet_preprocessed.env_var_name: preprocessed}
        with environment(**folders, nnUNet_n_proc_DA=threads):
            yield
