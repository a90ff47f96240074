"""What a preparation was asked for."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_genesis.errors import GenesisError
from pretraining.scans.scan import MODALITIES, SAME_MODALITY


@dataclass(frozen=True)
class PrepareOptions:
    """Options of ``nnUNetv2_genesis_prepare``, whose help says more.

    Raises:
        GenesisError: they can't be followed.
    """

    inputs: Sequence[Path]  # folders (searched recursively) or files of raw scans
    dataset_id: int
    name: str  # the data set becomes DatasetXXX_NAME
    configurations: Sequence[str] = ("3d_fullres",)
    planner: str | None = None
    gpu_memory_target: float | None = None  # GB
    like: str | None = None  # data set whose plans are used instead of planning
    plans_name: str = "nnUNetPlans"  # of those plans
    modality: str = "auto"  # or any name; CT is clipped by HU and z-scored by the data set, all others by each scan
    include_labels: bool = False
    hu_window: Sequence[float] | None = None  # (low, high) HU that a CT is clipped to, not the body's percentiles
    channels: int | bool | None = None  # whether numbered files are channels of a case, or how many it has; None: look
    val_fraction: float = 0.1  # share of the patients held out, in [0, 1)
    processes: int = 2
    num_parts: int = 1  # calls that share the scans
    part_id: int | None = None  # which of them this one is; None: the one that merges, or the only one
    no_pp: bool = False  # plan, and preprocess nothing
    exact: bool = False  # resample with nnU-Net's own functions, bit by bit
    labels: Path | None = None  # CSV of the scans' classes
    candidates: Path | None = None  # CSV of places in the scans and their classes
    ras: bool = False  # the candidates' coordinates are NIfTI's, not ITK's

    def __post_init__(self) -> None:
        alone = self.num_parts == 1 and self.part_id is None
        part = self.part_id is not None and 0 <= self.part_id < self.num_parts
        count = 1 if self.channels is None or isinstance(self.channels, bool) else self.channels
        planned = self.planner or self.gpu_memory_target or self.hu_window
        for message, holds in (
            (f"-d {self.dataset_id}: expected an id from 1 to 999", 1 <= self.dataset_id <= 999),
            (f"-n {self.name!r}: expected letters, digits, '-' or '_'",
             re.fullmatch(r"[A-Za-z0-9_-]*[A-Za-z0-9][A-Za-z0-9_-]*", self.name)),
            (f"--val_fraction {self.val_fraction}: expected at least 0 and less than 1", 0 <= self.val_fraction < 1),
            (f"-np {self.processes}: expected at least 1", self.processes >= 1),
            (f"-num_parts {self.num_parts} -part_id {self.part_id}: expected both, and a part from 0 to num_parts - 1",
             alone or part),
            ("--no_pp: plans need the scans of all parts; it can't go with -part_id", not self.no_pp or not part),
            (f"-c {' '.join(self.configurations)}: expected configurations in 3D, as 3d_fullres; scans become volumes",
             not any(name.startswith("2d") for name in self.configurations)),
            (f"-gpu_memory_target {self.gpu_memory_target}: expected at least 1 (GB)",
             self.gpu_memory_target is None or 1 <= self.gpu_memory_target < math.inf),
            (f"--hu_window {self.hu_window}: expected LOW < HIGH",
             not self.hu_window or self.hu_window[0] < self.hu_window[1]),
            (f"--modality {self.modality}: expected at most 16 letters, digits, '-' or '_'",
             re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,15}", self.modality)),
            (f"--hu_window is for CT; it can't go with --modality {self.modality}",
             not self.hu_window or self.asked_modality in (None, "CT")),
            ("--like takes the other data set's plans; it can't go with -pl, -gpu_memory_target or --hu_window",
             not (self.like and planned)),
            (f"--channels {self.channels}: expected at least 1", count >= 1),
            ("--labels and --candidates: expected one of them", not (self.labels and self.candidates)),
            ("--ras is for --candidates", self.candidates or not self.ras),
        ):  # fmt: skip
            if not holds:
                raise GenesisError(f"{message}. Correct the command.")

    @property
    def dataset_name(self) -> str:
        """``DatasetXXX_NAME``."""
        return f"Dataset{self.dataset_id:03d}_{self.name}"

    @property
    def asked_modality(self) -> str | None:
        """``CT``, ``MR``, …, or ``None`` for auto; known names are taken in lower case too, as nnU-Net takes ``ct``."""
        known = self.modality.upper()
        return None if known == "AUTO" else known if known in (*MODALITIES, *SAME_MODALITY) else self.modality
