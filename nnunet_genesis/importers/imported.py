"""What an importer hands over: the Genesis checkpoint, and an account of what is in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Imported:
    """A foreign file as a Genesis checkpoint.

    Attributes:
        checkpoint: ``network_weights``, ``genesis`` and ``nnssl_adaptation_plan``.
        placed: shapes of the file's tensors that are in ``network_weights``, by their name in the file.
        not_placed: why the others are not, by their name in the file.
        filled: tensors of the network that the file has no counterpart of, and what they hold.
        notes: what the user should know, one sentence each.
    """

    checkpoint: dict[str, Any]
    placed: Mapping[str, Sequence[int]]
    not_placed: Mapping[str, str] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """The ``genesis`` record."""
        return self.checkpoint["genesis"]
