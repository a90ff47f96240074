"""Options of a run: what is refused, and that the message names the flag."""

import dataclasses

import pytest

from nnunet_genesis.errors import GenesisError
from pretraining.options import RestorationOptions


@pytest.mark.parametrize(
    ("changes", "flag", "expected"),
    [
        ({"epochs": 0}, "--epochs 0", "at least 1"),
        ({"epochs": -5}, "--epochs -5", "at least 1"),
        ({"iterations": 0}, "--iterations 0", "at least 1"),
        ({"peak_lr": 0.0}, "--lr 0.0", "above 0"),
        ({"peak_lr": -1e-3}, "--lr -0.001", "above 0"),
        ({"peak_lr": float("nan")}, "--lr nan", "above 0"),
        ({"warmup_epochs": -1}, "--warmup -1", "at least 0"),
        ({"gradient_clip": 0.0}, "gradient_clip 0.0", "above 0"),
        ({"seed": -1}, "--seed -1", "at least 0"),
        ({"precision": "fp8"}, "--precision fp8", "auto, fp32, bf16, fp16"),
        ({"memory_format": "nhwc"}, "--memory_format nhwc", "auto, contiguous, channels_last"),
    ],
)
def test_bad_run_option_is_named(changes, flag, expected):
    with pytest.raises(GenesisError) as error:
        RestorationOptions(**changes)
    assert str(error.value).startswith(f"{flag}: expected ")
    assert expected in str(error.value)
    assert str(error.value).endswith("Correct the command.")


@pytest.mark.parametrize("changes", [{}, {"warmup_epochs": 0}, {"epochs": 1, "iterations": 1}, {"precision": "fp16"}])
def test_good_run_options(changes):
    options = RestorationOptions(**changes)
    assert RestorationOptions(**dataclasses.asdict(options)) == options


RECORD = {
    "options": dataclasses.asdict(RestorationOptions(epochs=20, seed=3, precision="fp32", memory_format="contiguous")),
    "training": {"epochs": 5, "batch_size": 2},
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epochs": 30},
        {"epochs": 5, "compile": True, "licence": "CC0-1.0", "memory_format": "channels_last"},
        {"seed": 3, "batch_size": 2, "peak_lr": 1e-3, "warmup_epochs": 2, "precision": "auto"},  # what it has
    ],
)
def test_a_continued_run_keeps_its_options_but_for_those_that_may_change(changes):
    options = RestorationOptions.continued(RECORD, changes)
    kept = {name: value for name, value in changes.items() if name in ("epochs", "compile", "licence", "memory_format")}
    assert options == RestorationOptions(**(RECORD["options"] | {"warmup_epochs": 2} | kept))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 7, "epochs": 30}, "--seed 7: the run was started with 3."),
        ({"batch_size": 3}, "--batch_size 3: the run was started with 2."),
        ({"peak_lr": 0.1}, "--lr 0.1: the run was started with 0.001."),
        ({"warmup_epochs": 0}, "--warmup 0: the run was started with 2."),
        ({"precision": "bf16"}, "--precision bf16: the run was started with fp32."),
        ({"iterations": 9}, "--iterations 9: the run was started with 250."),
        ({"epochs": 4}, "--epochs 4: the run has done 5."),
    ],
)
def test_a_continued_run_with_another_option_is_refused(changes, message):
    with pytest.raises(GenesisError) as error:
        RestorationOptions.continued(RECORD, changes)
    assert str(error.value).startswith(message)
    assert "move the folder away to start anew" in str(error.value)


def test_run_defaults():
    options = RestorationOptions()
    assert (options.epochs, options.iterations, options.peak_lr, options.seed) == (1000, 250, 1e-3, 0)
    assert (options.warmup_epochs, options.precision, options.licence) == (None, "auto", "not stated")


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RestorationOptions().seed = 3
