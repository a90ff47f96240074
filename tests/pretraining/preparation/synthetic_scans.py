"""Small synthetic scans, and nnU-Net folders in which they are prepared."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import gaussian_filter

from pretraining.preparation.options import PrepareOptions


def write_scan(path: Path, seed: int = 0, spacing: float = 3.0, modality: str = "CT") -> Path:
    """An ellipsoid of smooth texture in air (CT: HU; MR: from 0), 24×40×40 voxels."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[-12:12, -20:20, -20:20]
    inside = (z / 10) ** 2 + (y / (13 + seed % 3)) ** 2 + (x / 15) ** 2 < 1
    texture = 400 * gaussian_filter(rng.normal(size=inside.shape), 1)
    image = np.where(inside, 50 + texture, -1000 + rng.normal(0, 8, inside.shape)).clip(-1024, 3000)
    if modality == "MR":
        image = np.where(inside, (400 + texture).clip(50), np.abs(rng.normal(0, 5, inside.shape)))
    volume = SimpleITK.GetImageFromArray(np.round(image).astype(np.int16))
    volume.SetSpacing((spacing,) * 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(volume, str(path))
    return path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@dataclasses.dataclass(frozen=True)
class World:
    """A folder of scans and the nnU-Net folders; ``left_out`` is what the first preparation returned."""

    root: Path
    left_out: dict[str, str]
    modality: str = "auto"

    @property
    def base(self) -> Path:
        return self.root / "preprocessed" / "Dataset701_CT"

    @property
    def data(self) -> Path:
        return self.base / "nnUNetPlans_3d_fullres"

    def options(self, **changes: Any) -> PrepareOptions:
        given = {"inputs": (self.root / "scans",), "dataset_id": 701, "name": "CT", "modality": self.modality}
        return PrepareOptions(**{**given, **changes})

    def json(self, name: str) -> Any:
        return json.loads((self.base / name).read_text())

    def cases(self) -> dict[str, str]:
        """Case names by source."""
        return {row["source"]: row["case"] for row in manifest(self.base) if row["status"] == "prepared"}

    def times(self) -> dict[str, int]:
        """When each file of the cases and the plans was written."""
        files = [*self.data.iterdir(), *self.base.glob("nnUNet*.json"), self.base / "dataset_fingerprint.json"]
        return {str(file.relative_to(self.base)): file.stat().st_mtime_ns for file in files}


def manifest(base: Path) -> list[dict[str, str]]:
    with (base / "genesis_manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def use_folders(patch: pytest.MonkeyPatch, root: Path) -> None:
    for name in ("preprocessed", "results"):
        (root / name).mkdir(exist_ok=True)
        patch.setenv(f"nnUNet_{name}", str(root / name))
    patch.delenv("nnUNet_raw", raising=False)


def preprocessed(world: World, file: Path, plans: dict, *more: Path) -> np.ndarray:
    """What nnU-Net itself makes of a file, or one a channel, under the same plans."""
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    return DefaultPreprocessor(False).run_case(
        [str(f) for f in (file, *more)], None, manager, configuration, world.json("dataset.json")
    )[0]
