"""What a preparation was asked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_genesis.errors import GenesisError


@dataclass(frozen=True)
class PrepareOptions:
    """Options of ``nnUNetv2_genesis_prepare``.

    Attributes:
        inputs: folders (searched recursively) or files of raw scans.
        dataset_id: id of the new data set.
        name: its name; the data set becomes ``DatasetXXX_NAME``.
        configurations: nnU-Net configurations to preprocess.
        planner: nnU-Net planner class, or ``None`` for nnU-Net's default.
        gpu_memory_target: GB the planner may plan for, or ``None`` for the planner's default.
        like: data set whose plans are used instead of planning, or ``None``.
        plans_name: name of those plans.
        modality: ``auto``, or any name; CT is clipped by HU and z-scored by the data set, all others by each scan.
        include_labels: prepare label maps too.
        hu_window: (low, high) HU that a CT is clipped to, or ``None`` for the body's percentiles 0.5 and 99.5.
        channels: whether files X_0000, X_0001, ... are channels of one case; ``None``: what their folder says.
        val_fraction: share of the patients held out, in [0, 1).
        processes: worker processes.
        num_parts: calls that share the scans.
        part_id: which of them this one is, or ``None`` for the call that merges, or the only one.
        no_pp: plan, and preprocess nothing.
        exact: resample with nnU-Net's own functions, bit by bit.
        labels: CSV of the scans' classes, or ``None``.
        candidates: CSV of places in the scans and their classes, or ``None``.
        ras: the candidates' coordinates are NIfTI's, not ITK's.
    """

    inputs: Sequence[Path]
    dataset_id: int
    name: str
    configurations: Sequence[str] = ("3d_fullres",)
    planner: str | None = None
    gpu_memory_target: float | None = None
    like: str | None = None
    plans_name: str = "nnUNetPlans"
    modality: str = "auto"
    include_labels: bool = False
    hu_window: Sequence[float] | None = None
    channels: bool | None = None
    val_fraction: float = 0.1
    processes: int = 2
    num_parts: int = 1
    part_id: int | None = None
    no_pp: bool = False
    exact: bool = False
    labels: Path | None = None
    candidates: Path | None = None
    ras: bool = False

    def __post_init__(self) -> None:
        checks = {
            f"-d {self.dataset_id}: expected an id from 1 to 999": 1 <= self.dataset_id <= 999,
            f"-n {self.name!r}: expected letters, digits, '-' or '_'": bool(self.name)
            and self.name.replace("_", "").replace("-", "").isalnum()
            and self.name.isascii(),
            f"--val_fraction {self.val_fraction}: expected at least 0 and less than 1": 0 <= self.val_fraction < 1,
            f"-np {self.processes}: expected at least 1": self.processes >= 1,
            f"-num_parts {self.num_parts} -part_id {self.part_id}: expected both, and a part from 0 to num_parts - 1": (
                self.num_parts == 1 and self.part_id is None
            )
            or (self.part_id is not None and 0 <= self.part_id < self.num_parts),
            "--no_pp: plans need the scans of all parts; it can't go with -part_id": not self.no_pp
            or self.part_id is None,
            f"--hu_window {self.hu_window}: expected LOW < HIGH": not self.hu_window
            or self.hu_window[0] < self.hu_window[1],
            f"--modality {self.modality}: expected at most 16 letters, digits, '-' or '_'": bool(
                re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,15}", self.modality)
            ),
            f"--hu_window is for CT; it can't go with --modality {self.modality}": not self.hu_window
            or self.asked_modality in (None, "CT"),
            "--like takes the other data set's plans; it can't go with -pl, -gpu_memory_target or --hu_window": not (
                self.like and (self.planner or self.gpu_memory_target or self.hu_window)
            ),
            "--labels and --candidates: expected one of them": not (self.labels and self.candidates),
            "--ras is for --candidates": bool(self.candidates) or not self.ras,
        }
        for message, holds in checks.items():
            if not holds:
                raise GenesisError(f"{message}. Correct the command.")

    @property
    def dataset_name(self) -> str:
        """``DatasetXXX_NAME``."""
        return f"Dataset{self.dataset_id:03d}_{self.name}"

    @property
    def asked_modality(self) -> str | None:
        """``CT``, ``MR``, …, or ``None`` for auto; nnU-Net takes ``ct`` for CT too."""
        known = self.modality.upper()
        return None if known == "AUTO" else known if known in ("CT", "MR", "PET") else self.modality

    def record(self) -> dict[str, Any]:
        """What decides the intensities of a prepared data set: it can't change once scans are prepared."""
        return {"like": self.like, "hu_window": list(self.hu_window) if self.hu_window else None}
