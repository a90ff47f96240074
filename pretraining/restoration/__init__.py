"""The restoration objective's corruptions: sample parameters as plain data, then apply them (see `compose`)."""

from pretraining.restoration.compose import CORRUPTIONS, RestorationTransform
from pretraining.restoration.flipping import RandomFlip
from pretraining.restoration.intensity import NonLinearIntensity
from pretraining.restoration.painting import InPainting, OutPainting
from pretraining.restoration.shuffling import LocalShuffling

__all__ = [
    "CORRUPTIONS",
    "InPainting",
    "LocalShuffling",
    "NonLinearIntensity",
    "OutPainting",
    "RandomFlip",
    "RestorationTransform",
]
