"""Synthetic torso "CTs" in HU with a liver and its lesions: enough anatomy to try the whole path, and nobody's data.

Axes are (z, y, x): from feet to head, from front to back, from the patient's right to the left, as ITK has them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from scipy.ndimage import distance_transform_edt, gaussian_filter

LABELS = {"background": 0, "liver": 1, "lesion": 2}
TRUNCATED = "scan_truncated.nii.gz"  # one file is cut short on purpose: that happens to real collections


@dataclass(frozen=True)
class Torso:
    """A scan: ``image`` int16 (z, y, x) in HU, ``labels`` uint8 as in ``LABELS``, ``spacing`` in mm (z, y, x)."""

    image: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, ...]


def make_torso(*seed: int) -> Torso:
    """A random torso; size, shape, position, organs, contrast agent, texture and noise follow from the seed alone."""
    rng = np.random.default_rng(seed)
    spacing = np.array([6.0, 4.4, 4.4]) * rng.uniform(0.95, 1.05, 3)
    shape = np.array([54, 72, 72]) + rng.integers(-3, 4, 3)
    body = _Body(rng, shape, spacing)
    labels = _draw_organs(rng, body, spacing)
    hu = body.hu + rng.uniform(4, 9) * _smooth_noise(rng, shape, 2.0)  # texture of the tissue
    hu = gaussian_filter(hu, rng.uniform(0.4, 0.6)) + rng.uniform(6, 12) * _smooth_noise(rng, shape, 0.6)
    return Torso(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), labels, tuple(map(float, spacing)))


def _smooth_noise(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1, with a grain of ``sigma`` voxels."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma)
    return (noise - noise.mean()) / noise.std()


class _Body:
    """Coordinates in units of the body (its skin is at radius 1 in every slice; w from -1 to 1), and what is painted.

    The coordinates are bent by a smooth random field, so that no organ is a perfect ellipsoid.
    """

    def __init__(self, rng: np.random.Generator, shape: np.ndarray, spacing: np.ndarray):
        z, y, x = (
            (np.arange(n) - n / 2).reshape([-1 if axis == i else 1 for i in range(3)]) * spacing[axis]
            for axis, n in enumerate(shape)
        )
        half_width, half_depth = rng.uniform(122, 142), rng.uniform(84, 104)
        waist = 1 - rng.uniform(0.02, 0.08) * np.cos(z / 160 * np.pi)
        x, y = x - rng.uniform(-10, 10), y + rng.uniform(5, 20)  # the table needs room behind the body
        bends = [rng.uniform(0.02, 0.04) * _smooth_noise(rng, shape, 7.0) for _ in range(3)]
        self.u, self.v = x / (half_width * waist) + bends[0], y / (half_depth * waist) + bends[1]
        self.w = z / 160 + rng.uniform(-0.1, 0.1) + bends[2]
        self.radius = np.hypot(self.u, self.v)
        self.hu, self._rng = np.full(shape, -1000.0), rng
        self.hu[:, ((np.abs(y - half_depth - 14) < 5) & (np.abs(x) < 130))[0]] = -250  # table

    def near(self, *values: float) -> list[float]:
        return [value + self._rng.uniform(-0.03, 0.03) for value in values]

    def paint(self, where: np.ndarray, hu: float | np.ndarray) -> np.ndarray:
        self.hu[where] = hu[where] if isinstance(hu, np.ndarray) else hu
        return where

    def ellipsoid(self, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
        return sum(((x - c) / r) ** 2 for x, c, r in zip((self.u, self.v, self.w), centre, radii, strict=True)) < 1


def _draw_organs(rng: np.random.Generator, body: _Body, spacing: np.ndarray) -> np.ndarray:
    """Paint everything inside the skin, from the outside in; return the labels."""
    contrast = rng.uniform(0.5, 1)  # how much contrast agent the patient was given
    u, v, w, radius, near = body.u, body.v, body.w, body.radius, body.near
    body.paint(radius < 1, 20)  # skin
    body.paint(radius < 0.97, -100)  # fat below it
    body.paint(radius < rng.uniform(0.84, 0.92), 50)  # muscle
    body.paint((radius < 0.76) & (w < 0.25), -95)  # fat between the organs
    ribs = (np.abs(radius - 0.81) < 0.045) & (np.sin(24 * (w - 0.25 * v)) > 0.35) & (w > -0.35)
    body.paint(ribs, rng.uniform(400, 600))
    vessels = _smooth_noise(rng, body.hu.shape, 1.2) > 1.7
    for side in (-1, 1):  # lungs and kidneys
        body.paint(body.ellipsoid(near(0.41 * side, 0.0, 0.85), near(0.33, 0.62, 0.75)), np.where(vessels, 0.0, -850.0))
        body.paint(body.ellipsoid(near(0.4 * side, 0.36, -0.5), near(0.14, 0.18, 0.27)), 35 + 120 * contrast)
    body.paint(body.ellipsoid(near(0.13, -0.2, 0.5), near(0.3, 0.36, 0.3)), 45 + 120 * contrast)  # heart
    vertebrae = np.where(np.sin(30 * w) < 0.75, rng.uniform(450, 700), 90.0)  # and the discs between them
    body.paint(np.hypot(u, (v - 0.55) * 0.8) < 0.15, vertebrae)
    body.paint(np.hypot(u, v - 0.76) < 0.11, 800)  # their arches
    body.paint(np.hypot(u, v - 0.74) < 0.06, 30)  # spinal canal
    body.paint(np.hypot(u - 0.09, v - 0.28) < rng.uniform(0.07, 0.1), 45 + 150 * contrast)  # aorta
    body.paint(body.ellipsoid(near(0.5, 0.25, 0.0), near(0.16, 0.26, 0.24)), 60 + 60 * contrast)  # spleen
    for _ in range(6):  # bowel, gas at its front
        centre = rng.uniform((-0.45, -0.5, -0.9), (0.45, 0.1, -0.4))
        loop = body.paint(body.ellipsoid(centre, near(0.14, 0.14, 0.14)), 30)
        body.paint(loop & (v < centre[1] - 0.02), -900)
    return _draw_liver(rng, body, spacing)


def _draw_liver(rng: np.random.Generator, body: _Body, spacing: np.ndarray) -> np.ndarray:
    liver = body.ellipsoid(body.near(-0.36, 0.0, -0.05), body.near(0.36, 0.56, 0.42))  # right lobe
    liver |= body.ellipsoid(body.near(0.0, -0.28, 0.02), body.near(0.34, 0.26, 0.24))  # left lobe
    liver &= body.radius < 0.75
    labels, hu = liver.astype(np.uint8), rng.uniform(56, 70)
    body.paint(liver, hu)
    inner = np.argwhere(distance_transform_edt(liver, sampling=spacing) > 16)  # mm from the liver's surface
    for centre in rng.choice(inner, rng.integers(2, 5), replace=False):
        point = np.ones(liver.shape, bool)
        point[tuple(centre)] = False
        lumpy = rng.uniform(16, 28) * (1 + 0.12 * _smooth_noise(rng, liver.shape, 2.0))  # mm
        blob = liver & (distance_transform_edt(point, sampling=spacing) < lumpy)
        labels[body.paint(blob, hu - rng.uniform(40, 50))] = LABELS["lesion"]
    return labels


def _write(array: np.ndarray, spacing: Sequence[float], file: Path) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    SimpleITK.WriteImage(image, str(file), useCompression=True)


def write_unlabelled(folder: Path, count: int) -> None:
    """``count`` scans of three file formats, and one file more that is cut short."""
    folder.mkdir(parents=True)
    for index in range(count):
        torso, ending = make_torso(1, index), {3: "mha", 7: "nrrd"}.get(index, "nii.gz")
        _write(torso.image, torso.spacing, folder / f"scan_{index:02d}.{ending}")
    whole = (folder / "scan_00.nii.gz").read_bytes()
    (folder / TRUNCATED).write_bytes(whole[: len(whole) * 6 // 10])


def _upper_abdomen(torso: Torso) -> Torso:
    """Keep the slices of the liver and three more on each side: what a scan of the liver covers."""
    slices = np.flatnonzero(torso.labels.any((1, 2)))
    kept = slice(max(0, slices[0] - 3), slices[-1] + 4)
    return Torso(torso.image[kept], torso.labels[kept], torso.spacing)


def write_labelled(folder: Path, training: int, test: int) -> None:
    """A data set in nnU-Net's raw format: ``training`` scans of the liver for training and ``test`` for testing."""
    for part, count, offset in (("Tr", training, 0), ("Ts", test, training)):
        images, labels = folder / f"images{part}", folder / f"labels{part}"
        images.mkdir(parents=True)
        labels.mkdir()
        for index in range(offset, offset + count):
            torso = _upper_abdomen(make_torso(2, index))
            _write(torso.image, torso.spacing, images / f"torso_{index:02d}_0000.nii.gz")
            _write(torso.labels, torso.spacing, labels / f"torso_{index:02d}.nii.gz")
    about = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": training, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about, indent=1))
