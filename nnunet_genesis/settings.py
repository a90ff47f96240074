"""Every ``nnUNet_genesis_*`` environment variable, read once, and the weights that they or the plans name."""

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file, sha256
from nnunet_genesis.training.schedule import SCHEDULES

PREFIX = "nnUNet_genesis_"
ENTRY = 'plans["genesis"]'


def _setting(parse: Callable[[str], Any], accept: Callable[[Any], bool], expected: str, default: Any = None) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parse, "accept": accept, "expected": expected})


def _one_of(*values: Any, default: Any = None) -> Any:
    *others, last = map(str, values)
    expected = f"{', '.join(others)} or {last}" if others else last
    return _setting(type(values[0]), lambda value: value in values, expected, default)


def _at_least(least: int) -> Any:
    return _setting(int, lambda value: value >= least, f"a whole number of at least {least}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the fine-tuning trainers; ``None`` means the trainer's own default.

    Attributes:
        weights: Genesis checkpoint (path). Takes precedence over ``plans["genesis"]["weights"]``.
        epochs: number of epochs (nnU-Net: 1000).
        iterations: training iterations an epoch (nnU-Net: 250); validation iterations stay a fifth of them.
        peak_lr: learning rate at the end of the warm-up; without it as the run's length wants it.
        warmup_epochs: epochs of linear warm-up; 0 switches it off.
        partial_widths: 1 takes the leading channels and blocks where their numbers differ; 0 leaves such tensors.
        min_coverage: share of the encoder's parameters, in [0, 1], that the weights must cover.
        precision: fp32, as nnU-Net on a CPU, bf16, or auto: bf16 where the CPU has it; on a GPU nnU-Net decides.
        optimizer: sgd, nnU-Net's own (default), with its weight decay of 3e-5, or adamw, with torch's of 1e-2.
        unit_variance: 1 scales loaded kernels to outputs of unit variance in front of instance norms, 0 doesn't;
            without it they are scaled for SGD.
        seed: fixes initial weights and batches; without it nnU-Net's loaders draw as they do.
        freeze: encoder leaves the encoder as it was loaded.
        stage: of the classifiers: the encoder stage that is pooled, from 0; without it the last.
        mirroring: 1 mirrors patches, in training and prediction, 0 doesn't; without it as nnU-Net, of the classifiers
            unless a class is a side.
        tensorboard: 1 writes TensorBoard's events to the run's folder; of pretraining too.
        panels: 1 gives W&B and TensorBoard the pictures of a pretraining, which are slices of patients.
        schedule: warmup (default), sawtooth or poly; see :mod:`nnunet_genesis.training.schedule`.
    """

    weights: str | None = _setting(str, lambda v: bool(v.strip()), "the path of a Genesis checkpoint")
    epochs: int | None = _at_least(1)
    iterations: int | None = _at_least(1)
    peak_lr: float | None = _setting(float, lambda v: 0 < v < 10, "a number above 0 and below 10")
    warmup_epochs: int | None = _at_least(0)
    partial_widths: int = _one_of(0, 1, default=0)
    min_coverage: float = _setting(float, lambda v: 0 <= v <= 1, "a number from 0 to 1", default=0.5)
    precision: str = _one_of("fp32", "bf16", "auto", default="fp32")
    optimizer: str | None = _one_of("sgd", "adamw")
    unit_variance: int | None = _one_of(0, 1)
    seed: int | None = _at_least(0)
    freeze: str | None = _one_of("encoder")
    stage: int | None = _at_least(0)
    mirroring: int | None = _one_of(0, 1)
    tensorboard: int = _one_of(0, 1, default=0)
    panels: int = _one_of(0, 1, default=0)
    schedule: str | None = _one_of(*SCHEDULES)

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the settings from the process' environment.

        Raises:
            GenesisError: a variable of ours is unknown, or its value can't be used.
        """
        fields = {field.name.lower(): field for field in dataclasses.fields(cls)}
        values = {}
        for variable, text in os.environ.items():
            if variable.lower().startswith(PREFIX.lower()):  # Windows upper-cases the names
                name = variable[len(PREFIX) :].lower()
                if name not in fields:
                    raise GenesisError(_unknown(variable, [PREFIX + known for known in fields]))
                values[name] = _parse(variable, text, fields[name].metadata)
        return cls(**values)

    def refuse(self, unused: Collection[str], trainer: str) -> None:
        """Raise GenesisError where one of these, which ``trainer`` doesn't look at, is set."""
        for name in unused:
            if getattr(self, name) is not None:
                raise GenesisError(f"{PREFIX}{name}: {trainer} doesn't use it. Unset it.")

    def scales_loaded(self) -> bool:
        """Say whether loaded kernels are scaled to unit variance."""
        return self.optimizer != "adamw" if self.unit_variance is None else bool(self.unit_variance)


def _unknown(variable: str, names: list[str]) -> str:
    close = difflib.get_close_matches(variable, names, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(names)}."
    return f"Unknown environment variable {variable}. {hint} Rename or unset it."


def _parse(variable: str, text: str, field: Mapping[str, Any]) -> Any:
    with contextlib.suppress(ValueError):
        value = field["parse"](text)
        if field["accept"](value):
            return value
    raise GenesisError(f"{variable}={text!r}: expected {field['expected']}. Correct or unset it.")


def weights_file(settings: Settings, plans: Mapping[str, Any], trainer: str) -> Path:
    """Find the file of weights: what ``nnUNet_genesis_weights`` names, else what the plans do.

    Plans may be untrusted. Whatever path they name is only ever read as a checkpoint. Where they have a
    ``sha256`` beside ``weights``, the file must have it; it is of no concern where the variable names another file.

    Args:
        settings: of the environment.
        plans: nnU-Net's; ``plans["genesis"]``, where it is there, has ``weights`` and may have ``sha256``.
        trainer: its name, for the message.

    Raises:
        GenesisError: neither names a file, the plans' entry isn't what it should be, or the digest is another.
    """
    if settings.weights:
        return Path(os.path.expanduser(settings.weights))
    planned = plans.get("genesis", {})
    planned = planned if isinstance(planned, Mapping) else {"weights": planned}
    path, digest = planned.get("weights"), planned.get("sha256")
    for key, value in (("weights", path), ("sha256", digest)):
        if value is not None and not isinstance(value, str):
            raise GenesisError(
                f'{ENTRY}["{key}"]: expected text, found {type(value).__name__}. Correct the plans, or remove it there '
                "and set nnUNet_genesis_weights=/path/to/checkpoint_final.pth."
            )
    if not path:
        raise GenesisError(
            f"{trainer} has no weights to start from. Expected the environment variable nnUNet_genesis_weights or "
            f'{ENTRY}["weights"]; found neither. Set nnUNet_genesis_weights=/path/to/checkpoint_final.pth (from '
            "nnUNetv2_genesis_pretrain), or train from random weights with -tr nnUNetTrainerGenesisScratch."
        )
    file = Path(os.path.expanduser(path))
    if digest is not None and (found := sha256(regular_file(file))) != digest.strip().lower():
        raise GenesisError(
            f'{file}: expected the SHA-256 {digest} that {ENTRY}["sha256"] names, found {found}; it is another file, '
            "or was changed or damaged on its way. Nothing was read. Get the file that the plans mean, or, if you "
            "trust this one, name it in nnUNet_genesis_weights."
        )
    return file
