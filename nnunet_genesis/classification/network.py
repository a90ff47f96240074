"""The plan's own encoder with a linear classifier, and what a network gives for patches of an image."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import nn

from nnunet_genesis.errors import GenesisError

BATCH = 8  # patches at a time
DROPOUT = 0.2


class Classifier(nn.Module):
    """Global average pooling of one encoder stage, dropout, and a linear layer on standardised features.

    The encoder keeps nnU-Net's names (``encoder.*``), so that pretrained weights are placed as in segmentation.
    Behind instance norms a channel's mean over a patch hardly differs between scans (1 % on ACDC), and a linear layer
    on it hardly learns. So each feature is brought to mean 0 and variance 1 over the batches (He et al., Masked
    Autoencoders, CVPR 2022, appendix A.1, for linear probes).

    Args:
        network: a U-Net of nnU-Net's, or ours; its decoder is left.
        classes: number of outputs.
        stage: that is pooled, from 0; ``None``: the last. Stages after it are left out.

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
        features = self.encoder.output_channels[self.stage]
        self.norm = nn.BatchNorm1d(features, affine=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(features, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled vectors (B, F) of (B, C, Z, Y, X)."""
        return self.encoder(self.input_map(x))[-1].mean((2, 3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of (B, C, Z, Y, X)."""
        return self.head(self.dropout(self.norm(self.features(x))))


@torch.inference_mode()
def mean_outputs(
    forward: Callable[[torch.Tensor], torch.Tensor],
    image: Any,
    starts: Sequence[Sequence[int]],
    patch: Sequence[int],
    device: torch.device,
    mirror_axes: Sequence[int] = (),
) -> torch.Tensor:
    """What ``forward`` gives for the patches that begin at ``starts``, averaged over all ways of mirroring.

    Args:
        forward: (B, C, Z, Y, X) → (B, F).
        image: (C, Z, Y, X), an array or nnU-Net's compressed one; outside of it is 0.
        mirror_axes: spatial axes, 0 to 2.

    Returns:
        (number of starts, F), float32, on the CPU.
    """
    flips = [flip for n in range(len(mirror_axes) + 1) for flip in itertools.combinations(mirror_axes, n)]
    outputs = []
    for first in range(0, len(starts), BATCH):
        corners = np.asarray(starts[first : first + BATCH])
        boxes = np.stack([corners, corners + np.asarray(patch)], 2).tolist()
        batch = torch.from_numpy(np.stack([crop_and_pad_nd(image, box, 0) for box in boxes])).float().to(device)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            flipped = [forward(torch.flip(batch, [axis + 2 for axis in flip])).float() for flip in flips]
        outputs.append(torch.stack(flipped).mean(0).cpu())
    return torch.cat(outputs)
