"""Folder of raw scans -> ``nnUNet_preprocessed/DatasetXXX_NAME`` in nnU-Net's own format, without labels.

Steps: find and check scans; analyse each (modality, fingerprint); plan, once; preprocess each; write the held-out set
and the manifest. Plans, once written, stay: an interrupted run goes on where it stopped, and scans that were added
are prepared with the same plans.

Several calls can share the scans: a part analyses its share or, where plans are known, preprocesses it, and writes
nothing else. The call without a part does what is missing, so that the data set is that of one call.
"""

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import disk_in_words, remove_unfinished, write_json
from pretraining.classification.labelling import Asked, read_asked, write_labels
from pretraining.preparation import manifest
from pretraining.preparation.cases import Cases
from pretraining.preparation.fingerprint import agreeing, analyse_all, samples_per_scan
from pretraining.preparation.index import read_indexed
from pretraining.preparation.lock import CACHE, locked
from pretraining.preparation.manifest import Row
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.page import write_page
from pretraining.preparation.planning import Planning, PreparedDataset
from pretraining.preparation.preprocess import is_finished, preprocess_all
from pretraining.scans.find import check_roots, find_scans
from pretraining.scans.scan import LeftOut, Scan


def prepare_dataset(options: PrepareOptions) -> list[LeftOut]:
    """Prepare scans as ``options`` say.

    Returns:
        The scans that were left out, each with its reason; the manifest lists them too. Of a part: those of its share.

    Raises:
        GenesisError: the options can't be followed, no scan is usable, another call prepares this data set, or the disk
            is full or read-only.
    """
    planning, part = Planning(options), options.part_id
    folder = planning.folder
    check_roots(options.inputs)
    with disk_in_words(folder, "run the same command again: finished scans are kept."):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, part, options.num_parts):
            print(f"Looking for scans in {', '.join(map(str, options.inputs))}", flush=True)
            read = partial(read_indexed, folder=folder, processes=options.processes)
            scans, unusable = find_scans(options.inputs, planning.channels, read)
            print(f"Found {len(scans)} scans; {len(unusable)} files or series can't be used")
            cases = Cases(folder)
            if part is not None:
                share, _ = cases.named(scans[part :: options.num_parts])
                result = _work(options, planning, share, len(scans), cases)
                manifest.log_errors(folder, result.left_out)
                print(f"Part {part} of {options.num_parts}: {len(share)} scans are done")
                return result.left_out
            remove_unfinished(folder)
            scans, copies = cases.named(scans)
            labels = read_asked(options, folder, scans, manifest.read(folder)) if scans else None
            result = _work(options, planning, scans, len(scans), cases)
            result.left_out[:0] = unusable + copies
            manifest.log_errors(folder, result.left_out)
            _finish(options, folder, result, labels)
            return result.left_out


@dataclass(frozen=True)
class _Result:
    """What has been done: the data set, where it is planned, its cases' rows, what is left out; or an error."""

    dataset: PreparedDataset | None = None
    prepared: Sequence[Row] = ()
    left_out: list[LeftOut] = field(default_factory=list)
    error: str = ""


def _work(options: PrepareOptions, planning: Planning, scans: Sequence[Scan], count: int, cases: Cases) -> _Result:
    """Analyse this call's ``scans`` (of ``count`` in all parts) and plan, unless that is done, then preprocess them."""
    left_out: list[LeftOut] = []
    if not scans:
        return _Result()
    dataset = planning.known(count)
    if dataset is None:
        found, left_out = analyse_all(scans, planning.folder / CACHE, samples_per_scan(count), options)
        if not found or options.part_id is not None:
            return _Result(left_out=left_out)
        try:
            analyses, more = agreeing(found, options)
        except GenesisError as error:
            undecided = "modality {}: which one is to be prepared wasn't said (--modality)"
            left_out += [LeftOut(scan.source, undecided.format(one.modality)) for scan, one in found.values()]
            return _Result(left_out=left_out, error=str(error))
        left_out += more
        if not analyses:
            return _Result(left_out=left_out)
        dataset = planning.plan(analyses)
        scans = [scan for scan in scans if scan.case in analyses]
    if options.part_id is None:
        dataset.save()
    if options.no_pp:
        return _Result(dataset, left_out=left_out)
    prepared, more = preprocess_all(dataset, scans, options, cases)
    return _Result(dataset, prepared, left_out + more)


def _finish(options: PrepareOptions, folder: Path, result: _Result, labels: Asked | None) -> None:
    """Write the manifest, the held-out set or the labels' folds, the number of cases, and say what there is."""
    dataset, left_out = result.dataset, result.left_out
    cases = manifest.update(folder, result.prepared, left_out)
    page = write_page(folder)
    if result.error:
        raise GenesisError(result.error)
    if dataset and options.no_pp:
        print(f"{folder}: planned")
        return
    if not dataset or not cases:
        text = (f"{', '.join(map(str, options.inputs))}: no usable scan. Expected DICOM series, .nii, .nii.gz, .mha, "
                f".mhd or .nrrd; found {len(left_out)} that can't be used.")  # fmt: skip
        raise GenesisError("\n".join([text, *_reasons(left_out)]))
    write_json({**dataset.dataset_json, "numTraining": len(cases)}, folder / "dataset.json")
    if labels:
        training, validation, more = write_labels(dataset, labels, cases)
        left_out += more
        manifest.update(folder, (), left_out)
        write_page(folder)
    else:
        training, validation = manifest.write_split(folder, cases, options.val_fraction)
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    for name in dataset.configurations:
        planned = PlansManager(dataset.plans).get_configuration(name)
        spacing = [round(float(length), 3) for length in planned.spacing]
        print(f"{name}: patch size {list(planned.patch_size)}, batch size {planned.batch_size}, spacing {spacing} mm, "
              f"{', '.join(planned.normalization_schemes)}")  # fmt: skip
    _warn_of_gaps(dataset, cases)
    held_out = f"{validation} held out" if validation else "none held out: they validate, too"
    print(f"{folder}: {training} scans to train on, {held_out}. Have a look at them: {page}")
    if left_out:
        print(f"{len(left_out)} left out, see {folder / manifest.FILE_NAME}:", *_reasons(left_out), sep="\n")


def _warn_of_gaps(dataset: PreparedDataset, cases: Sequence[Row]) -> None:
    """Warn of configurations with folders that lack cases, as not every run was asked for them."""
    planned = replace(dataset, configurations=list(dataset.plans["configurations"])).case_folders
    folders = {folder: name for name, folder in reversed(planned.items()) if folder.is_dir()}  # of two the first name
    for folder, name in folders.items():
        if lacking := sum(not is_finished(folder, row.case) for row in cases):
            print(f"WARNING: {name} lacks {lacking} of {len(cases)} cases: -c didn't name it in every run. Run the "
                  f"command with -c {' '.join(sorted(folders.values()))} on all scans.")  # fmt: skip


def _reasons(left_out: Sequence[LeftOut], most: int = 10) -> list[str]:
    """List reasons; company that is expected is only counted, by its kind."""
    company = Counter(re.sub(r"^\d+ files: |:.*| as .*", "", item.reason) for item in left_out if item.expected)
    worth = sorted((item for item in left_out if not item.expected), key=lambda item: item.source)
    more = [f"  … and {len(worth) - most} more, see {manifest.FILE_NAME}"] if len(worth) > most else []
    lines = [f"  {item.source}: {item.reason}" for item in worth[:most]] + more
    return lines + [f"  {count} × {kind}, as lie beside scans" for kind, count in sorted(company.items())]
