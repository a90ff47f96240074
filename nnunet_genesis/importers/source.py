"""A foreign file as read: its content, and what identifies it. Nothing in it is trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.untrusted import plain, sha256, some_keys, tensor_problem
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file
from nnunet_genesis.importers import keras_file

__all__ = ["Source", "Tensors", "plain", "read", "tensors"]

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Source:
    """A file of weights in one of the formats that we know.

    Attributes:
        path: the file.
        content: its top level: a checkpoint's dict, or the tensors of a Keras file by ``LAYER/NAME``.
        sha256: of the file, in hexadecimal digits.
    """

    path: Path
    content: Mapping[str, Any]
    sha256: str = ""

    def describe(self, format_name: str) -> dict[str, str]:
        """The ``imported`` entry of the record."""
        return {"format": format_name, "file": self.path.name, "sha256": self.sha256}


def read(path: str | Path) -> Source:
    """Read a file without running anything in it.

    Raises:
        GenesisError: there is no such file, or it is of no kind that we can read.
    """
    path = regular_file(path, "a file of weights")
    content = keras_file.read(path) if keras_file.is_hdf5(path) else checkpoint.load(path)
    return Source(path, content, sha256(path))


def tensors(source: Source, key: str) -> Tensors:
    """The state dict under ``key``, without the prefixes that wrappers add (``module.``, ``_orig_mod.``).

    Raises:
        GenesisError: it is missing, or holds anything but dense tensors of finite numbers.
    """
    state = source.content.get(key)
    if not isinstance(state, dict) or not state:
        raise GenesisError(
            f"{source.path}: expected a state dict under {key!r}, found {type(state).__name__} (keys: "
            f"{some_keys(source.content)}). The file is damaged or of another format (--format)."
        )
    finite: set[Any] = set()
    for name, value in state.items():
        problem = tensor_problem(value, finite) if isinstance(name, str) else "has a name that is no text"
        if problem:
            raise GenesisError(
                f"{source.path}: {name!r} {problem}; expected a dense tensor of finite numbers. The file is damaged "
                "or was not written by the program that it names: copy it again from where it was published."
            )
    return {_unwrapped(name): value for name, value in state.items()}


def _unwrapped(name: str) -> str:
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name
