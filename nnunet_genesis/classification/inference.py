"""Probabilities of preprocessed images: mean of the logits over windows, mirrored images, and folds."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

from nnunet_genesis.classification.places import centred, region, to_voxels, windows

BATCH = 8


def starts_of(
    points: np.ndarray | None,
    shape: Sequence[int],
    properties: Mapping[str, Any],
    patch: Sequence[int],
    transpose: Sequence[int],
) -> list[Sequence[int]]:
    """Where a preprocessed case's patches begin: one on each of its candidates (n, 3), in mm, or windows over it."""
    if points is None:
        return list(windows(region(properties, shape), patch))
    return centred(to_voxels(points, properties, transpose, shape), patch).tolist()


@torch.inference_mode()
def mean_outputs(
    forward: Callable[[torch.Tensor], torch.Tensor],
    image: Any,
    starts: Iterable[Sequence[int]],
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
    outputs, remaining = [], iter(starts)
    while chunk := list(itertools.islice(remaining, BATCH)):
        boxes = [[[int(a), int(a) + int(n)] for a, n in zip(start, patch, strict=True)] for start in chunk]
        batch = torch.from_numpy(np.stack([crop_and_pad_nd(image, box, 0) for box in boxes])).float().to(device)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            flipped = [forward(torch.flip(batch, [axis + 2 for axis in flip])).float() for flip in flips]
        outputs.append(torch.stack(flipped).mean(0).cpu())
    return torch.cat(outputs)
