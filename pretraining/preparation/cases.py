"""All cases of a data set: preprocess those that aren't finished."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from pretraining.intensity_range import planned_range, save_ranges, stored_ranges
from pretraining.preparation.manifest import Row
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.pool import for_each_scan
from pretraining.preparation.preprocess import is_finished, preprocess, remark_on
from pretraining.scans.scan import LeftOut, Scan


def preprocess_all(
    options: PrepareOptions, base: Path, plans: dict[str, Any], dataset_json: dict[str, Any], scans: Sequence[Scan]
) -> tuple[list[Row], list[LeftOut]]:
    """Preprocess scans, unless that is done; the manifest's rows of the cases, and what is left out."""
    manager = PlansManager(plans)
    folders = {name: base / manager.get_configuration(name).data_identifier for name in options.configurations}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    ranges = {name: stored_ranges(folder) for name, folder in folders.items()}
    fixed = {name: planned_range(manager, manager.get_configuration(name)) is not None for name in folders}
    done = [
        scan
        for scan in scans
        if all(is_finished(f, scan.case) and (fixed[name] or scan.case in ranges[name]) for name, f in folders.items())
    ]
    finished = {scan.case for scan in done}
    work = partial(
        preprocess,
        asked=options.asked_modality,
        plans=plans,
        configurations=options.configurations,
        dataset_json=dataset_json,
        base=base,
        exact=options.exact,
    )
    left_out = []
    todo = [scan for scan in scans if scan.case not in finished]
    if done:
        print(f"{len(done)} scans are finished already")
    try:
        for scan, result in for_each_scan(work, todo, options.processes, "Preprocessing"):
            if isinstance(result, LeftOut):
                left_out.append(result)
                continue
            done.append(scan)
            for name, case_range in result.items():
                ranges[name][scan.case] = case_range
    finally:
        for name, folder in folders.items():
            if ranges[name] and options.part_id is None:  # parts would overwrite each other's
                save_ranges(folder, ranges[name])
    folder = next(iter(folders.values()))
    return [_row(scan, dataset_json["genesis"]["modality"], remark_on(folder, scan.case)) for scan in done], left_out


def _row(scan: Scan, modality: str, remark: str) -> Row:
    shape = "x".join(str(length) for length in scan.shape)
    spacing = "x".join(f"{length:.4g}" for length in scan.spacing)
    return Row(scan.source, scan.case, "prepared", "", scan.modality or modality, shape, spacing, scan.group, remark)
