"""What is fuzzed: each target takes an input, and may succeed plausibly or raise GenesisError (ScanError is one)."""

import functools
import gzip
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import SimpleITK
import torch

from nnunet_genesis import checkpoint, importers
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.base import Source
from nnunet_genesis.inspection import describe_text, describe_weights, import_text
from nnunet_genesis.transfer.plan import plan_transfer
from pretraining.scans.find import find_scans
from pretraining.scans.image_files import read_image_file
from pretraining.scans.reading import read_scan
from tests.faults.bombs import as_archive
from tests.faults.small_world import DATASET, small_plans
from tests.nnunet_genesis.importers import foreign_files as foreign
from tests.nnunet_genesis.networks import describe, network, record_of, save
from tests.pretraining.scans.dicom_series import make_slice


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        run: reads one input; raises GenesisError where it is refused.
        seeds: good inputs, to be altered.
        structured: the input is a checkpoint's content instead of bytes.
    """

    run: Callable[[Any], None]
    seeds: Callable[[], list[Any]]
    structured: bool = False


def _in_file(name: str, read: Callable[[Path], Any], write: Callable[[Path, bytes], Any] = Path.write_bytes) -> Any:
    """Run ``read`` on a file of the input's bytes."""

    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(path, data)
            read(path)

    return run


def read_weights(path: Path) -> None:
    """The whole way of ``nnUNetv2_genesis_inspect``."""
    source = importers.read(path)
    shown(importers.convert(source).checkpoint, path)


def shown(content: dict[str, Any], path: Path) -> None:
    weights = checkpoint.check(content, path)
    description = describe_weights(weights)
    json.dumps(description)
    describe_text(description)
    report = plan_transfer(weights, describe(network(3)), ("encoder", "decoder"))
    report.refusal(0.5)
    json.dumps(report.to_dict())
    report.to_text()


def import_content(format_name: str) -> Callable[[dict[str, Any]], None]:
    def run(content: dict[str, Any]) -> None:
        keep_axes = format_name in ("nnunet_v1", "genesis_unet3d", "keras")  # reversing takes most of the time
        imported = importers.convert(Source(Path("weights"), content, "0" * 64), format_name, keep_axes)
        shown(imported.checkpoint, Path("weights"))
        import_text(imported, Path("o.pth"))

    return run


@functools.cache
def _saved(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name == "legacy.pth":
            content = {"network_weights": network(3).state_dict(), "genesis": record_of(network(3))}
            torch.save(content, path, _use_new_zipfile_serialization=False)
        else:
            save(network(3), path)
        return path.read_bytes()


def _pickle() -> bytes:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(_saved("c.pth"))) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _with_pickle(path: Path, pickled: bytes) -> None:
    as_archive(path, pickled, _saved("c.pth"))


@functools.cache
def _hdf5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for layer in range(3):
            file[f"model_weights/depth_{layer}_conv/depth_{layer}_conv/kernel:0"] = np.zeros(
                (3, 3, 3, 1, 2), np.float32
            )
            file[f"model_weights/depth_{layer}_conv/depth_{layer}_conv/bias:0"] = np.zeros(2, np.float32)
    return buffer.getvalue()


def _views(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Tensors of the published shapes that share one storage, so that a target takes milliseconds."""
    storage = torch.zeros(max(int(np.prod(shape)) for shape in shapes.values()))
    return {name: storage[: int(np.prod(shape))].view(shape) for name, shape in shapes.items()}


@functools.cache
def _content(format_name: str) -> dict[str, Any]:
    if format_name == "nnunet_v1":
        return {"state_dict": _views(foreign.v1_shapes()), "epoch": 3}
    if format_name == "genesis_unet3d":
        shapes = {f"module.{name}": shape for name, shape in foreign.unet3d_shapes().items()}
        return {"state_dict": _views(shapes), "epoch": 3}
    if format_name == "keras":
        return dict(_views(foreign.keras_shapes()))
    plans, weights = small_plans(), network(3).state_dict()
    if format_name == "genesis":
        return {"network_weights": weights, "genesis": record_of(network(3))}
    init_args = {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": DATASET}
    common = {"network_weights": weights, "init_args": init_args, "trainer_name": "nnUNetTrainer"}
    if format_name == "nnunet_v2":
        return common
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    plan = {
        "architecture_plans": {"arch_class_name": "PlainConvUNet", "arch_kwargs": architecture["arch_kwargs"]},
        "pretrain_plan": {"configurations": {"onemmiso": {"spacing": [1, 1, 1], "patch_size": [16, 16, 16]}}},
        "recommended_downstream_patchsize": [16, 16, 16],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": None,
    }
    return {**common, "nnssl_adaptation_plan": plan, "citations": [{"type": "paper", "apa": ["A"]}]}


@functools.cache
def _volume() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


@functools.cache
def _nifti() -> list[bytes]:
    image = nibabel.Nifti1Image(_volume(), np.diag([1.0, 2, 3, 1]))
    image.header.set_slope_inter(2, 1)
    return [image.to_bytes(), nibabel.Nifti1Image(_volume().astype(">f4"), np.eye(4)).to_bytes()]


@functools.cache
def _itk(ending: str) -> list[bytes]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for compress in (False, True):
            path = Path(folder) / f"{compress}{ending}"
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(_volume()), str(path), compress)
            found.append(path.read_bytes())
    return found


@functools.cache
def _slices() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return [make_slice(Path(folder) / f"{number}.dcm", number).read_bytes() for number in range(3)]


def read_volume(path: Path) -> None:
    voxels, properties = read_image_file(path)
    assert voxels.dtype == np.float32
    assert voxels.ndim == 4
    assert np.isfinite(voxels).all()
    assert np.isfinite(properties["spacing"]).all()
    assert min(properties["spacing"]) > 0


def read_series(data: bytes) -> None:
    """A series whose middle slice is the input; what is found must be readable or refused."""
    with tempfile.TemporaryDirectory() as folder:
        for number, good in enumerate(_slices()):
            (Path(folder) / f"{number}.dcm").write_bytes(data if number == 1 else good)
        scans, left_out = find_scans([Path(folder)])
        assert scans or left_out
        for scan in scans:
            assert np.isfinite(read_scan(scan)[0]).all()


def _zipped(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data, 1, mtime=0))


TARGETS: dict[str, Target] = {
    "checkpoint, archive": Target(_in_file("c.pth", read_weights), lambda: [_saved("c.pth")]),
    "checkpoint, pickle": Target(_in_file("c.pth", read_weights, _with_pickle), lambda: [_pickle()]),
    "checkpoint, old format": Target(_in_file("c.pth", read_weights), lambda: [_saved("legacy.pth")]),
    "checkpoint, safetensors": Target(_in_file("c.safetensors", read_weights), lambda: [_saved("c.safetensors")]),
    "Keras file": Target(_in_file("c.h5", read_weights), lambda: [_hdf5()]),
    **{
        f"import {name}": Target(
            import_content(name), functools.partial(lambda n: [_content(n)], name), structured=True
        )
        for name in importers.FORMATS
    },
    "NIfTI": Target(_in_file("s.nii", read_volume), _nifti),
    "NIfTI, in gzip": Target(_in_file("s.nii.gz", read_volume, _zipped), _nifti),
    "gzip of NIfTI": Target(
        _in_file("s.nii.gz", read_volume), lambda: [gzip.compress(data, mtime=0) for data in _nifti()]
    ),
    "DICOM": Target(read_series, lambda: [_slices()[1]]),
    "NRRD": Target(_in_file("s.nrrd", read_volume), lambda: _itk(".nrrd")),
    "MetaImage": Target(_in_file("s.mha", read_volume), lambda: _itk(".mha")),
}


def survives(target: Target, data: Any) -> bool:
    """Whether the input was taken; any exception but GenesisError goes through."""
    try:
        target.run(data)
    except GenesisError:
        return False
    return True


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something in nested dicts and lists."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*prefix, key)
        yield from paths(value[key], (*prefix, key))


def altered(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy with ``change`` of the dict or list at ``path`` but its last step, which is given to it."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        change(copy)
    else:
        copy[path[0]] = altered(value[path[0]], path[1:], change)
    return copy
