"""``Genesis_Chest_CT.h5``: the Keras version of the original network -> GenesisUNet3D."""

import re
from typing import Any

import torch

from nnunet_genesis.checkpoint.untrusted import tensor_problem
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.genesis_unet3d import HEAD, LEVELS, architecture, description, other_heads
from nnunet_genesis.importers.imported import Imported
from nnunet_genesis.importers.layout import Layout, layout, place, reverse_axes, shapes
from nnunet_genesis.importers.source import Source, Tensors

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


def convert(source: Source, keep_axes: bool = False) -> Imported:
    """Encoder, decoder, and the output layer if the file has it.

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
    wanted = layout(architecture(NORM_EPS), 1, 1, source.path)
    names = _names(state, wanted, source)
    mapped = {names[old]: _own_axes(value) for old, value in state.items() if old in names}
    filled = _identities(wanted) | other_heads(wanted)
    filled |= {name: torch.tensor(0) for name in wanted.shapes if name.endswith(".num_batches_tracked")}
    head = {f"{HEAD}.{kind}": torch.zeros(wanted.shapes[f"{HEAD}.{kind}"]) for kind in ("weight", "bias")}
    filled |= {name: value for name, value in head.items() if name not in mapped}
    weights = place(mapped | filled, wanted, source.path, _published_names(names, wanted))
    return Imported(
        {
            "network_weights": weights if keep_axes else reverse_axes(weights),
            **description(source, "keras", keep_axes, NORM_EPS),
        },
        shapes(list(names), state),
        {name: "unknown to this format" for name in state if name not in names},
        {name: _why_filled(name) for name in filled},
        _NOTES,
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
    """Our name by the file's."""
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
    """The file's name by ours, for messages; of an encoder layer also where the file lacks it."""
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
