"""Networks that nnU-Net does not ship. Plans name them by this package's path, so it stays."""

from nnunet_genesis.architectures.genesis_unet3d import GenesisUNet3D

__all__ = ["GenesisUNet3D"]
