"""Two sets of named shapes -> a list of moves. Data only: printable, testable, touches no tensor."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_ENCODER_STAGE = re.compile(r"^encoder\.stages\.(\d+)\.")
_DECODER_STAGE = re.compile(r"^decoder\.(stages|transpconvs)\.(\d+)\.")


@dataclass(frozen=True)
class Move:
    """What happens to one target tensor.

    Attributes:
        target: its name in the target network.
        shape: its shape.
        operation: ``copy`` (same shape), ``image_channels`` (the source's input channels go to the leading ones,
            the target's others keep their initialisation), or ``skip``.
        source: name of the source tensor, if there is one.
        placed: number of the target's elements that come from the source.
        reason: why it is adapted or skipped.
    """

    target: str
    shape: Shape
    operation: Literal["copy", "image_channels", "skip"]
    source: str | None = None
    placed: int = 0
    reason: str = ""


def part_of(name: str) -> str:
    """``encoder``, ``decoder`` or ``head``, for a canonical nnU-Net parameter name."""
    if ".seg_layers." in name:
        return "head"
    return name.split(".", 1)[0]


def number_of_stages(names: Collection[str]) -> int:
    """Resolution stages of the encoder whose parameters are ``names``; 0 if it isn't an nnU-Net encoder."""
    return 1 + max((int(found[1]) for name in names if (found := _ENCODER_STAGE.match(name))), default=-1)


def encoder_kind(names: Collection[str]) -> str:
    """``plain`` (PlainConvUNet), ``residual`` (ResidualEncoderUNet) or ``unknown``."""
    if any(name.startswith("encoder.stages.0.0.convs.") for name in names):
        return "plain"
    return "residual" if any(".blocks.0.conv1." in name for name in names) else "unknown"


def match(source: Shapes, target: Shapes, parts: Collection[str], image_channels: int | None = None) -> list[Move]:
    """Match every target tensor with the source tensor that plays the same role.

    Stages are aligned from full resolution down. The encoder's index counts from there; the decoder's counts from
    the bottom, so it shifts by the difference in depth.

    Args:
        source: names and shapes of the pretrained state dict (nnU-Net's names).
        target: names and shapes of the target's ``named_parameters()``, each tensor once.
        parts: what to transfer, of ``encoder`` and ``decoder``.
        image_channels: number of the target's input channels that are images, where it has others too (a cascade's
            one-hot segmentation of the previous stage follows the images).
    """
    shift = number_of_stages(source) - number_of_stages(target)
    return [_match_one(name, shape, source, parts, shift, image_channels) for name, shape in target.items()]


def _match_one(
    name: str, shape: Shape, source: Shapes, parts: Collection[str], shift: int, image_channels: int | None
) -> Move:
    part = part_of(name)
    if part == "head":
        return Move(name, shape, "skip", reason="segmentation head: belongs to the new task")
    if part not in parts:
        return Move(name, shape, "skip", reason=f"{part}: this trainer does not transfer it")
    counterpart = _DECODER_STAGE.sub(lambda found: f"decoder.{found[1]}.{int(found[2]) + shift}.", name)
    found = source.get(counterpart)
    if found is None:
        return Move(name, shape, "skip", reason="not in the pretrained network")
    if found == shape:
        return Move(name, shape, "copy", counterpart, math.prod(shape))
    if image_channels is not None and _differ_in_image_channels(found, shape, image_channels):
        reason = f"{found[1]} image channel(s) of {shape[1]} input channels"
        return Move(name, shape, "image_channels", counterpart, math.prod(found), reason)
    return Move(name, shape, "skip", counterpart, reason=f"pretrained shape {list(found)}, here {list(shape)}")


def _differ_in_image_channels(source: Shape, target: Shape, image_channels: int) -> bool:
    return (
        len(source) == len(target) > 2
        and source[1] == image_channels < target[1]
        and source[:1] + source[2:] == target[:1] + target[2:]
    )
