"""Local shuffling: permute the voxels inside thousands of small windows, without a loop over windows.

Windows of similar volume are the rows of one matrix of random keys; sorting its rows gives each window a permutation.
What a window writes to a voxel is one integer, (window number, local source voxel), so that the largest one written to
a voxel is the last window's, in whatever order they are written.
"""

from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from pretraining.restoration.corruption import Corruption, as_float32, draw_seed, uniform_starts
from pretraining.restoration.coverage import largest_edge, window_count

# Keys in flight at once: they and their temporaries should stay in the second-level cache.
BATCH_KEYS = 2**15


class LocalShuffling(Corruption):
    """Permute the voxels inside random windows, which the channels share (Zhou et al. 2021, section 3.2).

    Each window permutes the *uncorrupted* image and overwrites earlier windows, so shuffles never compound. Edges are
    uniform on 1 … dim//10 (at least 1), positions uniform over all that fit. The number of windows keeps the expected
    coverage of 10,000 on 64×64×32 (81.9 %) for every shape. Axes below 20 voxels have edges of 1: a patch that has
    only such axes is left as it is.
    """

    def sample(self, rng: np.random.Generator, channels: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """``starts`` and ``edges``, int64 (windows, D), later windows on top, and the permutations' ``seed``."""
        size = np.array(shape)
        longest = np.array([largest_edge(n) for n in shape])
        edges = 1 + (rng.random((window_count(shape), len(shape))) * longest).astype(np.int64)
        return {"starts": uniform_starts(rng, edges, size), "edges": edges, "seed": draw_seed(rng)}

    def _apply_to_image(self, img: torch.Tensor, *, starts: np.ndarray, edges: np.ndarray, seed: int) -> torch.Tensor:
        img = as_float32(img)
        source = torch.from_numpy(source_voxels(tuple(img.shape[1:]), starts, edges, seed))
        out = torch.empty_like(img)
        for channel, shuffled in zip(img, out, strict=True):
            torch.index_select(channel.view(-1), 0, source, out=shuffled.view(-1))
        return out


class WindowShapes(NamedTuple):
    """All windows possible in a patch, in groups of similar volume; the arrays are indexed by a window's edges.

    Attributes:
        offsets: per group, int32 (windows, largest volume): flat offsets of a window's voxels, padded with -1.
        group: the group a window belongs to.
        row: its row in the group's ``offsets``.
        entry: where this row begins when all ``offsets`` are concatenated, as ``flat``.
        local_bits: number of bits for the index of a voxel in its window.
    """

    offsets: list[np.ndarray]
    group: np.ndarray
    row: np.ndarray
    entry: np.ndarray
    flat: np.ndarray
    local_bits: int


class Batch(NamedTuple):
    """Windows of one group, int64 (k,), and their rows in the group's table."""

    group: int
    windows: np.ndarray
    rows: np.ndarray


def source_voxels(shape: tuple[int, ...], starts: np.ndarray, edges: np.ndarray, seed: int) -> np.ndarray:
    """For each voxel, the flat index of the voxel whose value it gets: int32 (X·Y[·Z],)."""
    shapes = window_shapes(shape)
    base = starts @ _strides(shape)
    batches = window_batches(shapes, edges)
    codes = _last_writes(shapes, base, batches, seed, int(np.prod(shape)))
    # Row 0 stands for "no window".
    first_voxel = np.append(0, base).astype(np.int32)
    entry = np.append(0, shapes.entry[tuple(edges.T)]).astype(np.int32)
    # In place and block by block: a fresh array of a whole patch costs more in page faults than in arithmetic.
    for first in range(0, len(codes), BATCH_KEYS):
        block = codes[first : first + BATCH_KEYS]
        window = block >> shapes.local_bits
        source = shapes.flat.take(entry.take(window) + (block & ((1 << shapes.local_bits) - 1)))
        source += first_voxel.take(window)
        itself = np.arange(first, first + len(block), dtype=np.int32)
        block[:] = np.where(block > 0, source, itself)
    return codes


def _last_writes(shapes: WindowShapes, base: np.ndarray, batches: list[Batch], seed: int, voxels: int) -> np.ndarray:
    """Per voxel, of the last window over it: (window + 1, local index of the source), or 0; int32 (voxels,).

    31 bits are enough: windows × largest volume is about 15 times the number of voxels.
    """
    rng = np.random.default_rng(seed)
    last = np.zeros(voxels, np.int32)
    numbers = (np.arange(1, len(base) + 1) << shapes.local_bits).astype(np.int32)
    for batch in batches:
        offsets = shapes.offsets[batch.group].take(batch.rows, axis=0)
        padding = offsets >> 31  # all bits set at -1
        codes = _permutations(rng, padding, shapes.local_bits)
        codes |= numbers[batch.windows][:, None]
        codes &= ~padding
        voxel = offsets + base[batch.windows][:, None]
        # Padding writes 0 to the voxel before its window, which changes nothing. Not `last[voxel] = codes`: numpy
        # doesn't promise that the last of repeated indices wins.
        np.maximum.at(last, voxel.ravel(), codes.ravel())
    return last


def _permutations(rng: np.random.Generator, padding: np.ndarray, local_bits: int) -> np.ndarray:
    """A random permutation of each row's local indices, int32, those of the ``padding`` (-1, else 0) at the end."""
    keys = draw_keys(rng, padding.shape, local_bits)
    keys |= np.arange(padding.shape[1], dtype=np.uint32)
    keys |= padding.view(np.uint32)
    keys.sort(axis=1)
    keys &= np.uint32((1 << local_bits) - 1)
    return keys.view(np.int32)


def draw_keys(rng: np.random.Generator, shape: tuple[int, ...], local_bits: int) -> np.ndarray:
    """Random uint32 whose lowest ``local_bits`` are 0: a window's voxels are shuffled by sorting them by their keys.

    Each raw 64 bits give two, in half the time of `integers`. The bits left (21 for 128³) make ties rare; a tie keeps
    the order of two voxels.
    """
    count = int(np.prod(shape))
    keys = rng.bit_generator.random_raw((count + 1) // 2).view(np.uint32)[:count].reshape(shape)
    keys <<= np.uint32(local_bits)
    return keys


def window_batches(shapes: WindowShapes, edges: np.ndarray) -> list[Batch]:
    """All windows group by group, in the order in which they draw their keys; ``edges`` (windows, D)."""
    index = tuple(edges.T)
    groups, rows = shapes.group[index], shapes.row[index]
    # numpy sorts 16-bit integers by radix, ten times as fast.
    order = np.argsort(groups.astype(np.uint16), kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=len(shapes.offsets)))
    batches = []
    for group, members in enumerate(np.split(order, ends[:-1])):
        step = max(1, BATCH_KEYS // shapes.offsets[group].shape[1])
        parts = [members[first : first + step] for first in range(0, len(members), step)]
        batches += [Batch(group, windows, rows[windows]) for windows in parts]
    return batches


@lru_cache(maxsize=4)
def window_shapes(shape: tuple[int, ...]) -> WindowShapes:
    """The tables for a patch of this shape: about 4 MB for 128³."""
    longest = [largest_edge(n) for n in shape]
    possible = np.array(list(product(*(range(1, n + 1) for n in longest))))
    volumes = possible.prod(axis=1)
    # Volumes within a third of an octave share a group: 4 to 11 % of a group's matrix is padding.
    _, groups = np.unique(np.ceil(3 * np.log2(volumes)), return_inverse=True)
    group, row, entry = (np.zeros([n + 1 for n in longest], np.int64) for _ in range(3))
    offsets: list[np.ndarray] = []
    length = 0
    for number in range(groups.max() + 1):
        members = possible[groups == number]
        table = _offset_table(members, _strides(shape))
        index = tuple(members.T)
        group[index], row[index] = number, np.arange(len(members))
        entry[index] = length + np.arange(len(members)) * table.shape[1]
        offsets.append(table)
        length += table.size
    flat = np.concatenate([table.ravel() for table in offsets])
    return WindowShapes(offsets, group, row, entry, flat, int(volumes.max() - 1).bit_length())


def _offset_table(edges: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Flat offsets of each window's voxels from its first one, in C order, padded with -1; int32 (windows, volume)."""
    volumes = edges.prod(axis=1)
    table = np.full((len(edges), volumes.max()), -1, np.int32)
    for row, edge, volume in zip(table, edges, volumes, strict=True):
        row[:volume] = np.tensordot(strides, np.indices(edge), axes=1).ravel()
    return table


def _strides(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([np.prod(shape[axis + 1 :], dtype=np.int64) for axis in range(len(shape))])
