"""The restoration objective's corruptions: sample parameters as plain data, then apply them (see `transform`)."""

from pretraining.restoration.intensity import NonLinearIntensity
from pretraining.restoration.painting import InPainting, OutPainting
from pretraining.restoration.shuffling import LocalShuffling
from pretraining.restoration.transform import CORRUPTIONS, RandomFlip, RestorationTransform

__all__ = [
    "CORRUPTIONS",
    "InPainting",
    "LocalShuffling",
    "NonLinearIntensity",
    "OutPainting",
    "RandomFlip",
    "RestorationTransform",
]
