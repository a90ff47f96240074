"""Options of a pretraining run."""

import dataclasses
from typing import Any

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.training.precision import MEMORY_FORMATS, PRECISIONS
from nnunet_genesis.training.schedule import default_warmup

MAY_CHANGE = ("epochs", "compile", "memory_format", "licence")  # of a run that is continued
_FLAGS = {"peak_lr": "lr", "warmup_epochs": "warmup"}  # where the command's option has another name


@dataclasses.dataclass(frozen=True)
class RestorationOptions:
    """What a pretraining run can be told; docs/pretraining.md says which defaults were measured.

    Attributes:
        epochs: number of epochs.
        iterations: training iterations an epoch; validation takes a fifth of them.
        batch_size: patches a step, over all processes (default: the plan's).
        peak_lr: peak learning rate of AdamW.
        warmup_epochs: epochs of linear warm-up (default: 50, or a tenth of a shorter run).
        weight_decay: AdamW's.
        gradient_clip: largest norm of the gradient.
        seed: fixes initial weights, patches and corruptions.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        memory_format: ``auto``, ``contiguous`` or ``channels_last``.
        compile: use torch.compile.
        licence: licence of the weights, recorded in the checkpoint.
        mask_ratio: share of blocks that a masking trainer hides.
        mask_block: their edges in voxels, one an axis.
    """

    epochs: int = 1000
    iterations: int = 250
    batch_size: int | None = None
    peak_lr: float = 1e-3
    warmup_epochs: int | None = None
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    seed: int = 0
    precision: str = "auto"
    memory_format: str = "auto"
    compile: bool = False
    licence: str = "not stated"
    mask_ratio: float | None = None
    mask_block: list[int] | None = None

    @classmethod
    def continued(cls, record: dict[str, Any], changes: dict[str, Any]) -> "RestorationOptions":
        """Return the options of a run that is continued: its own, and of ``changes`` those in :data:`MAY_CHANGE`.

        The number of epochs, with which the learning rate decays, can grow, and shrink to what is done; the warm-up
        stays the run's. The others of these change the speed or the record. Any other option may be given again, with
        the run's value.

        Args:
            record: the ``genesis`` record of the checkpoint to go on from.
            changes: options that were given now.

        Raises:
            GenesisError: an option differs from the run's.
        """
        own, done = cls(**record["options"]), record["training"]
        warmup = default_warmup(own.epochs) if own.warmup_epochs is None else own.warmup_epochs
        resolved = dataclasses.asdict(own) | {"batch_size": done["batch_size"], "warmup_epochs": warmup}
        for name, value in changes.items():
            differs = name not in MAY_CHANGE and value not in (resolved[name], getattr(own, name), "auto")
            if differs or (name == "epochs" and value < done["epochs"]):
                was = f"has done {done['epochs']}" if name == "epochs" else f"was started with {resolved[name]}"
                raise GenesisError(
                    f"--{_FLAGS.get(name, name)} {value}: the run {was}. Leave the option out to go on, or move the "
                    "folder away to start anew."
                )
        kept = {name: value for name, value in changes.items() if name in MAY_CHANGE}
        return dataclasses.replace(own, warmup_epochs=warmup, **kept)

    def __post_init__(self) -> None:
        checks = {
            f"--epochs {self.epochs}: expected at least 1": self.epochs >= 1,
            f"--iterations {self.iterations}: expected at least 1": self.iterations >= 1,
            f"--batch_size {self.batch_size}: expected at least 1": self.batch_size is None or self.batch_size >= 1,
            f"--lr {self.peak_lr}: expected a number above 0": self.peak_lr > 0,
            f"--warmup {self.warmup_epochs}: expected at least 0": (self.warmup_epochs or 0) >= 0,
            f"gradient_clip {self.gradient_clip}: expected a number above 0": self.gradient_clip > 0,
            f"--mask_ratio {self.mask_ratio}: expected a number between 0 and 1": self.mask_ratio is None
            or 0 < self.mask_ratio < 1,
            f"--mask_block {self.mask_block}: expected one or three numbers of at least 1": self.mask_block is None
            or (len(self.mask_block) == 3 and min(self.mask_block) >= 1),
            f"--seed {self.seed}: expected at least 0": self.seed >= 0,
            f"--precision {self.precision}: expected one of {', '.join(PRECISIONS)}": self.precision in PRECISIONS,
            f"--memory_format {self.memory_format}: expected one of {', '.join(MEMORY_FORMATS)}": self.memory_format
            in MEMORY_FORMATS,
        }
        for message, holds in checks.items():
            if not holds:
                raise GenesisError(f"{message}. Correct the command.")
