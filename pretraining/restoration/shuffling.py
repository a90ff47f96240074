"""Local shuffling: permute the voxels inside thousands of small windows."""

from typing import Any

import numpy as np
import torch

from pretraining.restoration.boxes import Boxes, for_loops, in_three_axes
from pretraining.restoration.corruption import Corruption, as_float32, draw_seed
from pretraining.restoration.coverage import largest_edge, window_count
from pretraining.restoration.loops import gather, permute_windows


class LocalShuffling(Corruption):
    """Permute the voxels inside random windows, which the channels share (Zhou et al. 2021, section 3.2).

    Each window permutes the *uncorrupted* image and overwrites earlier windows, so shuffles never compound. Edges are
    uniform on 1 … dim//10 (at least 1), positions uniform over all that fit. The number of windows keeps the expected
    coverage of 10,000 on 64×64×32 (81.9 %) for every shape. Axes below 20 voxels have edges of 1: a patch that has
    only such axes is left as it is.
    """

    def sample(self, rng: np.random.Generator, channels: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """``starts`` and ``edges``, int64 (windows, D), later windows on top, and the permutations' ``seed``."""
        longest = np.array([largest_edge(n) for n in shape])
        # Scaled doubles: integers() with an array of bounds takes ten times as long, and the bias is below 1e-13.
        uniform = rng.random((2, window_count(shape), len(shape)))
        edges = (uniform[0] * longest).astype(np.int64) + 1
        starts = (uniform[1] * (np.array(shape) + 1 - edges)).astype(np.int64)
        return {"starts": starts, "edges": edges, "seed": draw_seed(rng)}

    def _apply_to_image(
        self, img: torch.Tensor, *, starts: np.ndarray, edges: np.ndarray, seed: int, inside: Boxes | None = None
    ) -> torch.Tensor:
        image = as_float32(img).numpy()
        shape, loops = (1,) * (4 - image.ndim) + image.shape[1:], for_loops(inside, image.shape[1:])
        steps = np.zeros(image[0].size, np.int32)
        permute_windows(
            steps, shape[1] * shape[2], shape[2], in_three_axes(starts, fill=0), in_three_axes(edges, fill=1),
            window_seeds(seed, len(starts)), loops,
        )  # fmt: skip
        out = np.empty_like(image)
        for channel, shuffled in zip(image, out, strict=True):
            gather(channel.reshape(shape), shuffled.reshape(shape), steps, loops)
        return torch.from_numpy(out)


def window_seeds(seed: int, windows: int) -> np.ndarray:
    """Where the windows' own generators begin, uint64 (windows,)."""
    return np.random.default_rng(seed).integers(2**64, size=windows, dtype=np.uint64)
