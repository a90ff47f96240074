"""Released weights -> Genesis checkpoint; one pure function per source format, told from the content."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nnunet_genesis.checkpoint.untrusted import some_keys
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers import genesis, genesis_unet3d, keras, nnssl, nnunet_v1, nnunet_v2
from nnunet_genesis.importers.imported import Imported
from nnunet_genesis.importers.source import Source, read

__all__ = ["FORMATS", "Imported", "Source", "convert", "detect", "import_weights", "read"]

# The authors' files: axes (x, y, z), which can be reversed or kept.
_WITH_AXES: dict[str, Callable[[Source, bool], Imported]] = {
    "nnunet_v1": nnunet_v1.convert,
    "genesis_unet3d": genesis_unet3d.convert,
    "keras": keras.convert,
}
_PLAIN: dict[str, Callable[[Source], Imported]] = {
    "nnssl": nnssl.convert,
    "nnunet_v2": nnunet_v2.convert,
    "genesis": genesis.convert,
}
FORMATS = (*_WITH_AXES, *_PLAIN)


def import_weights(path: str | Path, format: str | None = None, keep_axes: bool = False) -> dict[str, Any]:
    """The Genesis checkpoint in a file of released weights; :func:`convert` gives an account of it besides.

    Args:
        path: the file.
        format: one of :data:`FORMATS` (default: told from the content).
        keep_axes: leave the axes of the authors' files in their order (x, y, z).

    Raises:
        GenesisError: see :func:`convert`.
    """
    return convert(path, format, keep_axes).checkpoint


def convert(path: str | Path | Source, format: str | None = None, keep_axes: bool = False) -> Imported:
    """As :func:`import_weights`, with what was placed, what wasn't, and why; ``path`` may have been read already.

    Raises:
        GenesisError: the file can't be read, is of no known format, or isn't what its format needs.
    """
    source = path if isinstance(path, Source) else read(path)
    name = format or detect(source.content)
    if name in _WITH_AXES:
        return _WITH_AXES[name](source, keep_axes)
    if name not in _PLAIN:
        found = f"the format {name!r}" if name else f"the keys {some_keys(source.content)}"
        raise GenesisError(
            f"{source.path}: expected weights in one of the formats {', '.join(FORMATS)}, found {found}. Give such "
            "a file, or name its format with --format."
        )
    if keep_axes:
        raise GenesisError(
            f"{source.path}: --keep_axes is for the Models Genesis authors' files ({', '.join(_WITH_AXES)}), found the "
            f"format {name}, whose axes are nnU-Net's. Leave it out."
        )
    return _PLAIN[name](source)


def detect(content: Mapping[str, Any]) -> str | None:
    """The format that a file's content is of, or None; looks at keys only."""
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
