"""What the importers of the authors' own files share: one CT channel, axes (x, y, z), reversed unless asked not to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nnunet_genesis.checkpoint import CITATIONS, Record
from nnunet_genesis.importers.base import CONFIGURATION, Imported, Layout, Source, Tensors, minimal_plans

# Of the authors' release: it is under a non-commercial licence.
_CITATIONS = [
    CITATIONS[0],
    "Zhou Z, Sodha V, Rahman Siddiquee MM, et al. Models Genesis: Generic Autodidactic Models for 3D Medical Image "
    "Analysis. MICCAI 2019. doi:10.1007/978-3-030-32251-9_42",
]
_LICENCE = "non-commercial, as given by the authors of Models Genesis"
# The authors' crops in voxels (x, y, z); stated for the original network, taken to hold for all.
_PATCH = [64, 64, 32]

# Gives what the file has no counterpart of, and why, by our name and shape.
Filler = Callable[[str, tuple[int, ...]], tuple[torch.Tensor, str] | None]


@dataclass(frozen=True)
class Published:
    """One of the files; intensities were clipped to ±1000 HU, ``mean`` subtracted, and divided by ``std``."""

    format: str
    name: str
    method: str
    mean: float
    std: float
    notes: tuple[str, ...]

    def place(
        self,
        source: Source,
        state: Tensors,
        wanted: Layout,
        architecture: Mapping[str, Any],
        origin: Mapping[str, str],
        fill: Filler,
        keep_axes: bool,
    ) -> Imported:
        """Place a file's tensors, with kernels (out, in, x, y, z), in our network.

        ``wanted`` is in that order of axes, ``architecture`` in the one that is asked for; ``origin``: the file's name
        by ours.

        Raises:
            GenesisError: a tensor is missing, or isn't what it should be.
        """
        mapped = {own: state[theirs] for own, theirs in origin.items() if theirs in state}
        missing = {own: fill(own, shape) for own, shape in wanted.shapes.items() if own not in mapped}
        filled = {own: found for own, found in missing.items() if found}
        weights = wanted.fill(mapped | {own: value for own, (value, _) in filled.items()}, origin)
        properties = {"mean": self.mean, "std": self.std, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
        patch = _PATCH if keep_axes else _PATCH[::-1]
        record = Record.of(
            minimal_plans(self.name, architecture, patch, None, ["CTNormalization"], {"0": properties}),
            CONFIGURATION,
            imported=source.describe(self.format),
            method=self.method,
            data={"channel_names": {"0": "CT"}},
            licence=_LICENCE,
            citations=_CITATIONS,
            axis_order="xyz" if keep_axes else "zyx",
        )
        return Imported.of(
            weights if keep_axes else _reversed(weights),
            record,
            state,
            [origin[own] for own in mapped],
            filled={own: why for own, (_, why) in filled.items()},
            notes=self.notes,
        )


def _reversed(state: Tensors) -> Tensors:
    """Turn every kernel (out, in, x, y, z) to (out, in, z, y, x); names that share a tensor go on sharing it."""
    done: dict[int, torch.Tensor] = {}
    for value in state.values():
        if value.ndim == 5 and id(value) not in done:
            done[id(value)] = value.permute(0, 1, 4, 3, 2).contiguous()
    return {name: done.get(id(value), value) for name, value in state.items()}
