"""nnU-Net's folders, and data sets in them, with messages for people."""

import json
from pathlib import Path
from typing import Any

from nnunetv2 import paths
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_genesis.checkpoint.untrusted import regular_file
from nnunet_genesis.errors import GenesisError

SPLITS, SUBSETS = "splits_final.json", "genesis_splits.json"


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


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        GenesisError: it is missing, no file or no JSON.
    """
    try:
        return json.loads(regular_file(file, "a JSON file").read_text(encoding="utf-8"))
    except PermissionError as error:
        raise GenesisError(f"{file}: no permission to read it. Check the file's owner and mode.") from error
    except (ValueError, RecursionError) as error:
        raise GenesisError(f"{file}: expected JSON, found something else ({error}). Restore or remove it.") from error
