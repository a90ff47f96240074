"""Data sets of a Keras weight file, read with h5py as plain numbers; Keras' ``load_model`` would run code in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_genesis.checkpoint.untrusted import HDF5
from nnunet_genesis.errors import GenesisError

KINDS = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
_NODES, _DEPTH = 10_000, 8  # a Keras file of this network has some 200 nodes, 4 deep


def is_hdf5(path: Path) -> bool:
    """Told from the first bytes; False where there is no such file."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(HDF5)) == HDF5


def read(path: Path) -> dict[str, torch.Tensor]:
    """Weights by ``LAYER/KIND``, e.g. ``depth_0_conv/kernel``, wherever they lie in the file.

    Each data set is checked before it is read: no more than it really holds is ever allocated.

    Raises:
        GenesisError: h5py is missing, or the file is damaged or holds what a Keras file never does (links, external
            or virtual data, filters).
    """
    try:
        import h5py
    except ImportError as error:
        raise GenesisError(
            f'{path}: h5py is needed to read Keras files, found none. Install it: pip install "nnunet-genesis[keras]"'
        ) from error
    found: dict[str, torch.Tensor] = {}
    try:
        with h5py.File(path, "r", locking=False) as file:
            for name, dataset in _datasets(h5py, file, path):
                _check(dataset, f"{path}: {name!r}", path.stat().st_size)
                layer, kind = name.split("/")[-2], _kind(name)
                if f"{layer}/{kind}" in found:
                    raise GenesisError(f"{path}: expected one {layer}/{kind}, found two. Use the original file.")
                found[f"{layer}/{kind}"] = torch.from_numpy(np.asarray(dataset[()], np.float32))
    except GenesisError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError and more for damaged files
        raise GenesisError(
            f"{path}: can't be read as a Keras file ({type(error).__name__}); it is damaged or truncated. Copy it "
            "again from where it was published."
        ) from error
    return found


def _kind(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0]


def _datasets(h5py: Any, root: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Every data set of weights with its full name, by hard links only; Keras' optimiser state is passed by."""
    stack = [("", root)]
    for _ in range(_NODES):
        if not stack:
            return
        name, node = stack.pop()
        if isinstance(node, h5py.Dataset):
            if name.count("/") >= 1 and _kind(name) in KINDS:
                yield name, node
            continue
        if not isinstance(node, h5py.Group) or name.count("/") >= _DEPTH or name == "optimizer_weights":
            continue
        for key in node:
            if type(node.get(key, getlink=True)) is not h5py.HardLink:
                raise GenesisError(
                    f"{path}: refused. Expected data sets alone, found the link {key!r} in {name or '/'!r}, which "
                    "could point at other files. Use the original file."
                )
            stack.append((f"{name}/{key}" if name else key, node[key]))
    raise GenesisError(f"{path}: refused. Expected a Keras weight file, found more than {_NODES} nodes.")


def _check(dataset: Any, where: str, file_size: int) -> None:
    properties = dataset.id.get_create_plist()
    shape, size = dataset.shape, dataset.dtype.itemsize
    claimed = size
    for length in shape or ():
        claimed *= int(length)
    problem = None
    if dataset.is_virtual or dataset.external:
        problem = "data outside the file"
    elif properties.get_nfilters():
        problem = "compressed data"
    elif shape is None or len(shape) > 5 or dataset.dtype.kind != "f" or size > 8:
        problem = f"shape {shape}, type {dataset.dtype}"
    elif claimed > min(file_size, dataset.id.get_storage_size()):
        problem = f"the shape {list(shape)} with {dataset.id.get_storage_size()} bytes of data"
    if problem:
        raise GenesisError(f"{where}: refused. Expected an array of numbers inside the file, found {problem}.")
