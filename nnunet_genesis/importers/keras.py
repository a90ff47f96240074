"""``Genesis_Chest_CT.h5``: the Keras version of the original network -> GenesisUNet3D.

The file is read with h5py as plain numbers; Keras' ``load_model`` would run code in it.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_genesis.architectures.genesis_unet3d import architecture
from nnunet_genesis.checkpoint.untrusted import HDF5, tensor_problem
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.base import (
    Imported,
    Layout,
    Source,
    Tensors,
    genesis_checkpoint,
    layout,
    place,
    reverse_axes,
)
from nnunet_genesis.importers.genesis_unet3d import HEAD, LEVELS, other_heads, record_of

_NODES, _DEPTH = 10_000, 8  # a Keras file of this network has some 200 nodes, 4 deep

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


def is_hdf5(path: Path) -> bool:
    """Tell from the first bytes."""
    with open(path, "rb") as file:
        return file.read(len(HDF5)) == HDF5


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
    try:
        with h5py.File(path, "r", locking=False) as file:
            for name, dataset in _datasets(h5py, file, path):
                _check_dataset(dataset, f"{path}: {name!r}", path.stat().st_size)
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
    """Yield every data set of weights with its full name, by hard links only; Keras' optimiser state is passed by."""
    kinds = {kind.partition("/")[2] for kind in _KINDS}
    stack = [("", root)]
    for _ in range(_NODES):
        if not stack:
            return
        name, node = stack.pop()
        if isinstance(node, h5py.Dataset):
            if name.count("/") >= 1 and _kind(name) in kinds:
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
    state = _checked(source)
    wanted = layout(architecture(norm_eps=NORM_EPS), 1, 1, source.path)
    names = _names(state, wanted, source)
    mapped = {names[old]: _own_axes(value) for old, value in state.items() if old in names}
    filled = _identities(wanted) | other_heads(wanted)
    filled |= {name: torch.tensor(0) for name in wanted.shapes if name.endswith(".num_batches_tracked")}
    head = {f"{HEAD}.{kind}": torch.zeros(wanted.shapes[f"{HEAD}.{kind}"]) for kind in ("weight", "bias")}
    filled |= {name: value for name, value in head.items() if name not in mapped}
    weights = place(mapped | filled, wanted, source.path, _published_names(names, wanted))
    record = record_of(source, "keras", keep_axes, NORM_EPS)
    return Imported.of(
        genesis_checkpoint(weights if keep_axes else reverse_axes(weights), record),
        state,
        list(names),
        filled={name: _why_filled(name) for name in filled},
        notes=_NOTES,
    )


def _checked(source: Source) -> Tensors:
    finite: set[Any] = set()
    for name, value in source.content.items():
        if problem := tensor_problem(value, finite):
            raise GenesisError(
                f"{source.path}: {name!r} {problem}; expected an array of finite numbers. The file is damaged: copy it "
                "again from where it was published."
            )
    return dict(source.content)


def _names(state: Tensors, wanted: Layout, source: Source) -> dict[str, str]:
    """Map the file's names to ours."""
    blocks: dict[str, str] = {}
    for name, value in state.items():
        found = _LAYER.match(name)
        if found and found[2] == "conv/kernel" and (block := _block(int(found[1]), value, wanted)):
            if block in blocks.values():
                raise GenesisError(f"{source.path}: {name!r}: expected one such layer, found two. Use another file.")
            blocks[found[1]] = block
    names = {}
    for name in state:
        found = _LAYER.match(name)
        if found and found[1] in blocks and found[2] in _KINDS:
            names[name] = f"{blocks[found[1]]}.{_KINDS[found[2]]}"
    heads = [name for name, value in state.items() if tuple(value.shape) == (1, 1, 1, 64, 1) and name not in names]
    if len(heads) == 1:
        names[heads[0]] = f"{HEAD}.weight"
        bias = heads[0].replace("/kernel", "/bias")
        names |= {bias: f"{HEAD}.bias"} if bias in state else {}
    return names


def _block(number: int, kernel: torch.Tensor, wanted: Layout) -> str | None:
    if number < 2 * LEVELS:
        return f"encoder.stages.{number // 2}.0.convs.{number % 2}"
    shape = tuple(_own_axes(kernel).shape)
    blocks = [f"decoder.stages.{stage}.convs.{block}" for stage in range(LEVELS - 1) for block in (0, 1)]
    return next((block for block in blocks if wanted.shapes[f"{block}.conv.weight"] == shape), None)


def _own_axes(value: torch.Tensor) -> torch.Tensor:
    return value.permute(4, 3, 0, 1, 2).contiguous() if value.ndim == 5 else value


def _identities(wanted: Layout) -> Tensors:
    filled: Tensors = {}
    for stage in range(LEVELS - 1):
        name = f"decoder.transpconvs.{stage}"
        shape = wanted.shapes[f"{name}.weight"]  # (in, out, 2, 2, 2), in = out
        filled[f"{name}.weight"] = torch.eye(shape[0])[:, :, None, None, None].expand(shape).contiguous()
        filled[f"{name}.bias"] = torch.zeros(wanted.shapes[f"{name}.bias"])
    return filled


def _published_names(names: dict[str, str], wanted: Layout) -> dict[str, str]:
    """Map our names to the file's, for messages; of an encoder layer also where the file lacks it."""
    origin = {new: old for old, new in names.items()}
    kinds = {own: kind for kind, own in _KINDS.items()}
    for number in range(2 * LEVELS):
        for own, kind in kinds.items():
            origin.setdefault(f"encoder.stages.{number // 2}.0.convs.{number % 2}.{own}", f"depth_{number}_{kind}")
    return origin


def _why_filled(name: str) -> str:
    if ".transpconvs." in name:
        return "the identity: nearest up-sampling as a transposed convolution"
    if name.endswith(".num_batches_tracked"):
        return "zero: Keras counts no batches"
    return "zeros: the file has no such output"
