"""A file of weights: its record, reading, writing, and what is checked of an untrusted one."""

from nnunet_genesis.checkpoint.lineage import CITATIONS
from nnunet_genesis.checkpoint.reading import GenesisWeights, check, load, load_weights
from nnunet_genesis.checkpoint.record import SCHEMA_VERSION, Record
from nnunet_genesis.checkpoint.writing import save

__all__ = [
    "CITATIONS",
    "SCHEMA_VERSION",
    "GenesisWeights",
    "Record",
    "check",
    "load",
    "load_weights",
    "save",
]
