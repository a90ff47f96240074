"""Files of weights whose pickle would make a folder when it is loaded, in every format and in archives of them."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save as to_safetensors


class Payload:
    """Makes the folder ``marker`` when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.marker), 0o777, True)


def content(marker: Path) -> dict[str, Any]:
    """A checkpoint of every format at once, with the payload in it."""
    weights = {"encoder.weight": torch.zeros(2, 3), "bad": Payload(marker)}
    genesis = {"schema_version": 1, "plans": {"bad": Payload(marker)}, "configuration": "3d_fullres"}
    init_args = {"plans": Payload(marker), "configuration": "3d_fullres", "dataset_json": {}}
    return {"network_weights": weights, "genesis": genesis, "state_dict": weights, "init_args": init_args}


def torch_zip(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(content(marker), buffer)
    return buffer.getvalue()


def torch_legacy(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(content(marker), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def npy(marker: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(marker)], object), allow_pickle=True)
    return buffer.getvalue()


def npz(marker: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.array([Payload(marker)], object))
    return buffer.getvalue()


def hdf5(marker: Path) -> bytes:
    """Bytes of a pickle where a careless reader could look for one; Keras' own code is in ``model_config``."""
    buffer, pickled = io.BytesIO(), np.void(pickle.dumps(Payload(marker)))
    with h5py.File(buffer, "w") as file:
        file["depth_0_conv/kernel"] = pickled
        file.attrs["model_config"] = (
            f'{{"class_name": "Lambda", "config": {{"function": "os.mkdir({str(marker)!r})"}}}}'
        )
    return buffer.getvalue()


def safetensors(marker: Path) -> bytes:
    pickled = pickle.dumps(Payload(marker), protocol=0).decode("latin1")
    return to_safetensors({"a": torch.zeros(2)}, metadata={"genesis": pickled, "aliases": pickled})


FORMATS: dict[str, Callable[[Path], bytes]] = {
    "weights.pt": torch_zip,
    "weights.pth": torch_zip,
    "weights.model": torch_legacy,
    "weights.npz": npz,
    "weights.npy": npy,
    "weights2.pkl": lambda marker: pickle.dumps(content(marker), protocol=2),
    "weights5.pkl": lambda marker: pickle.dumps(content(marker), protocol=5),
    "weights.h5": hdf5,
    "weights.safetensors": safetensors,
}


def write_all(folder: Path, marker: Path) -> list[Path]:
    """Every format, and each of them inside a zip and a tar archive."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, make in FORMATS.items():
        (folder / name).write_bytes(make(marker))
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.write(folder / name, name)
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            archive.add(folder / name, name)
        files += [folder / name, folder / f"{name}.zip", folder / f"{name}.tar"]
    return files
