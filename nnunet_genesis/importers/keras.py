"""``Genesis_Chest_CT.h5``: the Keras version of the original network -> GenesisUNet3D.

The file is read with h5py as plain numbers; Keras' ``load_model`` would run code in it.
"""

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_genesis.architectures.genesis_unet3d import architecture
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers import genesis_unet3d
from nnunet_genesis.importers.base import Imported, Layout, Source, Tensors
from nnunet_genesis.importers.genesis_unet3d import HEAD, LEVELS

_NODES = 10_000  # a Keras file of this network has some 200

NORM_EPS = 1e-3  # Keras' default
_KINDS = {
    "conv/kernel": "conv.weight",
    "conv/bias": "conv.bias",
    "bn/gamma": "norm.weight",
    "bn/beta": "norm.bias",
    "bn/moving_mean": "norm.running_mean",
    "bn/moving_variance": "norm.running_var",
}
_LAYER = re.compile(r"^depth_(\d+)_((?:conv|bn)/\w+)$")
_NOTES = (
    "Keras normalises with its moving statistics at inference, this network always with the batch's, as the authors' "
    "PyTorch version does: outputs agree in training, not at inference.",
    "Not stated by the authors' facts, so taken from their PyTorch version: the up-sampled map comes before the skip. "
    "If that is wrong, the encoder is right and the decoder is not.",
    "The decoder's layers are recognised by their widths, not by their numbers.",
    "Up-sampling is a transposed convolution with ones on the diagonal, which is the same.",
)
_FILE = dataclasses.replace(genesis_unet3d.FILE, format="keras", notes=_NOTES)


def read(path: Path) -> dict[str, torch.Tensor]:
    """Read weights by ``LAYER/KIND``, e.g. ``depth_0_conv/kernel``, wherever they lie in the file.

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
    nodes = itertools.count(1)

    def problem(name: str, link: Any) -> str | None:
        if type(link) is not h5py.HardLink:
            return f"data sets alone, found the link {name!r}, which could point at other files"
        return f"a Keras weight file, found more than {_NODES} nodes" if next(nodes) > _NODES else None

    def take(name: str, dataset: Any) -> None:
        layer, kind = ["", *name.split("/")][-2], name.rpartition("/")[2].partition(":")[0]
        if not isinstance(dataset, h5py.Dataset) or kind not in kinds or not layer or name.startswith("optimizer_"):
            return
        _check_dataset(dataset, f"{path}: {name!r}", path.stat().st_size)
        if f"{layer}/{kind}" in found:
            raise GenesisError(f"{path}: expected one {layer}/{kind}, found two. Use the original file.")
        found[f"{layer}/{kind}"] = torch.from_numpy(np.asarray(dataset[()], np.float32))

    kinds = {kind.partition("/")[2] for kind in _KINDS}
    try:
        with h5py.File(path, "r", locking=False) as file:
            if found_problem := file.visititems_links(problem):  # each once: a cycle is no trap
                raise GenesisError(f"{path}: refused. Expected {found_problem}. Use the original file.")
            file.visititems(take)
    except GenesisError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError and more for damaged files
        raise GenesisError(
            f"{path}: can't be read as a Keras file ({type(error).__name__}); it is damaged or truncated. Copy it "
            "again from where it was published."
        ) from error
    return found


def _check_dataset(dataset: Any, where: str, file_size: int) -> None:
    properties = dataset.id.get_create_plist()
    shape, size = dataset.shape, dataset.dtype.itemsize
    problem = None
    if dataset.is_virtual or dataset.external:
        problem = "data outside the file"
    elif properties.get_nfilters():
        problem = "compressed data"
    elif shape is None or len(shape) > 5 or dataset.dtype.kind != "f" or size > 8:
        problem = f"shape {shape}, type {dataset.dtype}"
    elif size * math.prod(map(int, shape)) > min(file_size, dataset.id.get_storage_size()):
        problem = f"the shape {list(shape)} with {dataset.id.get_storage_size()} bytes of data"
    if problem:
        raise GenesisError(f"{where}: refused. Expected an array of numbers inside the file, found {problem}.")


def convert(source: Source, keep_axes: bool = False) -> Imported:
    """Place encoder, decoder, and the output layer if the file has it.

    What the facts leave open, and what is done:

    - The order of a decoder block's inputs is given as widths only ("skip + upsampled: 768, 384, 192"). The authors'
      PyTorch version has the same widths and puts the up-sampled map first; so it is taken here.
    - The numbers of the decoder's layers: recognised by shape among ``depth_8`` … ``depth_13``, where all differ.
    - The output layer's name: the 1³ convolution from 64 to 1 channels, whatever it is called; zeros without one.

    Nearest up-sampling by 2 equals a transposed convolution of 2³, stride 2, with an identity of ones and no bias.

    Args:
        source: tensors by ``LAYER/KIND``; kernels (x, y, z, in, out).
        keep_axes: leave kernels and sizes in (x, y, z).

    Raises:
        GenesisError: a layer is missing, or isn't what it should be.
    """
    network = architecture(norm_eps=NORM_EPS)
    wanted = Layout.of(network, 1, 1, source.path)
    given = source.tensors(None)
    state = {name: value.permute(4, 3, 0, 1, 2) if value.ndim == 5 else value for name, value in given.items()}
    return _FILE.place(source, state, wanted, network, _origin(state, wanted, source), _fill, keep_axes)


def _origin(state: Tensors, wanted: Layout, source: Source) -> dict[str, str]:
    """Map our names to the file's; of an encoder layer also where the file lacks it, for messages."""
    blocks = {f"encoder.stages.{number // 2}.0.convs.{number % 2}": str(number) for number in range(2 * LEVELS)}
    decoder = [f"decoder.stages.{stage}.convs.{number}" for stage in range(LEVELS - 1) for number in (0, 1)]
    by_shape = {wanted.shapes[f"{block}.conv.weight"]: block for block in decoder}
    for name, value in state.items():
        found, block = _LAYER.match(name), by_shape.get(tuple(value.shape))
        if block and found and found[2] == "conv/kernel" and int(found[1]) >= 2 * LEVELS:
            if block in blocks:
                raise GenesisError(f"{source.path}: {name!r}: expected one such layer, found two. Use another file.")
            blocks[block] = found[1]
    names = {f"{block}.{own}": f"depth_{number}_{kind}" for block, number in blocks.items()
             for kind, own in _KINDS.items()}  # fmt: skip
    heads = [name for name, value in state.items() if tuple(value.shape) == (1, 64, 1, 1, 1)]
    if len(heads) == 1:
        names |= {f"{HEAD}.weight": heads[0], f"{HEAD}.bias": heads[0].replace("/kernel", "/bias")}
    return names


def _fill(name: str, shape: tuple[int, ...]) -> tuple[torch.Tensor, str] | None:
    if ".transpconvs." in name:  # (in, out, 2, 2, 2), in = out
        identity = torch.eye(shape[0])[:, :, None, None, None].expand(shape) if len(shape) == 5 else torch.zeros(shape)
        return identity, "the identity: nearest up-sampling as a transposed convolution"
    if name.endswith(".num_batches_tracked"):
        return torch.tensor(0), "zero: Keras counts no batches"
    return (torch.zeros(shape), "zeros: the file has no such output") if ".seg_layers." in name else None
