"""Two networks -> a list of moves, one per target tensor. Data only: printable, testable, touches no tensor."""

import math
import re
from collections.abc import Collection

from nnunet_genesis.transfer.alignment import align, resolutions
from nnunet_genesis.transfer.inputs import input_map
from nnunet_genesis.transfer.moves import Kernel, Move, Narrow, Offset, Permute, Reason, Step, part_of
from nnunet_genesis.transfer.network import Network, Shape

_PLACE = re.compile(r"^(encoder|decoder)\.(stages|transpconvs|seg_layers)\.(\d+)\.")
_BLOCK = re.compile(r"^(?:encoder|decoder)\.stages\.\d+(?:\.\d+)?\.(?:convs|blocks)\.(\d+)\.")


def stage_of(name: str, stages: int) -> int | None:
    """Return the encoder stage at whose resolution a tensor works (the stem: 0), of the network's ``stages``.

    The decoder's index counts from the bottom, where there is no decoder stage.
    """
    if name.startswith("encoder.stem."):
        return 0
    found = _PLACE.match(name)
    if not found:
        return None
    return int(found[3]) if found[1] == "encoder" else stages - 2 - int(found[3])


def match(source: Network, target: Network, parts: Collection[str], partial_widths: bool = False) -> list[Move]:
    """Match every target tensor, each named once, with the source tensor that plays the same part.

    Transfers ``parts`` of ``encoder``, ``decoder`` and ``head``; with ``partial_widths`` the leading channels and
    blocks where the numbers differ.
    """
    matcher = _Matcher(source, target, parts, partial_widths)
    return [matcher.move(name, shape) for name, shape in target.shapes.items()]


def stage_pairs(source: Network, target: Network) -> list[int | None]:
    """Return the source stage of every target stage; see :func:`nnunet_genesis.transfer.alignment.align`."""
    if source.kind != target.kind:
        return [None] * len(target.strides)
    order = _order(source, target)
    strides = [[stride[axis] for axis in order] for stride in source.strides]
    if strides == [list(stride) for stride in target.strides]:  # the same network, whatever the spacing
        return list(range(len(strides)))
    if source.spacing is None or target.spacing is None:
        return align(resolutions(strides), resolutions(target.strides))
    spacing = [source.spacing[axis] for axis in order]
    return align(resolutions(strides, spacing), resolutions(target.strides, target.spacing))


def _order(source: Network, target: Network) -> tuple[int, ...]:
    return tuple(source.axis_order.index(axis) for axis in target.axis_order)


class _UnplaceableError(Exception):
    """Why a tensor is skipped: the reason, and the same in words."""


class _Matcher:
    def __init__(self, source: Network, target: Network, parts: Collection[str], partial_widths: bool):
        self.source, self.target, self.parts, self.partial_widths = source, target, parts, partial_widths
        self.pairs, self.same_kind = stage_pairs(source, target), source.kind == target.kind
        if self.same_kind:
            self.order = _order(source, target)
            self.first = target.first_convolution()
            self.mix, self.offsets = input_map(source, target)

    def move(self, name: str, shape: Shape) -> Move:
        try:
            origin = self._counterpart(name)
            steps = self._steps(name, origin, self.source.shapes[origin], shape)
        except _UnplaceableError as error:
            return Move(name, shape, reason=error.args[1], cause=error.args[0])
        placed = math.prod(shape)
        for step in steps:
            placed = step.placed(placed, shape)
        return Move(name, shape, origin, steps, placed)

    def _counterpart(self, name: str) -> str:
        """Find the source tensor's name."""
        part = part_of(name)
        if part == "head" and part not in self.parts:
            raise _UnplaceableError(Reason.HEAD, "segmentation head: belongs to the new task")
        if part not in self.parts:
            raise _UnplaceableError(Reason.PART, f"{part}: this trainer does not transfer it")
        if not self.same_kind:
            raise _UnplaceableError(
                Reason.KIND, f"the pretrained network is {self.source.kind}, this one {self.target.kind}"
            )
        stage = stage_of(name, len(self.target.strides))
        pair = None if stage is None else self.pairs[stage]
        if pair is None:
            raise _UnplaceableError(Reason.RESOLUTION, "no pretrained stage of this resolution")
        if part != "encoder":
            pair = len(self.source.strides) - 2 - pair
        origin = _PLACE.sub(lambda found: f"{found[1]}.{found[2]}.{pair}.", name)
        there, here = self._blocks(origin, self.source), self._blocks(name, self.target)
        if there and there != here and not self.partial_widths:
            raise _UnplaceableError(
                Reason.WIDTH,
                f"{there} pretrained blocks in this stage, here {here} (nnUNet_genesis_partial_widths=1 takes the "
                "leading ones)",
            )
        if origin not in self.source.shapes:
            raise _UnplaceableError(Reason.MISSING, "not in the pretrained network")
        return origin

    @staticmethod
    def _blocks(name: str, network: Network) -> int:
        """Count the blocks in the stage of ``name``; 0 outside a stage, or where the network has no such stage."""
        found = _PLACE.match(name)
        if not found or found[2] != "stages":
            return 0
        names = (other for other in network.shapes if other.startswith(found[0]))
        return 1 + max((int(block[1]) for other in names if (block := _BLOCK.match(other))), default=-1)

    def _steps(self, name: str, origin: str, source: Shape, target: Shape) -> tuple[Step, ...]:
        transposed = ".transpconvs." in name
        steps: list[Step] = []
        if len(source) != len(target):
            raise _UnplaceableError(Reason.SHAPE, f"pretrained shape {list(source)}, here {list(target)}")
        if len(target) == 5:
            if self.order != (0, 1, 2) and source[2:] != (1, 1, 1):
                steps.append(Permute(self.order))
            kernel = [source[2 + axis] for axis in self.order]
            steps += [_kernel(axis, kernel[axis], size, transposed) for axis, size in enumerate(target[2:])
                      if size != kernel[axis]]  # fmt: skip
        if name == self.first and self.mix:
            steps.append(self.mix)
            source = (source[0], target[1], *source[2:])
        if name == self.first.replace("weight", "bias") and any(self.offsets):
            steps.append(Offset(origin.replace("bias", "weight"), self.offsets))
        if source[:2] != target[:2] if len(target) == 5 else source != target:
            steps.append(self._narrow(name, origin, source, target, transposed))
        return tuple(steps)

    def _narrow(self, name: str, origin: str, source: Shape, target: Shape, transposed: bool) -> Narrow:
        if not self.partial_widths:
            raise _UnplaceableError(
                Reason.WIDTH,
                f"pretrained shape {list(source)}, here {list(target)} (nnUNet_genesis_partial_widths=1 takes the "
                "leading channels)",
            )
        if len(target) == 1:
            return Narrow(min(source[0], target[0]))
        out, into = (1, 0) if transposed else (0, 1)
        upsampled = self._upsampled(origin, self.source), self._upsampled(name, self.target)
        segments = [(source[into], target[into])]
        if all(upsampled):
            segments = [upsampled, (source[into] - upsampled[0], target[into] - upsampled[1])]
        return Narrow(min(source[out], target[out]), tuple(segments), transposed)

    @staticmethod
    def _upsampled(name: str, network: Network) -> int:
        """Count the channels that a decoder stage's first convolution gets from below, before the skip's; else 0."""
        found = _PLACE.match(name)
        block = _BLOCK.match(name)
        if not found or found[1] != "decoder" or not block or block[1] != "0":
            return 0
        transposed = network.shapes.get(f"decoder.transpconvs.{found[3]}.weight")
        return transposed[1] if transposed else 0


def _kernel(axis: int, source: int, target: int, transposed: bool) -> Kernel:
    if target == 1:
        return Kernel(axis, 1, "mean" if transposed else "sum")
    if source == 1 and (transposed or target % 2):
        return Kernel(axis, target, "repeat" if transposed else "centre")
    raise _UnplaceableError(Reason.SHAPE, f"kernels of {source} and {target} voxels")
