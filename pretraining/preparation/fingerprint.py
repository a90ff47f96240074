"""nnU-Net's fingerprint of unlabelled scans: its own analysis of each case, the body as foreground."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path
from pretraining.preparation.cases import stamp_of
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.pool import for_each_scan
from pretraining.scans.reading import ScanReader, wrong_channels
from pretraining.scans.scan import LeftOut, Scan


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What nnU-Net's fingerprint needs of one scan."""

    modality: str
    shape: np.ndarray  # voxels (z, y, x) after cropping to nonzero
    spacing: np.ndarray  # mm (z, y, x)
    intensities: np.ndarray  # (C, samples), random ones from the body
    relative_size: float  # after cropping, relative to before, in (0, 1]


def analyse(scan: Scan, asked: str | None, samples: int, cache: Path, labels: bool = False) -> Analysis:
    """Analyse one scan as nnU-Net's fingerprint extractor does, or take the result of an earlier, interrupted run.

    Takes ``samples`` intensities of the body; for ``asked`` and ``labels`` see
    :class:`pretraining.scans.reading.ScanReader`.

    Raises:
        ScanError: the scan can't be used.
    """
    file = cache / f"{scan.case}.{stamp_of(scan)}.{asked or 'auto'}{'.labels' if labels else ''}.npz"
    if file.is_file():
        with np.load(file) as stored:
            return Analysis(**{name: value if value.ndim else value.item() for name, value in stored.items()})
    reader = ScanReader(asked, labels=labels)
    shape, spacing, intensities, _, relative = DatasetFingerprintExtractor.analyze_case(
        scan, scan, lambda: reader, samples
    )
    analysis = Analysis(
        reader.found_modality, np.array(shape), np.array(spacing), np.array(intensities, np.float32), float(relative)
    )
    with atomic_path(file) as path, open(path, "wb") as stream:
        np.savez(stream, **dataclasses.asdict(analysis))
    return analysis


def analyse_all(
    scans: Sequence[Scan], cache: Path, samples: int, options: PrepareOptions
) -> tuple[dict[str, tuple[Scan, Analysis]], list[LeftOut]]:
    """Analyse scans, each in a process of its own; by case, and what is left out."""
    cache.mkdir(exist_ok=True)
    work = partial(analyse, asked=options.asked_modality, samples=samples, cache=cache, labels=options.include_labels)
    results = list(for_each_scan(work, scans, options.processes, "Analysing"))
    found = {scan.case: (scan, result) for scan, result in results if isinstance(result, Analysis)}
    return dict(sorted(found.items())), [result for _, result in results if isinstance(result, LeftOut)]


def agreeing(
    found: Mapping[str, tuple[Scan, Analysis]], options: PrepareOptions
) -> tuple[dict[str, Analysis], list[LeftOut]]:
    """Choose the scans of the number of channels that is asked for, else of most scans; and say what is left out.

    Raises:
        GenesisError: there are several modalities, none of which is asked for; or a window in HU is asked for, and they
            are no CTs.
    """
    asked = options.asked_modality
    sources: dict[str, list[str]] = defaultdict(list)
    for scan, analysis in found.values():
        sources[analysis.modality].append(scan.source)
    if len(sources) > 1:
        raise GenesisError(_several_modalities(sources))
    (modality,) = sources
    if options.hu_window and modality != "CT":
        raise GenesisError(f"--hu_window is for CT; these scans are {modality}. Leave it out, or give --modality CT.")
    print(f"Modality: {modality} ({'as asked' if asked else 'found from DICOM tags or intensities'})")
    numbers = Counter(len(scan.channels) for scan, _ in found.values())
    channels = options.channels
    if channels is None or isinstance(channels, bool):
        channels = max(numbers, key=lambda number: (numbers[number], number))
    left_out = [LeftOut(scan.source, wrong_channels(len(scan.channels), channels))
                for scan, _ in found.values() if len(scan.channels) != channels]  # fmt: skip
    return {case: one for case, (scan, one) in found.items() if len(scan.channels) == channels}, left_out


def _several_modalities(sources: Mapping[str, Sequence[str]], shown: int = 3) -> str:
    counts = " and ".join(f"{len(found)} {modality}" for modality, found in sorted(sources.items()))
    choices = " or ".join(f"--modality {modality}" for modality in sorted(sources))
    lines = [f"{counts} scans; a data set has one modality. Choose with {choices} (the others are left out then):"]
    lines += [f"  {modality}: {', '.join(sorted(found)[:shown])}{', …' if len(found) > shown else ''}"
              for modality, found in sorted(sources.items())]  # fmt: skip
    return "\n".join(lines)


def samples_per_scan(scans: int) -> int:
    """Return how many intensities each scan gives: 2·10⁷ in all, within nnU-Net's 10,000 and a million."""
    return int(np.clip(20_000_000 // max(1, scans), 10_000, 1_000_000))


def fingerprint(analyses: Sequence[Analysis], hu_window: Sequence[float] | None) -> dict[str, Any]:
    """Make ``dataset_fingerprint.json`` as nnU-Net's extractor does.

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
        "mean": np.mean(values, dtype=np.float64), "median": median, "std": np.std(values, dtype=np.float64),
        "min": np.min(values), "max": np.max(values), "percentile_99_5": high, "percentile_00_5": low,
    }  # fmt: skip
    return {name: float(value) for name, value in statistics.items()}
