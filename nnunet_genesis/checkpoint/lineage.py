"""What weights inherit from those that they were trained from (names, citations, the strictest licence), and ours."""

import dataclasses
import re
from typing import Any

CITATIONS = [
    "Zhou Z, Sodha V, Pang J, Gotway MB, Liang J. Models Genesis. Medical Image Analysis 67 (2021) 101840. "
    "doi:10.1016/j.media.2020.101840",
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 18 (2021) 203-211. doi:10.1038/s41592-020-01008-z",
]

# Type and name of each, as nnssl files them.
_CITED = (("Pretraining Method", "Models Genesis"), ("Framework", "nnU-Net"))

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
        """Return the licence that allows least; of equals, the first. Without any: not stated."""
        licences = (str(entry.get("licence") or NOT_STATED) for entry in self.lineage)
        return max(licences, key=strictness, default=NOT_STATED)


def texts(value: Any) -> list[str]:
    """Turn citations of whatever shape (text, list of texts, dicts of texts or of lists) into a list of texts.

    nnssl's ``{type, name, apa_citations}`` gives its citations; another dict becomes ``key: value`` pairs in one text,
    unless its values are lists or dicts themselves.
    """
    if value is None:
        return []
    if isinstance(value, dict):
        if "apa_citations" in value:
            return texts(value["apa_citations"])
        if any(isinstance(entry, (list, dict)) for entry in value.values()):
            return [text for key, entry in value.items() for text in (f"{key}: {one}" for one in texts(entry))]
        return [", ".join(f"{key}: {entry}" for key, entry in value.items() if entry is not None)]
    if isinstance(value, list):
        return [text for entry in value for text in texts(entry)]
    return [str(value)]


def nnssl_citations(citations: Any) -> list[dict[str, Any]]:
    """Return citations as nnssl has them at the top of a checkpoint: ``type``, ``name``, ``apa_citations``."""
    found = list(dict.fromkeys(texts(citations)))
    others = [text for text in found if text not in CITATIONS]
    named = [(*name, [text]) for text, name in zip(CITATIONS, _CITED, strict=True) if text in found]
    groups = [*named, ("Pretrained Weights", "these weights and those that they come from", others)]
    return [{"type": kind, "name": name, "apa_citations": cited} for kind, name, cited in groups if cited]
