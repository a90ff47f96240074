"""Released weights -> Genesis checkpoint; one pure function per source format, told from the content."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.lineage import nnssl_citations, texts
from nnunet_genesis.checkpoint.untrusted import HDF5, plain, some_keys
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file, sha256
from nnunet_genesis.importers import genesis_unet3d, keras, nnssl, nnunet_v1, nnunet_v2, repository
from nnunet_genesis.importers.base import Imported, Source

__all__ = ["FORMATS", "Imported", "Source", "convert", "detect", "read"]


def _same(source: Source) -> Imported:
    """Take a Genesis checkpoint unchanged, to be written again, e.g. as safetensors.

    Raises:
        GenesisError: it isn't a whole one.
    """
    weights = checkpoint.check(dict(source.content), source.path).network_weights
    own = {key: plain(source.content.get(key), source.path) for key in ("genesis", nnssl.PLAN)}
    return Imported(dict(source.content) | own, {name: list(value.shape) for name, value in weights.items()})


_IMPORTERS: dict[str, Callable[..., Imported]] = {
    "nnunet_v1": nnunet_v1.convert,
    "genesis_unet3d": genesis_unet3d.convert,
    "keras": keras.convert,
    "nnssl": nnssl.convert,
    "nnunet_v2": nnunet_v2.convert,
    "genesis": _same,
}
FORMATS = tuple(_IMPORTERS)
_WITH_AXES = FORMATS[:3]  # the authors' files: axes (x, y, z), which can be reversed or kept


def read(path: str | Path) -> Source:
    """Read a file, or the folder of a repository, without running anything in it.

    Raises:
        GenesisError: there is no such file, or it is of no kind that we can read.
    """
    file, card = repository.find(Path(path))
    path = regular_file(file, "a file of weights")
    with open(path, "rb") as stream:
        is_keras = stream.read(len(HDF5)) == HDF5
    content = keras.read(path) if is_keras else checkpoint.load(path)
    if card.plan is not None and "network_weights" in content:  # the checkpoint's own plan comes first
        content = {nnssl.PLAN: card.plan} | content
    return Source(path, content, sha256(path), card)


def convert(
    path: str | Path | Source,
    format: str | None = None,
    keep_axes: bool = False,
    licence: str | None = None,
    origin: str | None = None,
) -> Imported:
    """Make a Genesis checkpoint of a file of released weights, and give an account of it.

    Args:
        path: the file, a repository's folder, or what :func:`read` gave.
        format: one of :data:`FORMATS` (default: told from the content).
        keep_axes: leave the axes of the authors' files in their order (x, y, z).
        licence: of the weights (default: what the repository's README says, else the file).
        origin: where they come from, for the record.

    Raises:
        GenesisError: the file can't be read, is of no known format, or isn't what its format needs.
    """
    source = path if isinstance(path, Source) else read(path)
    imported = _converted(source, format, keep_axes)
    record, card = imported.record, source.card
    if said := licence or card.licence:
        record["licence"] = said
    record["citations"] = list(dict.fromkeys([*texts(record.get("citations")), *card.citations]))
    if origin:
        known = record.get("imported")
        record["imported"] = {**(known if isinstance(known, dict) else source.describe("genesis")), "source": origin}
    content = imported.checkpoint | {"citations": nnssl_citations(record["citations"])}
    return dataclasses.replace(imported, checkpoint=content, notes=(*imported.notes, *card.notes))


def _converted(source: Source, format: str | None, keep_axes: bool) -> Imported:
    name = format or detect(source.content)
    if name not in FORMATS:
        found = f"the format {name!r}" if name else f"the keys {some_keys(source.content)}"
        raise GenesisError(
            f"{source.path}: expected weights in one of the formats {', '.join(FORMATS)}, found {found}. Give such "
            "a file, or name its format with --format."
        )
    if keep_axes and name not in _WITH_AXES:
        raise GenesisError(
            f"{source.path}: --keep_axes is for the Models Genesis authors' files ({', '.join(_WITH_AXES)}), found the "
            f"format {name}, whose axes are nnU-Net's. Leave it out."
        )
    return _IMPORTERS[name](source, **({"keep_axes": True} if keep_axes else {}))


def detect(content: Mapping[str, Any]) -> str | None:
    """Tell the format of a file's content from its keys; None if it is none of ours."""
    if "network_weights" in content:
        marks = {"genesis": "genesis", nnssl.PLAN: "nnssl", "init_args": "nnunet_v2"}
        return next((name for key, name in marks.items() if key in content), None)
    state = content.get("state_dict")
    names = [str(name) for name in state] if isinstance(state, dict) else []
    if any("conv_blocks_context." in name for name in names):
        return "nnunet_v1"
    if any("down_tr64." in name for name in names):
        return "genesis_unet3d"
    return "keras" if any(str(name).startswith("depth_0_") for name in content) else None
