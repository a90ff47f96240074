"""Non-linear intensity: each channel through its own random monotone Bézier curve."""

from typing import Any

import numpy as np
import torch

from pretraining.restoration.corruption import Boxes, Corruption, U, compiled, for_loops

CURVE_POINTS = 1000
TABLE_CELLS = 2**14


class NonLinearIntensity(Corruption):
    """Map [0, 1] to [0, 1] by a cubic Bézier curve, one a channel (Zhou et al. 2021, section 3.2).

    B(t) = (1-t)³ P0 + 3(1-t)² t P1 + 3(1-t) t² P2 + t³ P3, with P1 and P2 uniform on [0,1]²; half of the time
    P0 = (0,0) and P3 = (1,1), an increasing map, otherwise P0 = (0,1) and P3 = (1,0), a decreasing one.

    The curve is looked up in a table of 2¹⁴ cells, at the nearest node. So the error is at most the curve's change
    over half a cell: 3e-5 times its slope, below 0.01 where the tangent is vertical; 0 and 1 are exact.
    """

    def sample(self, rng: np.random.Generator, channels: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """``points`` (C, 2, 2): channel, P1 or P2, x or y; ``decreasing`` (C,) bool."""
        return {"points": rng.random((channels, 2, 2)), "decreasing": rng.random(channels) < 0.5}

    def _apply_to_image(
        self, img: torch.Tensor, *, points: np.ndarray, decreasing: np.ndarray, inside: Boxes | None = None
    ) -> torch.Tensor:
        image, loops = for_loops(img, inside)
        out = np.empty_like(image)
        for channel in range(len(image)):
            look_up(image[channel], out[channel], lookup_table(points[channel], bool(decreasing[channel])), loops)
        return torch.from_numpy(out).reshape(img.shape)


def bezier(points: np.ndarray, decreasing: bool) -> tuple[np.ndarray, np.ndarray]:
    """Compute the curve's dense x and y, each (1000,) float64; ``points`` (2, 2) as in `NonLinearIntensity.sample`.

    x(t) never falls, for any control values x1, x2 in [0, 1]: its derivative is linear in each of them, so it is
    smallest at a corner, and there it is 3t², 3(1-t)², 6t(1-t) or 3(1-2t)², none below zero. The same holds for y,
    so the map is monotone.
    """
    t = np.linspace(0, 1, CURVE_POINTS)
    first, second, last = 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
    x = first * points[0, 0] + second * points[1, 0] + last
    y = first * points[0, 1] + second * points[1, 1] + ((1 - t) ** 3 if decreasing else last)
    return x, y


def lookup_table(points: np.ndarray, decreasing: bool) -> np.ndarray:
    """Compute the curve's y at 2¹⁴ + 1 equidistant x, float32."""
    x, y = bezier(points, decreasing)
    return np.interp(np.linspace(0, 1, TABLE_CELLS + 1), x, y).astype(np.float32)


@compiled
def look_up(image: np.ndarray, out: np.ndarray, table: np.ndarray, boxes: np.ndarray) -> None:
    """Give ``out`` (X, Y, Z), inside the boxes, the nearest of ``table``'s values for ``image`` in [0, 1]."""
    cells = np.float32(len(table) - 1)
    for box in boxes:
        for x in range(box[0, 0], box[0, 0] + box[1, 0]):
            for y in range(box[0, 1], box[0, 1] + box[1, 1]):
                for z in range(box[0, 2], box[0, 2] + box[1, 2]):
                    out[x, y, z] = table[U(image[x, y, z] * cells + np.float32(0.5))]
