"""nnU-Net's folders, data sets in them, with messages for people, and the environment that names them."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunetv2 import paths
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_genesis.errors import GenesisError

SPLITS, SUBSETS = "splits_final.json", "genesis_splits.json"


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


def nnunet_folder(variable: str) -> Path:
    """The folder that ``nnUNet_raw``, ``nnUNet_preprocessed`` or ``nnUNet_results`` names.

    Raises:
        GenesisError: the variable isn't set.
    """
    path = getattr(paths, variable)
    if not path.is_set():
        raise GenesisError(f"{variable} is not set; expected a folder. Set it: export {variable}=/path/to/{variable}")
    return Path(path)


def dataset_name(dataset: str, given: str | None = None) -> str:
    """``DatasetXXX_NAME`` for a name or an id.

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


def channel_names(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Return a data set's channels by number; nnU-Net still accepts the older ``modality`` for ``channel_names``.

    Raises:
        GenesisError: ``dataset.json`` has neither.
    """
    for key in ("channel_names", "modality"):
        if key in dataset_json:
            return dict(dataset_json[key])
    raise GenesisError('dataset.json has no channel_names; expected e.g. {"0": "CT"}. Add them.')
