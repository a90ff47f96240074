"""The plan's own encoder with a linear classifier on it."""

from typing import Any

import torch
from torch import nn

from nnunet_genesis.errors import GenesisError

DROPOUT = 0.2


class Classifier(nn.Module):
    """Global average pooling of one encoder stage, dropout, and a linear layer.

    The encoder keeps nnU-Net's names (``encoder.*``), so that pretrained weights are placed as in segmentation.

    Args:
        network: a U-Net of nnU-Net's, or ours; its decoder is left.
        classes: number of outputs.
        stage: encoder stage that is pooled, from 0; ``None``: the last. Stages after it are left out.

    Raises:
        GenesisError: the encoder has no such stage.
    """

    encoder: Any

    def __init__(self, network: Any, classes: int, stage: int | None = None):
        super().__init__()
        self.input_map = getattr(network, "input_map", nn.Identity())
        self.encoder = network.encoder
        self.encoder.return_skips = True
        stages = len(self.encoder.stages)
        if stage is not None and stage >= stages:
            raise GenesisError(f"nnUNet_genesis_stage={stage}: this encoder has stages 0 to {stages - 1}. Correct it.")
        self.stage = stages - 1 if stage is None else stage
        self.encoder.stages = self.encoder.stages[: self.stage + 1]
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(self.encoder.output_channels[self.stage], classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled vectors (B, F) of (B, C, Z, Y, X)."""
        return self.encoder(self.input_map(x))[-1].mean((2, 3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of (B, C, Z, Y, X)."""
        return self.head(self.dropout(self.features(x)))
