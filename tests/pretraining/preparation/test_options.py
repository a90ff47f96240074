"""Options of a preparation: what is refused, and that the message names the flag."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nnunet_genesis.errors import GenesisError
from pretraining.preparation.options import PrepareOptions


def prepare_options(**changes: Any) -> PrepareOptions:
    return PrepareOptions(**{"inputs": (Path("scans"),), "dataset_id": 701, "name": "ChestCT", **changes})


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        prepare_options().processes = 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_id": 0}, "-d 0: expected an id from 1 to 999"),
        ({"dataset_id": 1000}, "-d 1000: expected an id from 1 to 999"),
        ({"name": ""}, "-n '': expected letters, digits"),
        ({"name": "a/b"}, "-n 'a/b': expected letters, digits"),
        ({"name": "Lunge ä"}, "-n 'Lunge ä': expected letters, digits"),
        ({"val_fraction": 1.0}, "--val_fraction 1.0: expected at least 0 and less than 1"),
        ({"val_fraction": -0.1}, "--val_fraction -0.1: expected at least 0 and less than 1"),
        ({"processes": 0}, "-np 0: expected at least 1"),
        ({"hu_window": (100.0, -100.0)}, "--hu_window (100.0, -100.0): expected LOW < HIGH"),
        ({"hu_window": (-1000.0, 1000.0), "modality": "MR"}, "--hu_window is for CT"),
        ({"hu_window": (-1000.0, 1000.0), "modality": "CTA"}, "--hu_window is for CT"),
        ({"configurations": ("3d_fullres", "2d")}, "-c 3d_fullres 2d: expected configurations in 3D"),
        *(
            ({"gpu_memory_target": gb}, f"-gpu_memory_target {gb}: expected at least 1 (GB)")
            for gb in (0.0, -8.0, 0.01, float("nan"), float("inf"))
        ),
        ({"modality": "a/b"}, "--modality a/b: expected at most 16 letters"),
        ({"like": "4", "planner": "nnUNetPlannerResEncM"}, "--like takes the other data set's plans"),
        ({"like": "4", "gpu_memory_target": 8.0}, "can't go with -pl, -gpu_memory_target or --hu_window"),
        ({"like": "4", "hu_window": (-1000.0, 1000.0)}, "can't go with -pl, -gpu_memory_target or --hu_window"),
    ],
)
def test_bad_preparation_option_is_named(changes, message):
    with pytest.raises(GenesisError) as error:
        prepare_options(**changes)
    assert message in str(error.value)
    assert str(error.value).endswith("Correct the command.")


@pytest.mark.parametrize(("number", "name"), [(1, "Dataset001_ChestCT"), (42, "Dataset042_ChestCT")])
def test_dataset_name_is_nnunets(number, name):
    assert prepare_options(dataset_id=number).dataset_name == name


@pytest.mark.parametrize(
    ("modality", "asked"),
    [("auto", None), ("cbct", "cbct"), *((name, name.upper()) for name in ("ct", "pet", "pt", "Mri", "nm", "us"))],
)
def test_asked_modality(modality, asked):
    assert prepare_options(modality=modality).asked_modality == asked
