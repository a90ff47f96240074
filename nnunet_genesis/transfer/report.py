"""What a transfer does: coverage, a table stage by stage, warnings; as text for the log and as JSON."""

import dataclasses
import math
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from nnunet_genesis.errors import GenesisError, printable
from nnunet_genesis.transfer.matching import stage_of
from nnunet_genesis.transfer.moves import Move, Reason

PARTS = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The moves of one transfer, and what they rest on.

    Attributes:
        source: the file that the weights come from.
        moves: one per target tensor.
        stages: for every encoder stage of the target, its voxel size (one number an axis) and the index of the
            pretrained stage, or ``None``.
        unit: of the voxel sizes: ``mm`` or ``voxels``.
        warnings: differences that don't stop the transfer but may spoil it.
        sha256: of the file.
    """

    source: str
    moves: Sequence[Move]
    stages: Sequence[tuple[Sequence[float], int | None]] = ()
    unit: str = "voxels"
    warnings: Sequence[str] = ()
    sha256: str = ""

    def coverage(self, part: str = "encoder") -> float:
        """Return the share of the part's parameters (elements, not tensors), in [0, 1], that come from the source."""
        return _share(move for move in self.moves if move.part == part)

    def refusal(self, min_coverage: float, needed: Collection[str] = ("encoder",)) -> str | None:
        """Say why this is too little, and what to do.

        ``None`` where ``min_coverage`` (in [0, 1]) of the encoder is reached and, if it is ``needed``, some of the
        decoder is covered.
        """
        covered = self.coverage()
        if not covered or covered < min_coverage:
            return (
                f"{self.source}: these weights cover {covered:.1%} of this network's encoder, expected at least "
                f"{min_coverage:.0%}. Most frequent cause: {self._cause('encoder')}. {self._remedy()}"
            )
        if "decoder" in needed and not self.coverage("decoder"):
            return (
                f"{self.source}: nothing of these weights fits this network's decoder. Most frequent cause: "
                f"{self._cause('decoder')}. Use nnUNetTrainerGenesis, which takes the encoder alone."
            )
        return None

    def _cause(self, part: str) -> str:
        causes = Counter(move.reason for move in self.moves if move.part == part and move.reason).most_common(1)
        return causes[0][0] if causes else "channels or blocks that the pretrained network lacks"

    def _remedy(self) -> str:
        """Name the closest thing that would work."""
        causes = {move.cause for move in self.moves if move.part == "encoder"}
        if Reason.KIND in causes:
            plan = f"nnUNetv2_genesis_plan -d DATASET --for {shlex.quote(self.source)}"
            return f"Plan for their network ({plan}, then -p as it says), or use weights of a network of this kind."
        widths = "Set nnUNet_genesis_partial_widths=1, " if Reason.WIDTH in causes else "Either "
        return (
            f"{widths}pretrain with this data set's plans (nnUNetv2_genesis_prepare --like), choose plans that match "
            "(-p), or lower nnUNet_genesis_min_coverage."
        )

    def require(self, min_coverage: float, needed: Collection[str] = ("encoder",)) -> None:
        """Raise a :meth:`refusal`, and the whole report, as GenesisError, if there is one."""
        if refusal := self.refusal(min_coverage, needed):
            raise GenesisError(f"{refusal}\n{self.to_text()}")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "coverage": {part: self.coverage(part) for part in PARTS},
            "tensors": dict(Counter(move.operation for move in self.moves)),
            "warnings": list(self.warnings),
            "stages": [
                {"stage": stage, f"resolution_{self.unit}": list(size), "pretrained_stage": pair}
                for stage, (size, pair) in enumerate(self.stages)
            ],
            "moves": [
                {
                    **{name: value for name, value in vars(move).items() if name != "cause"},
                    "operation": move.operation,
                    "steps": [str(step) for step in move.steps],
                }
                for move in self.moves
            ],
        }

    def to_text(self) -> str:
        """Write coverage, then one line a stage, then one a reason for what is skipped, then the warnings."""
        lines = [f"Genesis weights: {printable(self.source)}"]
        lines += [f"  SHA-256: {self.sha256}"] if self.sha256 else []
        for part in PARTS:
            moves = [move for move in self.moves if move.part == part]
            placed = sum(move.placed > 0 for move in moves)
            lines.append(f"  {part}: {self.coverage(part):.1%} of the parameters, {placed} of {len(moves)} tensors")
            for stage in range(len(self.stages)):
                lines += self._stage_line(stage, [m for m in moves if stage_of(m.target, len(self.stages)) == stage])
        skipped = Counter(move.reason for move in self.moves if move.reason)
        for reason, count in skipped.most_common():
            example = next(move.target for move in self.moves if move.reason == reason)
            lines.append(f"  skipped ({count}): {printable(reason)} (e.g. {printable(example)})")
        return "\n".join([*lines, *(f"  WARNING: {printable(warning)}" for warning in self.warnings)])

    def _stage_line(self, stage: int, moves: Sequence[Move]) -> list[str]:
        if not any(move.source for move in moves):
            return []
        size, pair = self.stages[stage]
        voxel = "×".join(f"{length:.3g}" for length in size)
        steps = dict.fromkeys(str(step) for move in moves for step in move.steps)
        adapted = f"  [{'; '.join(steps)}]" if steps else ""
        return [f"    stage {stage} ({voxel} {self.unit}) <- stage {pair}: {_share(moves):.1%}{adapted}"]


def _share(moves: Iterable[Move]) -> float:
    moves = list(moves)
    total = sum(math.prod(move.shape) for move in moves)
    return sum(move.placed for move in moves) / total if total else 0.0
