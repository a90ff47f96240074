"""From nnU-Net's normalised intensities to the [0, 1] that the original network was trained on."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from nnunet_genesis.errors import GenesisError

# Published: Hounsfield units clipped to ±1000 and mapped to [0, 1] (Zhou et al., 2021).
LOWEST_HU, HIGHEST_HU = -1000.0, 1000.0

# In standard deviations from the mean. Percentiles 0.1 and 99.9 of z-scored MRs, measured: 260 hippocampi (nnU-Net's
# preprocessed cases) −2.58 … −1.85 and 1.71 … 7.66, median −2.16 and 2.28, 95 % of the cases below 5.54; 60 ACDC cases
# −1.50 … −0.77 and 2.91 … 6.69; 4 whole heads −0.95 … −0.67 and 2.97 … 4.44, of their nonzero voxels alone down to
# −3.07 and up to 5.71; 4 BraTS channels inside the brain −3.08 … −2.42 and 3.16 … 4.59. (0.5 and 99.5: −3.02 and 4.72
# at the most.) Wide is safe: the batch norm after the first convolution takes the map's scale and shift out again.
ZSCORE_WINDOW = (-3.0, 6.0)


class InputMap(nn.Module):
    """x · scale + shift per channel, clipped to [0, 1]; without scale and shift, the identity (nothing is clipped).

    It is clipped because the published data were: bone and metal above 1000 HU look like 1000 HU to the weights.
    Scale and shift come from the plans and are not in the state dict, so that the same weights serve other data.

    Args:
        channels: input channels of the network.
        scale: factors of the first ``len(scale)`` channels; further ones (the one-hot segmentation of a cascade's
            previous stage, which is in [0, 1]) are left alone.
        shift: as many summands.

    Raises:
        GenesisError: ``scale`` and ``shift`` don't fit each other or the channels.
    """

    scale: torch.Tensor | None
    shift: torch.Tensor | None

    def __init__(self, channels: int, scale: Sequence[float] | None, shift: Sequence[float] | None):
        super().__init__()
        lengths = [len(values) if values is not None else 0 for values in (scale, shift)]
        if lengths[0] != lengths[1] or lengths[0] > channels:
            raise GenesisError(
                f"GenesisUNet3D: expected input_scale and input_shift for each of the {channels} input channels (or "
                f"neither), found {lengths[0]} and {lengths[1]} numbers. Correct the plans' arch_kwargs, or plan anew."
            )
        others = channels - lengths[0]
        self.register_buffer("scale", self._column(scale, [1.0] * others), persistent=False)
        self.register_buffer("shift", self._column(shift, [0.0] * others), persistent=False)

    @staticmethod
    def _column(values: Sequence[float] | None, more: list[float]) -> torch.Tensor | None:
        return None if values is None else torch.tensor([*values, *more]).reshape(-1, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, Z, Y, X)."""
        if self.scale is None or self.shift is None:
            return x
        return (x * self.scale + self.shift).clamp(0, 1)


def planned_map(scheme: str, properties: Mapping[str, float]) -> tuple[float, float]:
    """Scale and shift that map a channel's normalised intensities to [0, 1].

    Args:
        scheme: nnU-Net's normalisation. CTNormalization gives exactly (HU + 1000) / 2000, ZScoreNormalization a fixed
            window (:data:`ZSCORE_WINDOW`); what is in [0, 1] already stays.
        properties: the channel's ``foreground_intensity_properties``: ``mean`` and ``std`` in HU are read for CT.

    Raises:
        GenesisError: the scheme doesn't say where the intensities lie.
    """
    if scheme == "CTNormalization":
        width = HIGHEST_HU - LOWEST_HU
        # CTNormalization divides by at least 1e-8, too.
        return max(float(properties["std"]), 1e-8) / width, (float(properties["mean"]) - LOWEST_HU) / width
    if scheme == "ZScoreNormalization":
        lowest, highest = ZSCORE_WINDOW
        return 1 / (highest - lowest), -lowest / (highest - lowest)
    if scheme in ("RescaleTo01Normalization", "RGBTo01Normalization"):
        return 1.0, 0.0
    raise GenesisError(
        f"dataset.json: channel normalised with {scheme}, of which the range is unknown; the Genesis 3D U-Net expects "
        "intensities that can be mapped to [0, 1]. Name the channel CT, zscore or rescale_to_0_1 in channel_names."
    )
