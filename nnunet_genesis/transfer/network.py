"""What a transfer needs to know of a network: its tensors' shapes, its stages' resolution, and its input's meaning."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis.checkpoint import GenesisWeights
from nnunet_genesis.checkpoint.architecture import first_convolution, kind_of
from nnunet_genesis.checkpoint.record import axis_order
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import channel_names

Shape = tuple[int, ...]

_STAGE = re.compile(r"^encoder\.stages\.(\d+)\.")


@dataclasses.dataclass(frozen=True)
class Window:
    """nnU-Net's CTNormalization: clip HU to ``lowest`` … ``highest``, subtract ``mean``, divide by ``sd``."""

    mean: float
    sd: float
    lowest: float
    highest: float


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as a transfer sees it; no tensors.

    Attributes:
        kind: ``plain``, ``residual``, ``Genesis 3D U-Net`` or another class name. Different kinds don't mix.
        shapes: shape of every tensor, by nnU-Net's name.
        strides: of each encoder stage, one number an axis.
        spacing: mm, one number an axis; ``None`` if unknown.
        axis_order: anatomical axes of the array as stored in files read by SimpleITK, e.g. ``zyx``.
        channels: names of the image channels. A cascade's network has more input channels than these.
        windows: CT window of each image channel, ``None`` where the normalisation is another.
    """

    kind: str
    shapes: Mapping[str, Shape]
    strides: Sequence[Sequence[int]]
    spacing: Sequence[float] | None
    axis_order: str
    channels: Sequence[str]
    windows: Sequence[Window | None]

    def first_convolution(self) -> str:
        """Return the name of the weight that sees the image.

        Raises:
            GenesisError: there is none.
        """
        name = first_convolution(self.shapes)
        if name is None:
            raise GenesisError(f"No first convolution in a {self.kind} network; expected nnU-Net's encoder.* names.")
        return name


def target_network(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> Network:
    """Describe the network, of these ``named_parameters()``, that nnU-Net builds for a configuration."""
    manager = PlansManager(dict(plans))
    spacing = manager.get_configuration(configuration).spacing
    return _network(manager, configuration, channel_names(dataset_json), shapes, spacing, axis_order(plans))


def source_network(weights: GenesisWeights) -> Network:
    """Describe the network of a Genesis checkpoint, from its record and its tensors; nothing is built or imported.

    Raises:
        GenesisError: the record lacks something or doesn't describe the tensors.
    """
    record = weights.record
    shapes = {name: tuple(value.shape) for name, value in weights.network_weights.items()}
    try:
        names = channel_names(record.data or {})
        network = _network(
            PlansManager(record.plans), record.configuration, names, shapes, record.spacing, record.axis_order or ""
        )
        _check(network)
    except (GenesisError, LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise GenesisError(
            f"{weights.path}: its Genesis record is damaged or incomplete ({type(error).__name__}: {error}). Expected "
            "plans, configuration, spacing, axis_order and channel names that describe its tensors. Write it anew "
            "with nnUNetv2_genesis_pretrain or nnUNetv2_genesis_import."
        ) from error
    return network


def _network(
    plans: PlansManager,
    configuration: str,
    names: Mapping[str, str],
    shapes: Mapping[str, Shape],
    spacing: Sequence[float] | None,
    axes: str,
) -> Network:
    planned, properties = plans.get_configuration(configuration), plans.foreground_intensity_properties_per_channel
    return Network(
        kind=kind_of(planned.network_arch_class_name),
        shapes=shapes,
        strides=[[stride] * 3 if isinstance(stride, int) else list(stride) for stride in planned.pool_op_kernel_sizes],
        spacing=None if spacing is None else [float(length) for length in spacing],
        axis_order=axes,
        channels=list(names.values()),
        windows=[
            _window(properties[str(channel)]) if scheme == "CTNormalization" else None
            for channel, scheme in enumerate(planned.normalization_schemes)
        ],
    )


def _window(properties: Mapping[str, float]) -> Window:
    mean, sd, lowest, highest = (
        float(properties[key]) for key in ("mean", "std", "percentile_00_5", "percentile_99_5")
    )
    return Window(mean, max(sd, 1e-8), lowest, highest)  # as CTNormalization


def _check(network: Network) -> None:
    stages = 1 + max((int(found[1]) for name in network.shapes if (found := _STAGE.match(name))), default=-1)
    if stages != len(network.strides):
        raise ValueError(f"{len(network.strides)} strides for {stages} encoder stages")
    if sorted(network.axis_order) != ["x", "y", "z"]:
        raise ValueError(f"axis_order {network.axis_order!r}")
    if any(len(stride) != 3 or min(stride) < 1 for stride in network.strides):
        raise ValueError(f"strides {network.strides}")
    if network.spacing is not None and (len(network.spacing) != 3 or not min(network.spacing) > 0):
        raise ValueError(f"spacing {network.spacing}")
    inputs = network.shapes[network.first_convolution()][1]
    if not len(network.channels) == len(network.windows) == inputs:
        raise ValueError(f"{len(network.channels)} channel names for {inputs} input channels")
