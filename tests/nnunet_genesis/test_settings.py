"""Settings from the environment: what is accepted, what is refused, and that the message names the variable."""

import dataclasses
from collections.abc import Callable

import pytest

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.settings import PREFIX, Settings


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Settings]:
    """Reads the settings where these variables are set."""

    def settings(variables: dict[str, str]) -> Settings:
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        return Settings.from_environment()

    return settings


def test_defaults_without_variables(read):
    assert read({"PATH": "/bin", "nnUNet_raw": "/raw"}) == Settings(
        weights=None, epochs=None, iterations=None, peak_lr=None, warmup_epochs=None, min_coverage=0.5
    )


def test_every_variable_is_read_with_its_type(read):
    texts = {"weights": "/w.pth", "epochs": "7", "iterations": "3", "peak_lr": "1e-2", "warmup_epochs": "0"}
    texts |= {"partial_widths": "1", "min_coverage": "1", "precision": "bf16", "optimizer": "adamw"}
    texts |= {"unit_variance": "1", "seed": "0", "freeze": "encoder", "stage": "3", "mirroring": "0"}
    texts |= {"tensorboard": "1", "panels": "0", "schedule": "poly"}
    found = read({PREFIX + name: text for name, text in texts.items()})
    assert found == Settings("/w.pth", 7, 3, 0.01, 0, 1, 1.0, "bf16", "adamw", 1, 0, "encoder", 3, 0, 1, 0, "poly")
    types = [str, int, int, float, int, int, float, str, str, int, int, str, int, int, int, int, str]
    assert [type(value) for value in dataclasses.astuple(found)] == types


def test_windows_upper_cases_the_names_of_variables(read):
    assert read({"NNUNET_GENESIS_EPOCHS": "7"}).epochs == 7


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", ["weight", "epoch", "warmup", "min_coverge", "peaklr"])
def test_unknown_variable_hints_at_the_closest(read, name):
    close = {"weight": "weights", "epoch": "epochs", "warmup": "warmup_epochs", "peaklr": "peak_lr"}
    with pytest.raises(GenesisError) as error:
        read({PREFIX + name: "1"})
    assert f"Unknown environment variable {PREFIX}{name}." in str(error.value)
    assert f"Did you mean {PREFIX}{close.get(name, 'min_coverage')}?" in str(error.value)
    assert "unset it" in str(error.value)


def test_variable_like_no_other_gets_the_list(read):
    with pytest.raises(GenesisError, match=r"Known: nnUNet_genesis_weights, .*nnUNet_genesis_min_coverage"):
        read({"nnUNet_genesis_" + "q" * 40: "1"})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("weights", "", "path of a Genesis checkpoint"),
        ("weights", "  ", "path of a Genesis checkpoint"),
        ("epochs", "0", "whole number of at least 1"),
        ("epochs", "1.5", "whole number of at least 1"),
        ("iterations", "-3", "whole number of at least 1"),
        ("iterations", "many", "whole number of at least 1"),
        ("peak_lr", "0", "above 0 and below 10"),
        ("peak_lr", "10", "above 0 and below 10"),
        ("peak_lr", "nan", "above 0 and below 10"),
        ("peak_lr", "1e-3 ,", "above 0 and below 10"),
        ("warmup_epochs", "-1", "whole number of at least 0"),
        ("warmup_epochs", "", "whole number of at least 0"),
        ("partial_widths", "yes", "0 or 1"),
        ("partial_widths", "2", "0 or 1"),
        ("min_coverage", "1.01", "number from 0 to 1"),
        ("min_coverage", "-0.1", "number from 0 to 1"),
        ("min_coverage", "nan", "number from 0 to 1"),
        ("min_coverage", "50%", "number from 0 to 1"),
        ("precision", "fp16", "fp32, bf16 or auto"),
        ("optimizer", "adam", "sgd or adamw"),
        ("seed", "-1", "whole number of at least 0"),
    ],
)
def test_bad_value_is_named_with_variable_and_expectation(read, name, text, expected):
    with pytest.raises(GenesisError) as error:
        read({PREFIX + name: text})
    assert str(error.value).startswith(f"{PREFIX}{name}={text!r}: expected ")
    assert expected in str(error.value)
    assert str(error.value).endswith("Correct or unset it.")
