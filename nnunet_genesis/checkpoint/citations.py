"""Citations: ours, any others as texts, and all of them in the shape that other programs look for."""

from typing import Any

CITATIONS = [
    "Zhou Z, Sodha V, Pang J, Gotway MB, Liang J. Models Genesis. Medical Image Analysis 67 (2021) 101840. "
    "doi:10.1016/j.media.2020.101840",
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 18 (2021) 203-211. doi:10.1038/s41592-020-01008-z",
]

# Type and name of each, as nnssl files them.
_CITED = (("Pretraining Method", "Models Genesis"), ("Framework", "nnU-Net"))


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
