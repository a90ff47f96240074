"""The record that a checkpoint keeps of itself: its schema."""

import platform
from importlib.metadata import version

from nnunet_genesis import __version__

SCHEMA_VERSION = 1

CITATIONS = [
    "Zhou Z, Sodha V, Pang J, Gotway MB, Liang J. Models Genesis. Medical Image Analysis 67 (2021) 101840. "
    "doi:10.1016/j.media.2020.101840",
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 18 (2021) 203-211. doi:10.1038/s41592-020-01008-z",
]


def software_versions() -> dict[str, str]:
    """Versions that a checkpoint records, by package."""
    packages = ("nnunetv2", "torch", "batchgenerators", "batchgeneratorsv2", "dynamic_network_architectures")
    return {
        "nnunet-genesis": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
