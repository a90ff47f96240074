"""A Genesis checkpoint as source: written again as it is, e.g. as safetensors."""

from nnunet_genesis import checkpoint
from nnunet_genesis.importers.imported import Imported
from nnunet_genesis.importers.source import Source, plain


def convert(source: Source) -> Imported:
    """The checkpoint's content, unchanged.

    Raises:
        GenesisError: it isn't a whole Genesis checkpoint.
    """
    weights = checkpoint.check(dict(source.content), source.path).network_weights
    for key in ("genesis", "nnssl_adaptation_plan"):
        plain(source.content.get(key), source.path)
    return Imported(dict(source.content), {name: list(value.shape) for name, value in weights.items()})
