"""A data set's plans and ``dataset.json``: made once, from the scans or like another data set, and then kept."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json, write_json
from nnunet_genesis.folders import channel_names
from pretraining.preparation import planning
from pretraining.preparation.fingerprint import Analysis, analyse, fingerprint, samples_per_scan
from pretraining.preparation.lock import CACHE
from pretraining.preparation.manifest import FILE_NAME as MANIFEST
from pretraining.preparation.options import PrepareOptions
from pretraining.preparation.pool import for_each_scan
from pretraining.scans.reading import wrong_channels, wrong_modality
from pretraining.scans.scan import LeftOut, Scan


def plan_dataset(
    options: PrepareOptions, base: Path, scans: list[Scan], left_out: list[LeftOut]
) -> tuple[dict[str, Any], dict[str, Any], list[Scan]]:
    """Plans, dataset.json, and the scans that fit them; made now, or by an earlier run. Adds to ``left_out``."""
    plans_file = base / f"{planning.planned_name(options)}.json"
    if known := known_plans(options, base, len(scans)):
        plans, dataset_json = known
        if plans_file.is_file():
            print(f"Keeping the plans of an earlier run: {plans_file}")
        else:
            planning.write_plans_like(options, base, plans, dataset_json)
    else:
        dataset_json, scans = _fingerprinted(options, base, scans, left_out)
        plans = planning.make_plans(options, base, dataset_json)
        _check_configurations(options, plans, plans_file)
    return plans, dataset_json, scans


def _fingerprinted(
    options: PrepareOptions, base: Path, scans: list[Scan], left_out: list[LeftOut]
) -> tuple[dict[str, Any], list[Scan]]:
    existing = _existing_dataset_json(options, base)
    if existing and (base / planning.FINGERPRINT).is_file():
        return existing, scans
    found = analyse_scans(options, base, scans, samples_per_scan(len(scans)), left_out)
    analyses = _agreeing(options, found, left_out)
    record = fingerprint(list(analyses.values()), options.hu_window)
    write_json(record, base / planning.FINGERPRINT, sort_keys=True)
    return _dataset_json(options, analyses), [scan for scan in scans if scan.case in analyses]


def known_plans(options: PrepareOptions, base: Path, scans: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Plans and dataset.json that an earlier run made or that ``--like`` gives, if either; writes nothing."""
    plans_file, dataset_json = base / f"{planning.planned_name(options)}.json", _existing_dataset_json(options, base)
    if plans_file.is_file() and dataset_json:
        plans = read_json(plans_file)
    elif options.like:
        plans, dataset_json = planning.plans_like(options), _dataset_json_like(options, scans)
    else:
        return None
    _check_configurations(options, plans, plans_file)
    return plans, dataset_json


def _existing_dataset_json(options: PrepareOptions, base: Path) -> dict[str, Any] | None:
    file = base / "dataset.json"
    if not file.is_file():
        return None
    dataset_json = read_json(file)
    _check_unchanged(options, base, dataset_json["genesis"])
    return dataset_json


def _check_unchanged(options: PrepareOptions, base: Path, record: dict[str, Any]) -> None:
    for key, value in options.record().items():
        if record.get(key) != value:
            raise GenesisError(
                f"{base}: was prepared with {key} = {record.get(key)}, now {value} is asked for. All scans of a data "
                "set must be prepared alike: repeat the earlier option, or use a new data set (-d, -n)."
            )
    if options.modality not in ("auto", record["modality"]):
        raise GenesisError(f"{base}: holds {record['modality']} scans; --modality {options.modality} doesn't fit.")


def _check_configurations(options: PrepareOptions, plans: dict[str, Any], file: Path) -> None:
    missing = [name for name in options.configurations if name not in plans["configurations"]]
    if missing:
        raise GenesisError(
            f"{file}: has no configuration {', '.join(missing)}; found {', '.join(plans['configurations'])}. Choose "
            "with -c."
        )


def analyse_scans(
    options: PrepareOptions, base: Path, scans: Sequence[Scan], samples: int, left_out: list[LeftOut]
) -> dict[str, tuple[Scan, Analysis]]:
    """Analyse scans, or take what an earlier call or a part left in the cache; by case. Adds to ``left_out``."""
    cache = base / CACHE
    cache.mkdir(exist_ok=True)
    work = partial(analyse, asked=options.asked_modality, samples=samples, cache=cache)
    found: dict[str, tuple[Scan, Analysis]] = {}
    for scan, result in for_each_scan(work, scans, options.processes, "Analysing"):
        if isinstance(result, LeftOut):
            left_out.append(result)
        else:
            found[scan.case] = (scan, result)
    return found


def _agreeing(
    options: PrepareOptions, found: dict[str, tuple[Scan, Analysis]], left_out: list[LeftOut]
) -> dict[str, Analysis]:
    """The analyses of the scans that are of most scans' modality and number of channels."""
    asked = options.asked_modality
    if not found:
        raise GenesisError(no_usable_scan(options, left_out))
    modality = asked or Counter(analysis.modality for _, analysis in found.values()).most_common(1)[0][0]
    if options.hu_window and modality != "CT":
        raise GenesisError(f"--hu_window is for CT; these scans are {modality}. Leave it out, or give --modality CT.")
    print(f"Modality: {modality} ({'as asked' if asked else 'found from DICOM tags or intensities'})")
    channels = Counter(len(scan.channels) for scan, _ in found.values()).most_common(1)[0][0]
    chosen = {}
    for case in sorted(found):
        scan, analysis = found[case]
        if analysis.modality != modality:
            left_out.append(LeftOut(scan.source, wrong_modality(analysis.modality, modality)))
        elif len(scan.channels) == channels:
            chosen[case] = analysis
        else:
            left_out.append(LeftOut(scan.source, wrong_channels(len(scan.channels), channels)))
    return chosen


def _dataset_json(options: PrepareOptions, analyses: dict[str, Analysis]) -> dict[str, Any]:
    first = next(iter(analyses.values()))
    modality, channels = first.modality, len(first.intensities)
    # nnU-Net chooses the normalisation by this name: "CT" is clipped by fixed statistics, all others are z-scored.
    same_name = modality == "CT" or channels == 1
    names = {str(index): modality if same_name else f"{modality}_{index}" for index in range(channels)}
    return _unlabelled(names, len(analyses), {"modality": modality, **options.record()})


def _dataset_json_like(options: PrepareOptions, scans: int) -> dict[str, Any]:
    folder = planning.like_folder(options)
    names = channel_names(read_json(folder / "dataset.json"))
    plans_file = folder / f"{options.plans_name}.json"
    plans = read_json(plans_file)
    _check_configurations(options, plans, plans_file)
    schemes = PlansManager(plans).get_configuration(options.configurations[0]).normalization_schemes
    modality = "CT" if schemes[0] == "CTNormalization" else "MR"
    if options.modality not in ("auto", modality):
        raise GenesisError(f"--like {options.like}: is planned for {modality}; --modality {options.modality} is asked.")
    return _unlabelled(names, scans, {"modality": modality, **options.record()})


def _unlabelled(channel_names: dict[str, str], scans: int, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "channel_names": channel_names,
        "labels": {"background": 0, "body": 1},
        "numTraining": scans,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "genesis": record,
    }


def no_usable_scan(options: PrepareOptions, left_out: Sequence[LeftOut]) -> str:
    """The message where nothing is left to prepare."""
    reasons = "".join(f"\n  {item.source}: {item.reason}" for item in left_out[:10])
    more = f"\n  … and {len(left_out) - 10} more, see {MANIFEST}" if len(left_out) > 10 else ""
    return (
        f"{', '.join(map(str, options.inputs))}: no usable scan. Expected DICOM series, .nii, .nii.gz, .mha, .mhd or "
        f".nrrd; found {len(left_out)} that can't be used.{reasons}{more}"
    )
