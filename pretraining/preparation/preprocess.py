"""Preprocess scans with nnU-Net's preprocessor, the body as pseudo-label."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_genesis.files import check_writable, move_whole
from nnunet_genesis.folders import channel_names
from pretraining.intensity_range import Range, measured_range, planned_range, save_ranges, stored_ranges
from pretraining.preparation.cases import Cases, Told, properties_of
from pretraining.preparation.lock import CACHE
from pretraining.preparation.manifest import Row
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.page import PREVIEW
from pretraining.preparation.planning import PreparedDataset
from pretraining.preparation.pool import for_each_scan
from pretraining.preparation.preview import preview
from pretraining.preparation.resampling import FastConfiguration
from pretraining.scans.reading import ScanReader
from pretraining.scans.scan import LeftOut, Scan

ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")  # the last one is written last: a case is finished when it is there
_MOST_LOCATIONS = 10_000  # nnU-Net keeps 1 % of a label's voxels: for a body 20 MB, read anew for every patch


class ScanPlans(PlansManager):
    """nnU-Net's plans, with our reader, which turns axes as theirs, and our resampling, unless ``exact``."""

    def __init__(self, plans: dict[str, Any], reader: ScanReader, exact: bool = False):
        super().__init__(plans)
        self.reader, self._exact = reader, exact
        reader.reorient = str(plans.get("image_reader_writer")).endswith("WithReorient")

    @property
    def image_reader_writer_class(self) -> Any:
        """Makes the reader; nnU-Net calls it without arguments."""
        return lambda: self.reader

    def get_configuration(self, configuration_name: str) -> ConfigurationManager:
        """A configuration of the plans, which refuses scans of less than two voxels."""
        return FastConfiguration(super().get_configuration(configuration_name).configuration, self._exact)


def preprocess_all(
    dataset: PreparedDataset, scans: Sequence[Scan], options: PrepareOptions, cases: Cases
) -> tuple[list[Row], list[LeftOut]]:
    """Preprocess scans, each in a process of its own, unless that is done (``cases`` says of what files).

    Returns:
        Their rows, and what is left out.
    """
    folders = dataset.case_folders
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    ranges = {name: stored_ranges(folder) for name, folder in folders.items()}
    finished, folder = _finished(dataset, ranges), next(iter(folders.values()))
    known = [(scan, told) for scan in scans if scan.case in finished and (told := cases.told(scan.case))]
    rows = [Row.of_prepared(scan, dataset.modality, told.remark) for scan, told in known if not told.is_changed(scan)]
    if rows:
        print(f"{len(rows)} scans are finished already")
    if len(known) > len(rows):
        print(f"{len(known) - len(rows)} scans have changed since they were prepared: they are prepared again")
    asked, labels = options.asked_modality or dataset.asked_modality, options.include_labels
    work = partial(preprocess, dataset=dataset, asked=asked, exact=options.exact, labels=labels)
    left_out, done = [], {row.case for row in rows}
    todo = [scan for scan in scans if scan.case not in done]
    try:
        for scan, result in for_each_scan(work, todo, options.processes, "Preprocessing"):
            if isinstance(result, LeftOut):
                left_out.append(result)
                continue
            rows.append(Row.of_prepared(scan, dataset.modality, Told.by(folder / f"{scan.case}.pkl").remark))
            for name, case_range in result.items():
                ranges[name][scan.case] = case_range
    finally:
        for name, folder in folders.items():
            if ranges[name] and options.part_id is None:  # parts would overwrite each other's
                save_ranges(folder, ranges[name])
    return rows, left_out


def _finished(dataset: PreparedDataset, ranges: Mapping[str, Mapping[str, Range]]) -> set[str]:
    """Return the cases whose files, and ranges where the plans don't fix them, are there for every configuration."""
    manager, cases = PlansManager(dataset.plans), []
    for name, folder in dataset.case_folders.items():
        fixed = planned_range(manager, manager.get_configuration(name)) is not None
        found = {file.stem for file in folder.glob("*.pkl") if is_finished(folder, file.stem)}
        cases.append(found if fixed else found & ranges[name].keys())
    return set.intersection(*cases)


def preprocess(
    scan: Scan, dataset: PreparedDataset, asked: str | None, exact: bool = False, labels: bool = False
) -> dict[str, Range]:
    """Preprocess a scan for each configuration, unless that is done.

    For ``asked`` and ``labels`` see :class:`pretraining.scans.reading.ScanReader`; ``exact`` resamples with nnU-Net's
    own functions.

    Returns:
        By configuration the intensity range (see :mod:`pretraining.intensity_range`), where the plans don't fix it.

    Raises:
        ScanError: the scan can't be read, or isn't of the data set's modality.
    """
    reader = ScanReader(asked, dataset.modality, len(channel_names(dataset.dataset_json)), labels)
    manager = ScanPlans(dataset.plans, reader, exact)
    ranges: dict[str, Range] = {}
    for name, folder in dataset.case_folders.items():
        configuration = manager.get_configuration(name)
        if not is_finished(folder, scan.case) or Told.by(folder / f"{scan.case}.pkl").is_changed(scan):
            _preprocess_case(scan, manager, configuration, dataset, folder)
        if planned_range(manager, configuration) is None:
            ranges[name] = measured_range(blosc2.open(urlpath=str(folder / f"{scan.case}.b2nd"), mode="r")[:])
    return ranges


def _preprocess_case(
    scan: Scan, manager: ScanPlans, configuration: ConfigurationManager, dataset: PreparedDataset, folder: Path
) -> None:
    cache = dataset.folder / CACHE
    cache.mkdir(exist_ok=True)
    # Of this process' own: what is left of one that was killed may go on for a moment.
    with tempfile.TemporaryDirectory(dir=cache) as name:
        place = Path(name)
        try:
            configuration.preprocessor_class(verbose=False).run_case_save(
                str(place / scan.case), scan, scan, manager, configuration, dataset.dataset_json
            )
        except RuntimeError:
            check_writable(place, 1_000_000)  # blosc2 doesn't say that the disk is full
            raise
        _complete_properties(place / f"{scan.case}.pkl", manager.reader, scan)
        for file in dataset.folder.glob(f"*/{scan.case}.pkl"):  # what the scan was before, in every configuration
            if Told.by(file).is_changed(scan):
                file.unlink()
        for ending in ENDINGS:
            move_whole(place / f"{scan.case}{ending}", folder / f"{scan.case}{ending}")


def is_finished(folder: Path, case: str) -> bool:
    """Say whether all files of a case are in a preprocessed folder."""
    return all((folder / f"{case}{ending}").is_file() for ending in ENDINGS)


def _complete_properties(file: Path, reader: ScanReader, scan: Scan) -> None:
    properties = load_pickle(str(file)) | properties_of(scan, reader.remark)
    properties[PREVIEW] = dataclasses.asdict(preview(reader.image, reader.body, reader.properties))
    # They are in random order: the first ones are a random sample.
    properties["class_locations"] = {k: v[:_MOST_LOCATIONS] for k, v in properties["class_locations"].items()}
    write_pickle(properties, str(file))
