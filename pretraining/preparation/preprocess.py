"""Preprocess one scan with nnU-Net's preprocessor, the body as pseudo-label."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_genesis.files import check_space, move_whole
from pretraining.intensity_range import Range, measured_range, planned_range
from pretraining.preparation.lock import CACHE
from pretraining.preparation.resampling import FastConfiguration
from pretraining.scans.reading import ScanReader
from pretraining.scans.scan import Scan, ScanError

ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")  # the last one is written last: a case is finished when it is there
_REMARK = "genesis_remark"  # in the case's properties, for the manifest of a later run
_MOST_LOCATIONS = 10_000  # nnU-Net keeps 1 % of a label's voxels: for a body 20 MB, read anew for every patch


class ScanPlans(PlansManager):
    """nnU-Net's plans, with our reader in the place of the one that they name and, unless ``exact``, our resampling."""

    def __init__(self, plans: dict[str, Any], reader: ScanReader, exact: bool = False):
        super().__init__(plans)
        self.reader, self._exact = reader, exact

    @property
    def image_reader_writer_class(self) -> Any:
        """Makes the reader; nnU-Net calls it without arguments."""
        return lambda: self.reader

    def get_configuration(self, configuration_name: str) -> ConfigurationManager:
        """A configuration of the plans."""
        configuration = super().get_configuration(configuration_name)
        return configuration if self._exact else FastConfiguration(configuration.configuration)


def preprocess(
    scan: Scan,
    asked: str | None,
    plans: dict[str, Any],
    configurations: Sequence[str],
    dataset_json: dict[str, Any],
    base: Path,
    exact: bool = False,
) -> dict[str, Range]:
    """Preprocess ``scan`` for each configuration into ``base``, unless that is done; ``exact``: resampled by nnU-Net.

    Returns:
        By configuration the intensity range (see :mod:`pretraining.intensity_range`), where the plans don't fix it.

    Raises:
        ScanError: the scan can't be read, or isn't of the data set's modality.
    """
    reader = ScanReader(asked, dataset_json["genesis"]["modality"], len(dataset_json["channel_names"]))
    manager = ScanPlans(plans, reader, exact)
    ranges: dict[str, Range] = {}
    for name in configurations:
        configuration = manager.get_configuration(name)
        folder = base / configuration.data_identifier
        if not is_finished(folder, scan.case):
            _check_shape(compute_new_shape(scan.shape, scan.spacing, _spacing_zyx(manager, configuration)))
            _preprocess_case(scan, manager, configuration, dataset_json, folder, base / CACHE)
        if planned_range(manager, configuration) is None:
            ranges[name] = measured_range(blosc2.open(urlpath=str(folder / f"{scan.case}.b2nd"), mode="r")[:])
    return ranges


def _preprocess_case(
    scan: Scan,
    manager: ScanPlans,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    folder: Path,
    cache: Path,
) -> None:
    cache.mkdir(exist_ok=True)
    # Of this process' own: what is left of one that was killed may go on for a moment.
    with tempfile.TemporaryDirectory(dir=cache) as name:
        partial = Path(name)
        try:
            configuration.preprocessor_class(verbose=False).run_case_save(
                str(partial / scan.case), scan, scan, manager, configuration, dataset_json
            )
        except RuntimeError:
            check_space(partial)  # blosc2 doesn't say that the disk is full
            raise
        _check_shape(blosc2.open(urlpath=str(partial / f"{scan.case}.b2nd"), mode="r").shape[1:])
        _complete_properties(partial / f"{scan.case}.pkl", manager.reader.remark)
        for ending in ENDINGS:
            move_whole(partial / f"{scan.case}{ending}", folder / f"{scan.case}{ending}")


def is_finished(folder: Path, case: str) -> bool:
    """Whether all files of a case are in a preprocessed folder."""
    return all((folder / f"{case}{ending}").is_file() for ending in ENDINGS)


def _spacing_zyx(plans: PlansManager, configuration: ConfigurationManager) -> list[float]:
    return [configuration.spacing[axis] for axis in plans.transpose_backward]


def _check_shape(shape: Sequence[int]) -> None:
    """Raise ScanError for what is hardly larger than a voxel of the plans; nnU-Net would divide by 0, or not notice."""
    if min(shape) < 2:
        raise ScanError(
            f"{' x '.join(map(str, shape))} voxels at the planned spacing, smaller than two voxels along an axis: its "
            "spacing is wrong, or it is no scan of this kind"
        )


def remark_on(folder: Path, case: str) -> str:
    """What the manifest remarks on a finished case, or ""."""
    return str(load_pickle(str(folder / f"{case}.pkl")).get(_REMARK, ""))


def _complete_properties(file: Path, remark: str) -> None:
    properties = load_pickle(str(file)) | ({_REMARK: remark} if remark else {})
    # They are in random order: the first ones are a random sample.
    properties["class_locations"] = {k: v[:_MOST_LOCATIONS] for k, v in properties["class_locations"].items()}
    write_pickle(properties, str(file))
