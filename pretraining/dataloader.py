"""nnU-Net's data loader with keyed random streams, giving pairs to restore instead of segmentations.

Every patch has a stream of its own, keyed by (seed, stream, batch number, position in the global batch): a seed means
the same global batches for any number of processes too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_genesis.training.batches import Batches, keyed_random, start
from pretraining.intensity_range import Range, from_unit, to_unit


class RestorationDataLoader(nnUNetDataLoader):
    """Make batches ``{"data", "target", "hidden", "keys"}``: corrupted patches as a network sees them, clean ones.

    ``data`` is (B, C, Z, Y, X) float32 in nnU-Net's normalised intensities; ``target`` has the same shape, in [0, 1];
    ``hidden``, bool (B, 1, Z, Y, X), says of which voxels nothing is left (the corruption does, or else what changed).
    B are this process' ``positions`` of the global batch; foreground goes by the position there, as in one process.
    A patch with NaN or infinity in it becomes NaN as a whole, in both.

    Args:
        dataset: the preprocessed cases.
        batch_size: patches a global batch, over all processes.
        patch_size: (Z, Y, X) voxels.
        label_manager: nnU-Net's, for its sampling of foreground.
        oversample_foreground_percent: share of a batch's patches centred in the foreground (the body).
        ranges: each case's intensity range, see :mod:`pretraining.intensity_range`.
        corrupt: makes ``image`` and ``target``, perhaps ``hidden``, of ``image``; draws from numpy's global state.
        key: first part of the random key, (seed, stream).
        positions: which patches of the global batch to make; ``None``: all.
    """

    def __init__(
        self,
        dataset: nnUNetBaseDataset,
        batch_size: int,
        patch_size: Sequence[int],
        label_manager: LabelManager,
        oversample_foreground_percent: float,
        ranges: Mapping[str, Range],
        corrupt: BasicTransform,
        key: tuple[int, int],
        positions: Sequence[int] | None = None,
    ):
        super().__init__(dataset, batch_size, patch_size, patch_size, label_manager, oversample_foreground_percent)
        self.ranges, self.corrupt, self.key = ranges, corrupt, key
        self.positions = range(batch_size) if positions is None else positions
        self.warned: set[str] = set()  # cases with NaN that this process has met

    def start(self, first_batch: int, workers: int, pin_memory: bool = False) -> Batches:
        """Begin at batch ``first_batch`` with ``workers`` processes (0: in this process), in order."""
        return start(self.batch, first_batch, workers, pin_memory)

    def batch(self, number: int) -> dict:
        """Make batch ``number`` of the stream, whatever was made before."""
        with keyed_random(*self.key, number):
            cases = self.get_indices()  # of the whole global batch, the same on every rank
        return self._make(number, cases, self.corrupt)

    def get_bbox(self, data_shape: Sequence[int], *args: Any, **kwargs: Any) -> tuple[list[int], list[int]]:
        """Choose a box as nnU-Net does, moved so that no patch sticks out of an image large enough for it.

        A patch that nnU-Net centres on foreground may stick out at the far end: half of it would be padding to
        restore.
        """
        patch = np.asarray(self.patch_size)
        room = np.asarray(data_shape) - patch
        lower = np.minimum(super().get_bbox(data_shape, *args, **kwargs)[0], np.where(room >= 0, room, -(-room // 2)))
        return lower.tolist(), (lower + patch).tolist()

    def _patch(self, position: int, case: str) -> torch.Tensor:
        # The segmentation is only opened, never decompressed: restoration needs no label.
        image, _, _, properties = self._data.load_case(case)
        lower, upper = self.get_bbox(image.shape[1:], self.get_do_oversample(position), properties["class_locations"])
        box = [list(edges) for edges in zip(lower, upper, strict=True)]  # acvl-utils takes no tuples
        return torch.from_numpy(crop_and_pad_nd(image, box, 0)).float()

    def _warn(self, case: str) -> None:
        if case not in self.warned:
            self.warned.add(case)
            print(f"WARNING: {case}: holds NaN or infinity; steps with such a patch are skipped. Prepare it anew")

    def _make(self, number: int, cases: Sequence[str], corrupt: BasicTransform) -> dict:
        """Make this process' patches of a global batch; ``cases`` are those of all its positions."""
        mine = [cases[position] for position in self.positions]
        data = torch.empty(len(mine), len(self.ranges[mine[0]]), *self.patch_size)
        target, hidden = torch.empty_like(data), torch.zeros(len(mine), 1, *self.patch_size, dtype=torch.bool)
        with torch.no_grad():
            for slot, (position, case) in enumerate(zip(self.positions, mine, strict=True)):
                # + 1: SeedSequence pads a key with zeros, so position 0 would repeat the stream that chose the cases.
                with keyed_random(*self.key, number, position + 1):
                    patch = self._patch(position, case)
                    if not math.isfinite(patch.sum()):  # before infinity is clipped to the range
                        self._warn(case)
                        data[slot] = target[slot] = math.nan  # the trainer will skip the step
                        continue
                    # Not in place: it may be a read-only map of the file.
                    pair = corrupt(image=to_unit(patch, self.ranges[case]))
                from_unit(pair["image"], self.ranges[case], out=data[slot])
                target[slot] = pair["target"]
                changed = pair.get("hidden")
                hidden[slot] = (pair["image"] != pair["target"]).any(0) if changed is None else changed
        return {"data": data, "target": target, "hidden": hidden, "keys": mine}


class ValidationDataLoader(RestorationDataLoader):
    """Make a fixed set of batches that repeats after ``period`` batches and takes the corruptions in turn.

    Batch k has corruption ``kinds[k % len(kinds)]`` (also given as ``kind``); the ``len(kinds)`` batches of one round
    show the same patches, so that the corruptions can be compared. Cases are visited in turn.
    """

    def __init__(self, *args, kinds: Mapping[str, BasicTransform], period: int, **kwargs):  # type: ignore[no-untyped-def]
        super().__init__(*args, **kwargs)
        self.kinds, self.period = dict(kinds), period

    def batch(self, number: int) -> dict:
        """Make batch ``number``, the same as ``number + period``."""
        turn, kind = divmod(number % self.period, len(self.kinds))
        name = list(self.kinds)[kind]
        first = turn * self.batch_size
        cases = [self.indices[(first + position) % len(self.indices)] for position in range(self.batch_size)]
        return {**self._make(turn, cases, self.kinds[name]), "kind": name}
