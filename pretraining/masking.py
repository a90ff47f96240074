"""Masked autoencoding as an objective of pretraining: blocks are hidden, and the loss counts what is hidden."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnunet_genesis.checkpoint import CITATIONS
from nnunet_genesis.errors import GenesisError
from pretraining.options import RestorationOptions
from pretraining.restoration import RandomFlip
from pretraining.restoration.corruption import Sampled, Seed, as_float32
from pretraining.trainer import nnUNetTrainerRestoration

RATIO = 0.75  # He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022
EDGE, BLOCKS = 16, 4  # blocks of 16 voxels, but at least 4 of them along an axis
CITATION = (
    "He K, Chen X, Xie S, Li Y, Dollár P, Girshick R. Masked Autoencoders Are Scalable Vision Learners. CVPR 2022. "
    "arXiv:2111.06377"
)


class BlockMasking(Sampled):
    """Hide blocks of ``image``, a float tensor (C, X, Y[, Z]) in [0, 1], and keep the clean patch as ``target``.

    Flips first, as in restoration. The grid of blocks begins at the first voxel; its last blocks may be cut. Of all
    blocks the share ``p_masked`` is hidden, at least one, never all; their voxels take the mean of what stays visible,
    channel by channel. ``hidden``, bool (1, X, Y[, Z]), says where.

    Args:
        p_masked: share of the blocks to hide.
        block: edges in voxels.
        seed: see :class:`pretraining.restoration.corruption.Sampled`.
        p_flip: probability of each further flip.
    """

    def __init__(self, p_masked: float, block: Sequence[int], seed: Seed = None, p_flip: float = 0.4) -> None:
        super().__init__(seed)
        self.p_masked, self.block, self.flip = p_masked, tuple(block), RandomFlip(p_flip)

    def sample(self, rng: np.random.Generator, channels: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """``axes`` to flip and ``masked``, bool, one a block."""
        grid = [-(-n // edge) for n, edge in zip(shape, self.block, strict=True)]
        blocks = int(np.prod(grid))
        number = min(max(1, round(self.p_masked * blocks)), blocks - 1)
        masked = (rng.permutation(blocks) < number).reshape(grid)
        return {"axes": self.flip.sample(rng, channels, shape)["axes"], "masked": masked}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Make a new dict with ``image``, ``target``, ``hidden`` and what else was in ``data_dict``."""
        flipped = self.flip.apply(data_dict, axes=params["axes"])
        target = as_float32(flipped["image"])
        blocks = [np.arange(n) // edge for n, edge in zip(target.shape[1:], self.block, strict=True)]
        hidden = torch.from_numpy(params["masked"][np.ix_(*blocks)])[None]
        visible = target[:, ~hidden[0]].mean(1).reshape(-1, *[1] * (target.ndim - 1))
        return {**flipped, "image": torch.where(hidden, visible, target), "target": target, "hidden": hidden}


class nnUNetTrainerMasking(nnUNetTrainerRestoration):
    """Pretrains the plan's network as a masked autoencoder; all else is :class:`nnUNetTrainerRestoration`'s."""

    method = "masked autoencoding (blocks)"
    citations = (CITATION, CITATIONS[1])
    alone = ()
    hidden_only = True

    @classmethod
    def check(cls, options: RestorationOptions, patch: Sequence[int]) -> None:
        """Refuse blocks of which a patch has no two.

        Raises:
            GenesisError: it has not.
        """
        if options.mask_block and all(edge >= n for edge, n in zip(options.mask_block, patch, strict=True)):
            block, of = (" ".join(map(str, numbers)) for numbers in (options.mask_block, patch))
            raise GenesisError(f"--mask_block {block}: the patch, {of}, is one block. Choose a smaller one.")

    def use(self, options: RestorationOptions) -> None:
        """Set the options; what isn't given of the masks is :data:`RATIO`, and blocks of the patch's size."""
        patch = self.configuration_manager.patch_size
        block = options.mask_block or [min(EDGE, max(1, int(n) // BLOCKS)) for n in patch]
        super().use(dataclasses.replace(options, mask_block=block, mask_ratio=options.mask_ratio or RATIO))

    def corruption(self) -> BlockMasking:
        """Return what hides blocks."""
        return BlockMasking(self.options.mask_ratio or RATIO, self.options.mask_block or ())
