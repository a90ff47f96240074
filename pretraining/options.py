"""Options of a pretraining run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RestorationOptions:
    """What a pretraining run can be told; the defaults are the measured ones (docs/pretraining.md).

    Attributes:
        epochs: number of epochs.
        iterations: training iterations an epoch; validation takes a fifth of them.
        peak_lr: peak learning rate of AdamW.
        warmup_epochs: epochs of linear warm-up (default: 50, or a tenth of a shorter run).
        weight_decay: AdamW's.
        gradient_clip: largest norm of the gradient.
        seed: fixes initial weights, patches and corruptions.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        compile: use torch.compile.
        licence: licence of the weights, recorded in the checkpoint.
    """

    epochs: int = 1000
    iterations: int = 250
    peak_lr: float = 1e-3
    warmup_epochs: int | None = None
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    licence: str = "not stated"
