"""Labelled items (scans or candidates) for nnU-Net's loader: balanced over the classes, each patch on its place."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_genesis.classification.labels import XYZ
from nnunet_genesis.classification.places import centred, region, to_voxels, window_range

JITTER = 0.1  # of the patch's length, to each side


class Items:
    """What nnU-Net's loader takes for a data set: its identifiers are the rows of a table of items.

    Args:
        dataset: nnU-Net's preprocessed cases.
        table: a row an item: case, rank (the class' number) and, of candidates, x, y, z in mm.
        transpose: the plans' ``transpose_forward``.
    """

    def __init__(self, dataset: nnUNetBaseDataset, table: pd.DataFrame, transpose: Sequence[int]):
        self.dataset, self.transpose = dataset, transpose
        self.cases, self.ranks = table["case"].to_numpy(str), table["rank"].to_numpy(int)
        self.points = table[XYZ].to_numpy(float) if "x" in table else None
        self.identifiers = list(range(len(table)))

    def load_case(self, item: int) -> tuple[Any, Any, None, dict[str, Any]]:
        """As nnU-Net's, with the item's place, for :meth:`ItemLoader.get_bbox`, in that of the classes' voxels."""
        data, seg, _, properties = self.dataset.load_case(self.cases[item])
        shape = data.shape[1:]
        if self.points is None:
            place = region(properties, shape)
        else:
            place = to_voxels(self.points[item : item + 1], properties, self.transpose, shape)
        return data, seg, None, {**properties, "class_locations": place}


class ItemLoader(nnUNetDataLoader):
    """Batches ``{"data", "target", "keys"}``: patches (B, C, Z, Y, X), their classes (B,), and the items.

    Classes are drawn equally often. A candidate is in the patch's middle, a region or a body that fits into the patch
    too, each moved by up to a tenth of the patch where ``jitter``; of a larger one a random part is taken.
    """

    def __init__(self, *args: Any, jitter: bool, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.jitter = jitter
        ranks = self._data.ranks
        self.of_class = [np.flatnonzero(ranks == rank) for rank in np.unique(ranks)]

    def get_indices(self) -> list[int]:
        """Draw a batch's items."""
        drawn = [np.random.randint(len(self.of_class)) for _ in range(self.batch_size)]
        return [int(np.random.choice(self.of_class[rank])) for rank in drawn]

    def get_bbox(
        self, data_shape: np.ndarray, force_fg: bool, class_locations: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[int], list[int]]:
        """Start and end of the item's patch; ``class_locations`` is its place."""
        patch, whole = np.array(self.final_patch_size), np.array(self.patch_size)
        if class_locations.shape == (1, 3):
            first = last = centred(class_locations, patch)[0]
        else:
            first, last = window_range(class_locations, patch)
        start: np.ndarray = np.random.randint(first, last + 1)
        if self.jitter:
            most = (JITTER * patch).astype(int)
            start = start + np.random.randint(-most, most + 1) * (first == last)
        start = start - (whole // 2 - patch // 2)  # augmentation takes the middle of a larger patch
        return start.tolist(), (start + whole).tolist()

    def generate_train_batch(self) -> dict[str, Any]:
        """nnU-Net's, the classes in place of the segmentation."""
        batch = super().generate_train_batch()
        return {**batch, "target": torch.from_numpy(self._data.ranks[batch["keys"]])}
