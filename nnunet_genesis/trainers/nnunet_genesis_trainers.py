"""The shim that nnUNet_extTrainer points at: nnU-Net imports this file by itself and looks the class up by name."""

from nnunet_genesis.classification.trainer import nnUNetTrainerGenesisClassifier, nnUNetTrainerGenesisClassifierScratch
from nnunet_genesis.trainer import nnUNetTrainerGenesis, nnUNetTrainerGenesisFull, nnUNetTrainerGenesisScratch

__all__ = [
    "nnUNetTrainerGenesis",
    "nnUNetTrainerGenesisClassifier",
    "nnUNetTrainerGenesisClassifierScratch",
    "nnUNetTrainerGenesisFull",
    "nnUNetTrainerGenesisScratch",
]
