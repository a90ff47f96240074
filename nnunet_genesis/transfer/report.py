"""What a transfer did: coverage, a table for the log, JSON for the results folder."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nnunet_genesis.transfer.matching import Move, part_of


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The moves of one load, and where the weights came from."""

    source: str
    moves: Sequence[Move]

    def coverage(self, part: str = "encoder") -> float:
        """Share of the part's parameters (elements, not tensors), in [0, 1], that come from the source."""
        moves = [move for move in self.moves if part_of(move.target) == part]
        total = sum(math.prod(move.shape) for move in moves)
        return sum(move.placed for move in moves) / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {
            "source": self.source,
            "coverage": {part: self.coverage(part) for part in ("encoder", "decoder")},
            "tensors": dict(Counter(move.operation for move in self.moves)),
            "moves": [dataclasses.asdict(move) for move in self.moves],
        }

    def to_text(self) -> str:
        """One line a part, then one a reason for what was adapted or skipped (each with an example)."""
        lines = [f"Genesis weights: {self.source}"]
        for part in ("encoder", "decoder"):
            moves = [move for move in self.moves if part_of(move.target) == part]
            placed = sum(move.placed > 0 for move in moves)
            lines.append(f"  {part}: {self.coverage(part):.1%} of the parameters, {placed} of {len(moves)} tensors")
        notes = Counter((move.operation, move.reason) for move in self.moves if move.reason)
        for (operation, reason), count in notes.most_common():
            example = next(m.target for m in self.moves if (m.operation, m.reason) == (operation, reason))
            lines.append(f"  {operation} ({count}): {reason} (e.g. {example})")
        return "\n".join(lines)
