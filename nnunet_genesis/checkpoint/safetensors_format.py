"""Genesis checkpoints as safetensors: each tensor once, the record as JSON in the header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from nnunet_genesis.errors import GenesisError

SUFFIX = ".safetensors"

# What a checkpoint holds besides its weights that serves anyone but the run that wrote it.
_KEPT = ("genesis", "nnssl_adaptation_plan", "citations")
_ALIASES = "aliases"
_HEADER = 1 << 22  # bytes; ours have some 200 kB. As objects it takes 20 times as much


def write(checkpoint: Mapping[str, Any], path: str) -> None:
    """Write weights, record and adaptation plan; optimiser state, logs and so on are left out.

    nnU-Net's state dict names each tensor up to four times. The name that ``named_parameters()`` gives is kept, the
    others go to the header as ``aliases``.
    """
    weights = checkpoint["network_weights"]
    aliases = duplicates(weights)
    header = {key: json.dumps(checkpoint[key]) for key in _KEPT if key in checkpoint}
    header |= {"format": "pt", _ALIASES: json.dumps(aliases)}
    # clone(): views of one storage, which safetensors refuses, become tensors of their own.
    unique = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items() if name not in aliases}
    Path(path).write_bytes(save(unique, metadata=header))  # save_file would make it readable by its owner alone


def duplicates(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Map name to canonical name, for each name of a tensor that the state dict holds under a better one too."""
    best: dict[Any, str] = {}
    found = {}
    for name in sorted(weights, key=_rank):  # stable: the first of equals stays
        value = weights[name]
        if value.numel():
            found[name] = best.setdefault((value.data_ptr(), value.shape, value.stride(), value.dtype), name)
    return {name: first for name, first in found.items() if name != first}


def _rank(name: str) -> tuple[bool, bool]:
    # nnU-Net registers its encoder in the decoder again, and each operation in its block's list again.
    return name.startswith("decoder.encoder."), ".all_modules." in name


def is_safetensors(path: Path) -> bool:
    """Tell from the content: the length of a JSON header, then the header, all inside the file."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def read(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read the checkpoint in ``path``, with every name that its state dict had; the library checks the header's claims.

    Raises:
        GenesisError: the file is damaged, or its header isn't what we write, or too large.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _HEADER:
        raise GenesisError(
            f"{path}: refused. Expected a header of at most {_HEADER} bytes, found {length}. It was made to fill the "
            "memory or is none of nnunet-genesis: get the original file."
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        content = {key: json.loads(header[key]) for key in _KEPT if key in header}
        aliases = json.loads(header.get(_ALIASES, "{}"))
        whole = weights | {name: weights[first] for name, first in aliases.items() if name not in weights}
    except Exception as error:  # safetensors' own, JSON's, and whatever a header of other types gives
        raise GenesisError(
            f"{path}: can't be read as safetensors ({type(error).__name__}: {str(error)[:200]}); it is damaged, "
            "truncated or was not written by nnunet-genesis. Copy it again, or use another checkpoint."
        ) from error
    return {"network_weights": whole, **content}
