"""Which file a trainer starts from, and whether it is the one that its plans name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_genesis.checkpoint.untrusted import sha256
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file
from nnunet_genesis.settings import Settings

ENTRY = 'plans["genesis"]'


def weights_file(settings: Settings, plans: Mapping[str, Any], trainer: str) -> Path:
    """The file of weights: what ``nnUNet_genesis_weights`` names, else what the plans do.

    Plans may come from a stranger. Whatever path they name is only ever read as a checkpoint. Where they have a
    ``sha256`` beside ``weights``, the file must have it; it is of no concern where the variable names another file.

    Args:
        settings: of the environment.
        plans: nnU-Net's; ``plans["genesis"]``, where it is there, has ``weights`` and may have ``sha256``.
        trainer: its name, for the message.

    Raises:
        GenesisError: neither names a file, the plans' entry isn't what it should be, or the digest is another.
    """
    if settings.weights:
        return _expanded(settings.weights)
    planned = plans.get("genesis", {})
    planned = planned if isinstance(planned, Mapping) else {"weights": planned}
    path, digest = planned.get("weights"), planned.get("sha256")
    for key, value in (("weights", path), ("sha256", digest)):
        if value is not None and not isinstance(value, str):
            raise GenesisError(
                f'{ENTRY}["{key}"]: expected text, found {type(value).__name__}. Correct the plans, or remove it there '
                "and set nnUNet_genesis_weights=/path/to/checkpoint_final.pth."
            )
    if not path:
        raise GenesisError(
            f"{trainer} has no weights to start from. Expected the environment variable nnUNet_genesis_weights or "
            f'{ENTRY}["weights"]; found neither. Set nnUNet_genesis_weights=/path/to/checkpoint_final.pth (from '
            "nnUNetv2_genesis_pretrain), or train from random weights with -tr nnUNetTrainerGenesisScratch."
        )
    file = _expanded(path)
    if digest is not None:
        _check(file, digest)
    return file


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~ of a user who isn't there
        raise GenesisError(f"{path}: expected the path of a checkpoint, found {error}. Check the path.") from error


def _check(file: Path, expected: str) -> None:
    found = sha256(regular_file(file))
    if found != expected.strip().lower():
        raise GenesisError(
            f'{file}: expected the SHA-256 {expected} that {ENTRY}["sha256"] names, found {found}; it is another file, '
            "or was changed or damaged on its way. Nothing was read. Get the file that the plans mean, or, if you "
            "trust this one, name it in nnUNet_genesis_weights."
        )
