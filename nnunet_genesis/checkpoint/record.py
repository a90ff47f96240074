"""The record that a checkpoint keeps of itself: its only schema, of plain types."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_genesis import __version__
from nnunet_genesis.checkpoint.architecture import adaptation_entries
from nnunet_genesis.checkpoint.lineage import CITATIONS, NOT_STATED, Origin, texts
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import check_plans

SCHEMA_VERSION = 1
RESTORATION = "restoration (Models Genesis)"

# Of plans, what is about the weights, beside the configuration.
_KEPT = (
    *("dataset_name", "plans_name", "image_reader_writer", "transpose_forward", "transpose_backward", "label_manager"),
    *("original_median_spacing_after_transp", "original_median_shape_after_transp", "experiment_planner_used"),
)
COLLAPSED_R2 = 0.02  # below it a network restores no better than a constant image
_PACKAGES = ("nnunetv2", "torch", "batchgenerators", "batchgeneratorsv2", "dynamic_network_architectures")


def software_versions() -> dict[str, str]:
    """Return the versions that a checkpoint records, by package."""
    ours = {"nnunet-genesis": __version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in _PACKAGES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What a checkpoint says of itself; the fields are the keys of its ``genesis`` entry.

    Of an untrusted file only ``schema_version`` is checked, and that ``plans`` and ``configuration`` are there; other
    fields may be missing (``None``) or of any plain type.

    Attributes:
        schema_version: :data:`SCHEMA_VERSION` or older.
        method: how the weights were trained.
        plans: nnU-Net's.
        configuration: of the plans, that was trained.
        spacing: mm, one number an axis; ``None`` if unknown.
        patch_size: voxels.
        axis_order: anatomical axes of the array as stored in files read by SimpleITK, e.g. ``zyx``.
        normalization: ``schemes``, ``use_mask_for_norm`` and ``foreground_intensity_properties_per_channel``.
        corruption: probabilities, by name; of a pretraining.
        options: of a pretraining.
        training: ``epochs``, ``batch_size``, ``best_r2`` and the last ``r2_hidden``; of a pretraining.
        data: ``dataset_name``, ``channel_names``, ``number_of_cases``, ``fold``.
        software: versions by package.
        licence: of the weights.
        citations: to be cited with them.
        imported: ``format``, ``file`` and ``sha256`` of the foreign file that they come from; ``source``, if known.
        lineage: the weights that these were trained from, the first ones first: see :meth:`as_parent`.
    """

    schema_version: int = SCHEMA_VERSION
    method: str | None = None
    plans: dict[str, Any]
    configuration: str
    spacing: list[float] | None = None
    patch_size: list[int] | None = None
    axis_order: str | None = None
    normalization: dict[str, Any] | None = None
    corruption: dict[str, float] | None = None
    options: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    software: dict[str, str] | None = None
    licence: str | None = None
    citations: list[str] | None = None
    imported: dict[str, str] | None = None
    lineage: list[dict[str, Any]] | None = None

    def restores_nothing(self) -> float | None:
        """Return the best R² of a pretraining where it is below :data:`COLLAPSED_R2`."""
        found = self.training.get("best_r2") if isinstance(self.training, dict) else None
        return found if isinstance(found, int | float) and not found >= COLLAPSED_R2 else None

    @classmethod
    def of(
        cls,
        plans: Mapping[str, Any],
        configuration: str,
        *,
        data: Mapping[str, Any],
        licence: str = NOT_STATED,
        citations: Sequence[str] = CITATIONS,
        parents: Origin | None = None,
        **more: Any,
    ) -> "Record":
        """Describe a training or a foreign file; ``more``: other attributes, instead of what the plans say.

        ``data`` lacks nothing but the data set's name. Weights that were trained from others name them and cite what
        those cite; without a licence of their own they have the strictest of theirs.
        """
        parents = parents or Origin()
        manager = PlansManager(deepcopy(dict(plans)))
        chosen = manager.get_configuration(configuration)
        known = {
            "spacing": None if chosen.spacing is None else [float(length) for length in chosen.spacing],
            "patch_size": [int(length) for length in chosen.patch_size],
            "axis_order": axis_order(plans),
            "normalization": {
                "schemes": list(chosen.normalization_schemes),
                "use_mask_for_norm": list(chosen.use_mask_for_norm),
                "foreground_intensity_properties_per_channel": manager.foreground_intensity_properties_per_channel,
            },
            "software": software_versions(),
            "data": {"dataset_name": plans["dataset_name"], **data},
            "licence": parents.licence if licence == NOT_STATED else licence,
            "citations": list(dict.fromkeys([*citations, *parents.citations])),
            "lineage": parents.lineage or None,
        }
        return cls(plans=manager.plans, configuration=configuration, **known | more)

    @classmethod
    def from_plain(cls, content: Mapping[str, Any], file: Path) -> "Record":
        """Read the ``genesis`` entry of a checkpoint; keys that aren't ours are left.

        Raises:
            GenesisError: it is of a newer schema, or not one of ours.
        """
        missing = [key for key in ("schema_version", "plans", "configuration") if key not in content]
        if missing or not isinstance(content["schema_version"], int) or content["schema_version"] > SCHEMA_VERSION:
            found = f"missing {', '.join(missing)}" if missing else f"version {content['schema_version']!r}"
            raise GenesisError(
                f"{file}: expected Genesis schema version {SCHEMA_VERSION} or older, found {found}. It comes from a "
                "newer nnunet-genesis or is damaged: upgrade with 'pip install -U nnunet-genesis', or write it anew."
            )
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in names})

    def to_plain(self) -> dict[str, Any]:
        """Return the ``genesis`` entry; what is ``None`` is left out, but for the spacing."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None or name == "spacing"}

    def as_parent(self, file: Path, sha256: str) -> Origin:
        """Return what weights that are trained from these must keep of them; a file says what it likes of itself.

        Args:
            file: these weights; its name is kept, not its folder.
            sha256: of the file.
        """
        known = self.lineage if isinstance(self.lineage, list) else []
        own: dict[str, Any] = {"file": file.name, "sha256": sha256, "method": self.method}
        own |= {"licence": self.licence or NOT_STATED} | ({"imported": self.imported} if self.imported else {})
        return Origin([*(entry for entry in known if isinstance(entry, dict)), own], texts(self.citations))

    @property
    def planned(self) -> ConfigurationManager:
        """Return the configuration that was trained, as nnU-Net reads it.

        Raises:
            GenesisError: the plans are damaged.
        """
        check_plans(self.plans, "The Genesis record's plans", self.configuration)
        return PlansManager(self.plans).get_configuration(self.configuration)

    def adaptation_plan(self, input_channels: int) -> dict[str, Any]:
        """Return the ``nnssl_adaptation_plan``: what other programs look for beside the weights; plain types only.

        Args:
            input_channels: of the network.
        """
        configuration = deepcopy(self.planned.configuration)
        return {
            **adaptation_entries(configuration.pop("architecture")),
            "pretrain_plan": {
                "dataset_name": self.plans.get("dataset_name"),
                "plans_name": self.plans.get("plans_name"),
                "configurations": {self.configuration: configuration},
            },
            "pretrain_num_input_channels": input_channels,
            "recommended_downstream_patchsize": list(self.patch_size or ()),
        }


def one_configuration(
    plans: Mapping[str, Any], name: str, configuration: Mapping[str, Any], properties: Any
) -> dict[str, Any]:
    """Reduce plans to a configuration, as nnU-Net resolves it, and the ``properties`` of the channels' foreground."""
    return {
        **{key: plans[key] for key in _KEPT if key in plans},
        "configurations": {name: {key: value for key, value in configuration.items() if key != "inherits_from"}},
        "foreground_intensity_properties_per_channel": properties,
    }


def axis_order(plans: Mapping[str, Any]) -> str:
    """Name the axes of the arrays that a network with these plans sees: SimpleITK's z, y, x, transposed as they say."""
    return "".join("zyx"[axis] for axis in plans.get("transpose_forward", (0, 1, 2)))
