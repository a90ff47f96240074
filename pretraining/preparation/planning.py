"""Plans for unlabelled scans: nnU-Net's planner on their fingerprint, or another data set's; made once, then kept."""

import contextlib
import inspect
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunetv2
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json, write_json
from nnunet_genesis.folders import (
    PlannedDataset,
    channel_names,
    check_plans,
    environment,
    nnunet_folder,
    planned_dataset,
    read_dataset_json,
    read_plans,
)
from pretraining.preparation.fingerprint import Analysis, fingerprint
from pretraining.preparation.options import PrepareOptions
from pretraining.scans.content import is_ct_name
from pretraining.scans.scan import SAME_MODALITY

DATASET, FINGERPRINT = "dataset.json", "dataset_fingerprint.json"


@dataclass(frozen=True)
class PreparedDataset(PlannedDataset):
    """A data set of unlabelled scans, planned.

    Attributes:
        fingerprint: what it was planned from, content of ``dataset_fingerprint.json``.
        configurations: names of those that scans are prepared for; all are in the plans.
    """

    fingerprint: dict[str, Any]
    configurations: Sequence[str]

    @property
    def modality(self) -> str:
        """``CT``, ``MR``, …"""
        return str(self.dataset_json["genesis"]["modality"])

    @property
    def asked_modality(self) -> str | None:
        """The same, if somebody has named it; ``None`` where it was told from tags and values."""
        return self.dataset_json["genesis"].get("asked_modality")

    @property
    def case_folders(self) -> dict[str, Path]:
        """By configuration, the folder of the preprocessed cases."""
        manager = PlansManager(self.plans)
        return {name: self.folder / manager.get_configuration(name).data_identifier for name in self.configurations}

    def save(self) -> None:
        """Write fingerprint, ``dataset.json`` and plans, unless an earlier run did."""
        file = self.folder / f"{self.plans['plans_name']}.json"
        if file.is_file():
            print(f"Keeping the plans of an earlier run: {file}")
            return
        if not (self.folder / DATASET).is_file():
            write_json(self.fingerprint, self.folder / FINGERPRINT, sort_keys=True)
            write_json(self.dataset_json, self.folder / DATASET)
        write_json(self.plans, file)  # last: where they are, all else is


class Planning:
    """How a data set of scans is planned: by one of nnU-Net's planners, or as another data set is.

    Args:
        options: of the preparation.

    Attributes:
        folder: the data set's; it may not exist yet.
        channels: whether numbered files are channels, or how many a case has; ``None``: neither options nor ``like``
            say. The data set's own plans don't: a call that goes on must find the scans that the interrupted one found.

    Raises:
        GenesisError: another data set has the id, or isn't one of ours; there is no such planner, or data set to be
            like.
    """

    def __init__(self, options: PrepareOptions) -> None:
        self._options, self.folder, self._plans_name = options, _new_folder(options), options.plans_name
        self.channels, self._like, planner = options.channels, None, options.planner
        self._planner = recursive_find_python_class(
            os.path.join(nnunetv2.__path__[0], "experiment_planning"),
            planner or "ExperimentPlanner",
            "nnunetv2.experiment_planning",
        )
        if self._planner is None:
            raise GenesisError(
                f"-pl {planner}: nnU-Net has no such planner. For example ExperimentPlanner, nnUNetPlannerResEncM, "
                "nnUNetPlannerResEncL or nnUNetPlannerResEncXL."
            )
        if options.like:
            given = f"--like {options.like}"
            self._like = planned_dataset(options.like, options.plans_name, *options.configurations, given=given)
            if self.channels is None:
                self.channels = len(channel_names(self._like.dataset_json))
        else:
            self._plans_name = inspect.signature(self._planner).parameters["plans_name"].default
        # What decides the intensities of a prepared data set: it can't change once scans are prepared.
        self._record = {
            "like": self._like.folder.name if self._like else None,
            "hu_window": list(options.hu_window) if options.hu_window else None,
        }

    def known(self, scans: int) -> PreparedDataset | None:
        """Find the data set as an earlier run has planned it, or as ``like`` has it, if either; writes nothing.

        Args:
            scans: how many there are.

        Raises:
            GenesisError: it was prepared otherwise, or its files are damaged.
        """
        if not (self.folder / DATASET).is_file():
            return self._new_like(self._like, scans) if self._like else None
        dataset_json, options = read_dataset_json(self.folder / DATASET), self._options
        record = dataset_json["genesis"]
        for key, value in self._record.items():
            if record.get(key) != value:
                raise GenesisError(
                    f"{self.folder}: was prepared with {key} = {record.get(key)}, now {value} is asked for. All scans "
                    "of a data set must be prepared alike: repeat the earlier option, or use a new data set (-d, -n)."
                )
        asked, held = (SAME_MODALITY.get(name.upper(), name.upper())
                       for name in (options.asked_modality or record["modality"], record["modality"]))  # fmt: skip
        if asked != held:
            raise GenesisError(
                f"{self.folder}: holds {record['modality']} scans; --modality {options.modality} doesn't fit."
            )
        found, file = read_json(self.folder / FINGERPRINT), self.folder / f"{self._plans_name}.json"
        if file.is_file():
            plans = read_plans(file, *options.configurations)
        else:
            plans = self._plans_like(self._like) if self._like else self._run_planner(dataset_json, found)
        return PreparedDataset(self.folder, plans, dataset_json, found, options.configurations)

    def plan(self, analyses: Mapping[str, Analysis]) -> PreparedDataset:
        """Plan a data set of analysed scans, which are of one modality; writes nothing.

        Raises:
            GenesisError: the planner makes no such configuration.
        """
        found, first = fingerprint(list(analyses.values()), self._options.hu_window), next(iter(analyses.values()))
        modality, channels = first.modality, len(first.intensities)
        # nnU-Net chooses the normalisation by this name: "CT" is clipped by fixed statistics, all others are z-scored.
        same_name = modality == "CT" or channels == 1
        names = {str(index): modality if same_name else f"{modality}_{index}" for index in range(channels)}
        dataset_json = self._dataset_json(names, modality, len(analyses))
        plans = self._run_planner(dataset_json, found)
        return PreparedDataset(self.folder, plans, dataset_json, found, self._options.configurations)

    def _plans_like(self, like: PlannedDataset) -> dict[str, Any]:
        plans = {**like.plans, "dataset_name": self._options.dataset_name, "plans_name": self._plans_name}
        plans.pop("genesis", None)
        return plans

    def _new_like(self, like: PlannedDataset, scans: int) -> PreparedDataset:
        plans, options = self._plans_like(like), self._options
        schemes = PlansManager(plans).get_configuration(options.configurations[0]).normalization_schemes
        names = channel_names(like.dataset_json)
        modality = options.asked_modality or _modality_like(list(names.values()), schemes)
        if "CTNormalization" in schemes and not is_ct_name(modality):
            raise GenesisError(f"--like {options.like}: is planned for CT; --modality {options.modality} is asked.")
        dataset_json, found = self._dataset_json(names, modality, scans), read_json(like.folder / FINGERPRINT)
        return PreparedDataset(self.folder, plans, dataset_json, found, options.configurations)

    def _dataset_json(self, names: dict[str, str], modality: str, scans: int) -> dict[str, Any]:
        return {
            "channel_names": names,
            "labels": {"background": 0, "body": 1},
            "numTraining": scans,
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
            "genesis": {"modality": modality, "asked_modality": self._options.asked_modality, **self._record},
        }

    def _run_planner(self, dataset_json: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        """Run nnU-Net's planner, which insists on a raw data set and on a folder to write to, in temporary ones."""
        options = self._options
        # It looks at the first image's name only to find a reader, which dataset.json names already.
        listed = {"dataset": {"scan": {"images": ["scan_0000.nii.gz"], "label": "scan.nii.gz"}}}
        # It sets torch's threads to nnUNet_n_proc_DA, which fails on the 0 that training accepts.
        threads = str(max(1, get_allowed_n_proc_DA()))
        with tempfile.TemporaryDirectory() as raw, tempfile.TemporaryDirectory() as preprocessed:
            for place, name, content in ((raw, DATASET, dataset_json | listed), (preprocessed, FINGERPRINT, found)):
                (Path(place) / options.dataset_name).mkdir()
                write_json(content, Path(place) / options.dataset_name / name, sort_keys=name == FINGERPRINT)
            places = {nnUNet_raw.env_var_name: raw, nnUNet_preprocessed.env_var_name: preprocessed}
            with (
                environment(**places, nnUNet_n_proc_DA=threads),
                contextlib.redirect_stdout(io.StringIO()),
                torch.device("meta"),  # it builds networks to count their maps
            ):
                plans, name = plan_experiment_dataset(options.dataset_id, self._planner, options.gpu_memory_target)
        check_plans(plans, f"Plans {name}", *options.configurations)
        return dict(plans)


def _new_folder(options: PrepareOptions) -> Path:
    folder = nnunet_folder("nnUNet_preprocessed") / options.dataset_name
    # As nnU-Net looks for an id: in all of its folders.
    others = [name for name in find_candidate_datasets(options.dataset_id) if name != options.dataset_name]
    if others:
        raise GenesisError(
            f"-d {options.dataset_id}: nnU-Net's folders have {others[0]} already. Choose another id, or that name."
        )
    if (folder / DATASET).is_file() and "genesis" not in read_json(folder / DATASET):
        raise GenesisError(f"{folder}: is a data set that nnunet-genesis did not make. Choose another id (-d) or name.")
    return folder


def _modality_like(names: Sequence[str], schemes: Sequence[str]) -> str:
    """Tell what scans a data set is of by its normalisation and its channels' names, which may be any."""
    named = next((name for name in names if is_ct_name(name)), None)
    if "CTNormalization" in schemes or (named and named.upper() == "CT"):
        return "CT"
    return named or ("PET" if names[0].upper() in ("PET", "PT") else "MR")
