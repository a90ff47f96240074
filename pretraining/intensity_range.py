"""The affine map between nnU-Net's normalised intensities and [0, 1].

Restoration works in [0, 1]; the network's input stays in the space that fine-tuning will feed (DESIGN, rule 4). A
case's range ``(lowest, highest)`` per channel, in normalised units, is mapped to 0 and 1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json, write_json

Range = list[list[float]]  # per channel: [lowest, highest]

PERCENTILES = (0.1, 99.9)  # a few bright voxels (vessels, fat, artefacts) would squeeze an MR's tissue together
_MOST_VOXELS = 1_000_000  # enough for these percentiles; the whole of a CT would take seconds


def planned_range(plans: PlansManager, configuration: ConfigurationManager) -> Range | None:
    """Give the range that the plans fix for every case, or ``None`` where it depends on the case.

    CTNormalization clips to the percentiles 0.5 and 99.5 (or a fixed window), subtracts the mean and divides by the
    standard deviation, all of them in the plans; RescaleTo01 and RGBTo01 are [0, 1] by definition.
    """
    ranges: Range = []
    for channel, scheme in enumerate(configuration.normalization_schemes):
        if scheme == "CTNormalization":
            properties = plans.foreground_intensity_properties_per_channel[str(channel)]
            mean, sd = properties["mean"], max(properties["std"], 1e-8)
            ranges.append([(properties[key] - mean) / sd for key in ("percentile_00_5", "percentile_99_5")])
        elif scheme in ("RescaleTo01Normalization", "RGBTo01Normalization"):
            ranges.append([0.0, 1.0])
        else:
            return None
    return ranges


def measured_range(image: np.ndarray) -> Range:
    """Take percentiles 0.1 and 99.9 per channel of a normalised image (C, Z, Y, X), of its finite values."""
    step = max(1, round((image[0].size / _MOST_VOXELS) ** (1 / 3)))
    ranges = []
    for channel in image:
        sample = channel[::step, ::step, ::step]
        finite = sample[np.isfinite(sample)]
        lowest, highest = np.percentile(finite, PERCENTILES) if finite.size else (0.0, 1.0)
        if highest <= lowest:  # hardly any voxel differs from the background
            finite = channel[np.isfinite(channel)]
            lowest, highest = finite.min(), finite.max()
        ranges.append([float(lowest), float(max(highest, lowest + 1e-6 * max(1.0, abs(lowest))))])
    return ranges


def load_ranges(
    folder: Path, cases: Sequence[str], plans: PlansManager, configuration: ConfigurationManager
) -> dict[str, Range]:
    """Find the range of every case in a preprocessed folder.

    What the plans don't fix is measured once and kept in ``genesis_intensity_ranges_FOLDER.json`` beside ``folder``.

    Raises:
        GenesisError: a case's file is missing.
    """
    _check_files(folder, cases)
    if (planned := planned_range(plans, configuration)) is not None:
        return dict.fromkeys(cases, planned)
    known = stored_ranges(folder)
    if missing := [case for case in cases if case not in known]:
        known |= _measure(folder, missing)
        save_ranges(folder, known)
    return {case: known[case] for case in cases}


def stored_ranges(folder: Path) -> dict[str, Range]:
    """Read the ranges that are known of a preprocessed folder's cases; not of those written since."""
    file = _file(folder)
    if not file.is_file():
        return {}
    written, known = file.stat().st_mtime, read_json(file)
    images = {case: _image(folder, case) for case in known}
    return {case: known[case] for case, at in images.items() if at.is_file() and at.stat().st_mtime <= written}


def _image(folder: Path, case: str) -> Path:
    """Give the file of a preprocessed image: blosc2, or npz as nnU-Net wrote before 2.6."""
    older = folder / f"{case}.npz"
    return older if older.is_file() else folder / f"{case}.b2nd"


def save_ranges(folder: Path, ranges: Mapping[str, Range]) -> None:
    """Write the ranges of a preprocessed folder's cases."""
    write_json(dict(sorted(ranges.items())), _file(folder))


def _file(folder: Path) -> Path:
    # Not inside: nnU-Net tells the format of the folder by its file endings and accepts no others.
    return folder.parent / f"genesis_intensity_ranges_{folder.name}.json"


def to_unit(image: torch.Tensor, case_range: Range) -> torch.Tensor:
    """Map a normalised image (C, …) to [0, 1]; what lies outside the range is clipped."""
    lowest, width = _lowest_and_width(image, case_range)
    return image.sub(lowest).div_(width).clamp_(0, 1)


def from_unit(image: torch.Tensor, case_range: Range, out: torch.Tensor | None = None) -> torch.Tensor:
    """Map an image (C, …) in [0, 1] back to normalised intensities, into ``out`` if given."""
    lowest, width = _lowest_and_width(image, case_range)
    return torch.mul(image, width, out=out).add_(lowest)


def _lowest_and_width(image: torch.Tensor, case_range: Range) -> tuple[torch.Tensor, torch.Tensor]:
    limits = torch.tensor(case_range, dtype=image.dtype).reshape(len(case_range), 2, *[1] * (image.ndim - 1))
    return limits[:, 0], limits[:, 1] - limits[:, 0]


def _check_files(folder: Path, cases: Sequence[str]) -> None:
    if missing := next((case for case in cases if not _image(folder, case).is_file()), None):
        raise GenesisError(
            f"{_image(folder, missing)}: no such file. Expected the preprocessed case {missing!r}, which "
            "splits_final.json names. Prepare the data set again (nnUNetv2_genesis_prepare, or nnUNetv2_preprocess for "
            "a labelled one; -c names the configuration)."
        )


def _measure(folder: Path, cases: Sequence[str]) -> dict[str, Range]:
    dataset = infer_dataset_class(str(folder))(str(folder), cases)
    return {case: measured_range(np.asarray(dataset.load_case(case)[0][:])) for case in cases}
