"""Folder of raw scans -> ``nnUNet_preprocessed/DatasetXXX_NAME`` in nnU-Net's own format, without labels.

Steps: find and check scans; analyse each (modality, fingerprint); plan, once; preprocess each; write the held-out set
and the manifest. Plans, once written, stay: an interrupted run goes on where it stopped, and scans that were added
are prepared with the same plans.

Several calls can share the scans: a part analyses its share or, where plans are known, preprocesses it, and writes
nothing else. The call without a part does what is missing, so that the data set is that of one call.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import disk_in_words, read_json, remove_unfinished, write_json
from nnunet_genesis.folders import nnunet_folder
from pretraining.preparation import planning
from pretraining.preparation.cases import preprocess_all
from pretraining.preparation.dataset import analyse_scans, known_plans, no_usable_scan, plan_dataset
from pretraining.preparation.fingerprint import samples_per_scan
from pretraining.preparation.groups import with_keyed_groups
from pretraining.preparation.lock import CACHE, locked
from pretraining.preparation.manifest import FILE_NAME as MANIFEST
from pretraining.preparation.manifest import Row, log_errors, read_manifest, write_manifest, write_split
from pretraining.preparation.options import PrepareOptions
from pretraining.scans.find import find_scans
from pretraining.scans.scan import LeftOut, Scan


def prepare_dataset(options: PrepareOptions) -> list[LeftOut]:
    """Prepare scans as ``options`` say.

    Returns:
        The scans that were left out, each with its reason; the manifest lists them too. Of a part: those of its share.

    Raises:
        GenesisError: the options can't be followed, no scan is usable, another call prepares this data set, or the disk
            is full.
    """
    base = _base_folder(options)
    if options.like:
        options = replace(options, like=planning.like_folder(options).name)
    else:
        planning.planner_class(options.planner)
    print(f"Looking for scans in {', '.join(map(str, options.inputs))}")
    scans, left_out = find_scans(options.inputs)
    print(f"Found {len(scans)} scans; {len(left_out)} files or series can't be used")
    with disk_in_words(base, "run the same command again: finished scans are kept."):
        base.mkdir(parents=True, exist_ok=True)
        with locked(base, options.part_id, options.num_parts):
            if options.part_id is not None:
                left_out = _prepare_part(options, base, scans)
            else:
                left_out = _prepare_whole(options, base, scans, left_out)
            log_errors(base, left_out)
    return left_out


def _prepare_whole(options: PrepareOptions, base: Path, scans: list[Scan], left_out: list[LeftOut]) -> list[LeftOut]:
    remove_unfinished(base)
    rows = {row.source + row.case: row for row in read_manifest(base)}
    scans = with_keyed_groups(base, scans, rows.values())
    try:
        if not scans:
            raise GenesisError(no_usable_scan(options, left_out))
        plans, dataset_json, scans = plan_dataset(options, base, scans, left_out)
        if options.no_pp:
            print(f"{base}: planned")
            return left_out
        prepared, more = preprocess_all(options, base, plans, dataset_json, scans)
        left_out += more
        rows |= {row.source + row.case: row for row in prepared}
        if not any(row.status == "prepared" for row in rows.values()):
            raise GenesisError(no_usable_scan(options, left_out))
    finally:
        rows = _merge(rows, left_out)
        write_manifest(base, rows.values())
    count = sum(row.status == "prepared" for row in rows.values())
    write_json({**dataset_json, "numTraining": count}, base / "dataset.json")
    train, val = write_split(base, list(rows.values()), options.val_fraction)
    shutil.rmtree(base / CACHE, ignore_errors=True)
    _summarise(base, plans, options.configurations, train, val, left_out)
    return left_out


def _prepare_part(options: PrepareOptions, base: Path, scans: Sequence[Scan]) -> list[LeftOut]:
    share = scans[options.part_id :: options.num_parts]
    left_out: list[LeftOut] = []
    if known := known_plans(options, base, len(scans)):
        plans, dataset_json = known
        left_out += preprocess_all(options, base, plans, dataset_json, share)[1]
    else:
        analyse_scans(options, base, share, samples_per_scan(len(scans)), left_out)
    done = "preprocessed" if known else "analysed"
    print(f"Part {options.part_id} of {options.num_parts}: {done} {len(share)} scans")
    return left_out


def _base_folder(options: PrepareOptions) -> Path:
    root = nnunet_folder("nnUNet_preprocessed")
    others = [f.name for f in root.glob(f"Dataset{options.dataset_id:03d}_*") if f.name != options.dataset_name]
    if others:
        raise GenesisError(f"-d {options.dataset_id}: {root} has {others[0]} already. Choose another id, or that name.")
    base = root / options.dataset_name
    if base.is_dir() and (base / "dataset.json").is_file() and "genesis" not in read_json(base / "dataset.json"):
        raise GenesisError(f"{base}: is a data set that nnunet-genesis did not make. Choose another id (-d) or name.")
    return base


def _merge(rows: dict[str, Row], left_out: Sequence[LeftOut]) -> dict[str, Row]:
    """Add what was left out now; an older row of the same source that was left out gives way."""
    now = {item.source for item in left_out}
    prepared = {row.source for row in rows.values() if row.status == "prepared"}
    kept = {k: r for k, r in rows.items() if r.status == "prepared" or r.source not in now | prepared}
    return kept | {item.source + item.reason: Row(item.source, reason=item.reason) for item in left_out}


def _summarise(
    base: Path, plans: dict[str, Any], names: Sequence[str], train: int, val: int, left_out: Sequence[LeftOut]
) -> None:
    for name in names:
        configuration = PlansManager(plans).get_configuration(name)
        print(
            f"{name}: patch size {list(configuration.patch_size)}, batch size {configuration.batch_size}, spacing "
            f"{[round(float(length), 3) for length in configuration.spacing]} mm, "
            f"{', '.join(configuration.normalization_schemes)}"
        )
    print(f"{base}: {train} scans to train on, {val} held out")
    if left_out:
        print(f"{len(left_out)} left out, see {base / MANIFEST}:")
        for item in left_out[:10]:
            print(f"  {item.source}: {item.reason}")
