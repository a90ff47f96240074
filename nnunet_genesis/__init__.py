"""Fine-tuning side of nnunet-genesis: everything that nnU-Net's own commands touch."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("nnunet-genesis")
except PackageNotFoundError:  # a checkout on PYTHONPATH that was never installed
    __version__ = "0+checkout"
