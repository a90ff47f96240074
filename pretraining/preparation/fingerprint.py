"""nnU-Net's fingerprint of unlabelled scans: its own analysis of each case, the body as foreground."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

from nnunet_genesis.files import atomic_path
from pretraining.scans.reading import ScanReader
from pretraining.scans.scan import Scan


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What nnU-Net's fingerprint needs of one scan.

    Attributes:
        modality: "CT" or "MR".
        shape: voxels (z, y, x) after cropping to nonzero.
        spacing: mm (z, y, x).
        intensities: (C, samples) random intensities from the body.
        relative_size: size after cropping, relative to before, in (0, 1].
    """

    modality: str
    shape: np.ndarray
    spacing: np.ndarray
    intensities: np.ndarray
    relative_size: float

    def save(self, file: Path) -> None:
        """Write to ``file`` (.npz), whole or not at all."""
        with atomic_path(file) as path, open(path, "wb") as stream:
            np.savez(stream, **dataclasses.asdict(self))

    @classmethod
    def load(cls, file: Path) -> "Analysis":
        """Read what :meth:`save` wrote."""
        with np.load(file, allow_pickle=False) as stored:
            values = {name: stored[name] for name in stored.files}
        return cls(**{**values, "modality": str(values["modality"]), "relative_size": float(values["relative_size"])})


def analyse(scan: Scan, asked: str | None, samples: int, cache: Path) -> Analysis:
    """Analyse one scan as nnU-Net's fingerprint extractor does, or take the result of an earlier, interrupted run.

    Args:
        scan: the scan.
        asked: modality of scans whose files don't say; ``None`` to guess.
        samples: intensities to sample from the body.
        cache: folder for results.

    Raises:
        ScanError: the scan can't be used.
    """
    file = cache / f"{scan.case}.{asked or 'auto'}.npz"
    if file.is_file():
        return Analysis.load(file)
    reader = ScanReader(asked)
    shape, spacing, intensities, _, relative = DatasetFingerprintExtractor.analyze_case(
        scan, scan, lambda: reader, samples
    )
    analysis = Analysis(
        reader.found_modality, np.array(shape), np.array(spacing), np.array(intensities, np.float32), float(relative)
    )
    analysis.save(file)
    return analysis


def samples_per_scan(scans: int) -> int:
    """Intensities sampled from each scan: 2·10⁷ in all, within nnU-Net's 10,000 and a million."""
    return int(np.clip(20_000_000 // max(1, scans), 10_000, 1_000_000))


def fingerprint(analyses: Sequence[Analysis], hu_window: Sequence[float] | None) -> dict[str, Any]:
    """``dataset_fingerprint.json`` as nnU-Net's extractor writes it.

    With ``hu_window`` the clipping percentiles are the window, and mean and standard deviation are taken after
    clipping to it.
    """
    channels = [np.concatenate(values) for values in zip(*(a.intensities for a in analyses), strict=True)]
    return {
        "spacings": [a.spacing.tolist() for a in analyses],
        "shapes_after_crop": [a.shape.tolist() for a in analyses],
        "foreground_intensity_properties_per_channel": {
            str(index): _statistics(values, hu_window) for index, values in enumerate(channels)
        },
        "median_relative_size_after_cropping": float(np.median([a.relative_size for a in analyses])),
    }


def _statistics(values: np.ndarray, window: Sequence[float] | None) -> dict[str, float]:
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    if window:
        low, high = window
        values = np.clip(values, low, high)
    statistics = {
        "mean": np.mean(values, dtype=np.float64),
        "median": median,
        "std": np.std(values, dtype=np.float64),
        "min": np.min(values),
        "max": np.max(values),
        "percentile_99_5": high,
        "percentile_00_5": low,
    }
    return {name: float(value) for name, value in statistics.items()}
