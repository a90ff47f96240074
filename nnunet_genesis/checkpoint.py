"""The Genesis checkpoint: its schema, and the atomic write."""

import contextlib
import dataclasses
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nnunet_genesis import __version__, tensor_file, torch_file
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.untrusted import check_content, first_problem, plain, regular_file, sha256, some_keys

SCHEMA_VERSION = 1

CITATIONS = [
    "Zhou Z, Sodha V, Pang J, Gotway MB, Liang J. Models Genesis. Medical Image Analysis 67 (2021) 101840. "
    "doi:10.1016/j.media.2020.101840",
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 18 (2021) 203-211. doi:10.1038/s41592-020-01008-z",
]

_REQUIRED = ("schema_version", "plans", "configuration")


@dataclasses.dataclass(frozen=True)
class GenesisWeights:
    """A Genesis checkpoint as read from disk.

    Attributes:
        path: the file.
        network_weights: state dict of the pretrained network (nnU-Net's parameter names), on the CPU.
        metadata: the ``genesis`` record: plans, configuration, normalisation, corruption, data, software, …
        sha256: of the file, in hexadecimal digits; empty where it wasn't computed.
    """

    path: Path
    network_weights: dict[str, torch.Tensor]
    metadata: dict[str, Any]
    sha256: str = ""


def software_versions() -> dict[str, str]:
    """Versions that a checkpoint records, by package."""
    packages = ("nnunetv2", "torch", "batchgenerators", "batchgeneratorsv2", "dynamic_network_architectures")
    return {
        "nnunet-genesis": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it to ``path``.

    Whatever stood at ``path`` stays whole until the new file is complete.
    """
    temporary = f"{os.fspath(path)}.tmp{os.getpid()}"
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(os.path.dirname(os.path.abspath(path)))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _flush_folder(folder: str) -> None:
    """The new name too must survive a power cut; Windows can't open folders."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save(checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write ``checkpoint`` to ``path`` atomically; ``*.safetensors``: weights and record only, each tensor once.

    Raises:
        GenesisError: the content is no plain data.
    """
    with atomic_path(path) as temporary:
        if os.fspath(path).endswith(tensor_file.SUFFIX):
            tensor_file.write(checkpoint, temporary)
        else:
            try:
                torch.save(checkpoint, temporary)
            except RecursionError as error:
                raise GenesisError(f"{path}: not written: its content is nested too deep for a checkpoint.") from error


def load(path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running any code in it; torch's formats, old and new, and our safetensors.

    nnU-Net's own checkpoints hold numpy scalars in their logs; exactly those types are allowed besides tensors and
    plain containers. Tensors may claim more than they hold: :mod:`nnunet_genesis.untrusted` checks them.

    Raises:
        GenesisError: the file is missing, unreadable, no checkpoint, or holds anything else.
    """
    path = regular_file(path)
    try:
        reader = tensor_file if tensor_file.is_safetensors(path) else torch_file
        checkpoint = reader.read(path, map_location)
    except PermissionError as error:
        raise GenesisError(f"{path}: no permission to read it. Check the file's owner and mode.") from error
    check_content(checkpoint, path)
    if not isinstance(checkpoint, dict):
        raise GenesisError(
            f"{path}: expected a checkpoint with the key 'network_weights', found a {type(checkpoint).__name__}. "
            "Give a checkpoint_*.pth written by nnUNetv2_genesis_pretrain."
        )
    return checkpoint


def load_weights(path: str | os.PathLike[str]) -> GenesisWeights:
    """Read a Genesis checkpoint for fine-tuning.

    Raises:
        GenesisError: the file can't be read, or isn't a Genesis checkpoint of a schema that we know.
    """
    return check(load(path), path, sha256(path))


def check(checkpoint: dict[str, Any], path: str | os.PathLike[str], digest: str = "") -> GenesisWeights:
    """The weights and the record of ``checkpoint``, as :func:`load` gave it; ``digest``: the file's SHA-256.

    Raises:
        GenesisError: it isn't a Genesis checkpoint of a schema that we know, or holds anything but finite 3D weights.
    """
    metadata, weights = checkpoint.get("genesis"), checkpoint.get("network_weights")
    if not isinstance(metadata, dict) or not isinstance(weights, dict):
        found = "an nnU-Net checkpoint without Genesis metadata" if isinstance(weights, dict) else "no network weights"
        raise GenesisError(
            f"{path}: expected a Genesis checkpoint (keys 'network_weights' and 'genesis'), found {found} (keys: "
            f"{some_keys(checkpoint)}). Give a checkpoint_*.pth of nnUNetv2_genesis_pretrain, or "
            "convert this one: nnUNetv2_genesis_import FILE -o genesis.pth."
        )
    missing = [key for key in _REQUIRED if key not in metadata]
    if missing or not isinstance(metadata["schema_version"], int) or metadata["schema_version"] > SCHEMA_VERSION:
        found = f"missing {', '.join(missing)}" if missing else f"version {metadata['schema_version']!r}"
        raise GenesisError(
            f"{path}: expected Genesis schema version {SCHEMA_VERSION} or older, found {found}. It comes from a newer "
            "nnunet-genesis or is damaged: upgrade with 'pip install -U nnunet-genesis', or write it anew."
        )
    _check_weights(weights, path)
    return GenesisWeights(Path(path), weights, plain(metadata, Path(path)), digest)


def _check_weights(weights: dict[str, Any], path: str | os.PathLike[str]) -> None:
    if problem := first_problem(weights):
        name, found, more = problem
        raise GenesisError(
            f"{path}: expected tensors of finite numbers, found something else in {name!r} (and {more} more): it "
            f"{found}. The pretraining diverged or the file is damaged: use an earlier checkpoint."
        )
    flat = next((name for name, value in weights.items() if value.ndim == 4), None)
    if flat is not None:
        raise GenesisError(
            f"{path}: expected 3D kernels, found a 2D one, {list(weights[flat].shape)}, in {flat!r}. Genesis weights "
            "are 3D: use those of a 3d_fullres or 3d_lowres configuration."
        )
