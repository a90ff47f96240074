"""What weights inherit from those that they were trained from: their names, citations, and the strictest licence."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from nnunet_genesis.checkpoint.citations import texts

NOT_STATED = "not stated"

# What a licence's name says that it forbids or asks for; what says nothing that we know allows least.
_NO_DERIVATIVES, _NON_COMMERCIAL, _SHARE_ALIKE, _UNKNOWN = 8, 4, 2, 16
_MARKS = (
    (r"\bnd\b|no.?deriv", _NO_DERIVATIVES),
    (r"\bnc\b|non.?commercial|research", _NON_COMMERCIAL),
    (r"\bsa\b|share.?alike|gpl", _SHARE_ALIKE),
    (r"\bcc0\b|public.?domain|unlicense|apache|\bmit\b|\bbsd\b|\bcc.?by\b", 1),
)


def strictness(licence: str) -> int:
    """Rank a licence by what its name says: the more it forbids, the higher; unknown names and none at all highest."""
    text = licence.casefold().replace("_", "-")
    return sum(weight for pattern, weight in _MARKS if re.search(pattern, text)) or _UNKNOWN


def strictest(licences: Iterable[str]) -> str:
    """Return the one that allows least; of equals, the first. Without any: not stated."""
    return max(licences, key=strictness, default=NOT_STATED)


@dataclasses.dataclass(frozen=True)
class Origin:
    """The weights that a training starts from.

    Attributes:
        lineage: ``file``, ``sha256``, ``method``, ``licence`` and, of released ones, ``imported``; the oldest first.
        citations: to be cited with them.
    """

    lineage: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    citations: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Origin":
        """Read what a training of ours kept of the weights that it began with, if it began with any."""
        known = record.get("lineage")
        entries = [entry for entry in known if isinstance(entry, dict)] if isinstance(known, list) else []
        return cls(entries, texts(record.get("citations"))) if entries else cls()

    def to_plain(self) -> dict[str, Any]:
        """Return what :meth:`of` reads."""
        return dataclasses.asdict(self) if self.lineage else {}

    @property
    def licence(self) -> str:
        """Return the strictest of their licences."""
        return strictest(str(entry.get("licence") or NOT_STATED) for entry in self.lineage)
