"""nnU-Net's folders, data sets in them, with messages for people, and the environment that names them."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2 import paths
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json

SPLITS, SUBSETS = "splits_final.json", "genesis_splits.json"
NNUNETS_FOLDS = 5  # where there is no splits_final.json


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables within the block; restore them, or their absence, after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@dataclass(frozen=True)
class PlannedDataset:
    """A data set in ``nnUNet_preprocessed`` that has plans.

    Attributes:
        folder: its folder, ``DatasetXXX_NAME``.
        plans: content of its plans file.
        dataset_json: content of its ``dataset.json``.
    """

    folder: Path
    plans: dict[str, Any]
    dataset_json: dict[str, Any]


def planned_dataset(dataset: str, plans_name: str, *configurations: str, given: str | None = None) -> PlannedDataset:
    """Find a planned data set, and check that its files say what nnU-Net needs.

    Args:
        dataset: its name or id.
        plans_name: name of the plans.
        configurations: those that the plans must have.
        given: how a message about the data set begins, e.g. the option that named it (default: ``Data set 'DATASET'``).

    Raises:
        GenesisError: there is no such data set, plans or configuration (the message names those that are there), or a
            file is damaged.
    """
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset, given or f"Data set {dataset!r}")
    file = folder / f"{plans_name}.json"
    if not file.is_file():
        found = ", ".join(sorted(f.stem for f in folder.glob("*.json") if b'"configurations"' in f.read_bytes()))
        raise GenesisError(
            f"{file}: no such plans; found {found or 'none'}. Choose plans with -p, or plan the data set: "
            f"nnUNetv2_plan_and_preprocess -d {dataset}, or nnUNetv2_genesis_prepare for scans without labels."
        )
    return PlannedDataset(folder, read_plans(file, *configurations), read_dataset_json(folder / "dataset.json"))


def read_plans(file: Path, *configurations: str) -> dict[str, Any]:
    """Read nnU-Net's plans, which must have these configurations.

    Raises:
        GenesisError: the file is missing or damaged, or has no such configuration.
    """
    plans = read_json(file)
    check_plans(plans, file, *configurations)
    return dict(plans)


def check_plans(plans: Any, file: Any, *configurations: str) -> None:
    """Check that plans are nnU-Net's and describe these configurations.

    Args:
        plans: content of a plans file.
        file: where they come from, for the message.
        configurations: names.

    Raises:
        GenesisError: they aren't or don't.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # imports torch

    known = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(known, dict):
        found = f"a {type(plans).__name__}" if known is None else f"configurations that are a {type(known).__name__}"
        raise GenesisError(f"{file}: expected nnU-Net's plans, found {found}. Restore the file, or plan anew.")
    for name in configurations:
        if name not in known:
            raise GenesisError(f"{file}: no configuration {name!r}; found {', '.join(known)}. Choose with -c.")
        try:
            with warnings.catch_warnings():  # nnU-Net's advice on old plans is given where they are used
                warnings.simplefilter("ignore")
                planned = PlansManager(plans).get_configuration(name)
            sizes, network = [*planned.patch_size, *(planned.spacing or ())], planned.network_arch_class_name
            if not all(isinstance(size, (int, float)) for size in sizes) or not isinstance(network, str):
                raise TypeError(f"patch size {planned.patch_size}, spacing {planned.spacing}, network {network!r}")
            list(planned.pool_op_kernel_sizes)
        except Exception as error:  # nnU-Net takes its own file for granted
            raise GenesisError(
                f"{file}: configuration {name!r} can't be read ({type(error).__name__}: {error}). The file is damaged "
                "or was edited: restore it, or plan anew."
            ) from error


def read_dataset_json(file: Path) -> dict[str, Any]:
    """Read a data set's ``dataset.json``.

    Raises:
        GenesisError: it is missing, or lacks the names of channels or labels.
    """
    content = read_json(file)
    try:
        named = channel_names(content) and isinstance(content["labels"], dict)
    except (GenesisError, KeyError, TypeError, AttributeError, ValueError):
        named = False
    if not named:
        raise GenesisError(
            f"{file}: expected nnU-Net's dataset.json, with channel_names (or modality) and labels, found "
            f"{', '.join(content) if isinstance(content, dict) else f'a {type(content).__name__}'}. Restore the file."
        )
    return dict(content)


def channel_names(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the image channels, by number as text, in order; older data sets call them modality.

    Raises:
        GenesisError: it has none.
        AttributeError, TypeError, ValueError: they aren't names by number.
    """
    names = dataset_json.get("channel_names") or dataset_json.get("modality")
    if not names:
        raise GenesisError('dataset.json has no channel_names; expected e.g. {"0": "CT"}. Add them.')
    return {key: str(names[key]) for key in sorted(names, key=int)}


def check_fold(fold: int | str, base: Path, cases: Path) -> None:
    """Refuse a fold that isn't there: nnU-Net would split at random, cases of one patient on both sides.

    Args:
        fold: its number, or ``all``.
        base: the preprocessed data set.
        cases: its folder of preprocessed cases.

    Raises:
        GenesisError: there is no such fold, or nnU-Net can't make it.
    """
    if fold == "all":
        return
    file, number = base / SPLITS, NNUNETS_FOLDS
    if file.is_file():
        number = len(read_json(file))
    else:
        from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class  # imports torch

        found = len(infer_dataset_class(str(cases)).get_identifiers(str(cases)))
        if found < number:
            raise GenesisError(
                f"{file}: no such file, and nnU-Net divides no fewer than {number} cases; found {found}. Take all of "
                "them (fold all), or write the file."
            )
    if int(fold) not in range(number):
        raise GenesisError(
            f"fold {fold}: expected one of {file}'s folds, 0 to {number - 1}, or all. Choose one of them."
        )


def nnunet_folder(variable: str) -> Path:
    """Return the folder that ``nnUNet_raw``, ``nnUNet_preprocessed`` or ``nnUNet_results`` names.

    Raises:
        GenesisError: the variable isn't set.
    """
    path = getattr(paths, variable)
    if not path.is_set():
        raise GenesisError(f"{variable} is not set; expected a folder. Set it: export {variable}=/path/to/{variable}")
    return Path(path)


def dataset_name(dataset: str, given: str | None = None) -> str:
    """Find ``DatasetXXX_NAME`` for a name or an id.

    Args:
        dataset: the name or id.
        given: how the message begins, e.g. the option that named it (default: ``-d DATASET``).

    Raises:
        GenesisError: there is no such data set, or several.
    """
    try:
        return str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, ValueError) as error:
        raise GenesisError(f"{given or f'-d {dataset}'}: {error}") from error
