"""No path executes a foreign pickle: every reader of ours gets a payload in every format, and none of them runs.

What is trusted, and so not read here:

- ``*.pkl`` and ``*.npz`` beside the preprocessed cases in nnUNet_preprocessed. nnU-Net (or nnUNetv2_genesis_prepare)
  wrote them on this machine, and its data loader unpickles them; a preprocessed data set from a stranger is a program.
- Class names in the plans in nnUNet_preprocessed: nnU-Net imports what they name. Only ``plans["genesis"]`` is ours.
- Checkpoints given to nnU-Net's own nnUNetv2_predict and ``nnUNetv2_train -pretrained_weights``, which unpickle them
  without restriction. Ours don't: convert a stranger's checkpoint first (nnUNetv2_genesis_import).
"""

import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_genesis import checkpoint, importers
from nnunet_genesis.architectures.planning import plan_network
from nnunet_genesis.comparison.report import write_report
from nnunet_genesis.comparison.subsets import add_subsets, read_map
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.inspection import inspect_weights
from nnunet_genesis.sharing.stock_export import export_stock
from nnunet_genesis.trainer import nnUNetTrainerGenesis
from pretraining.run import pretrain
from pretraining.scans.find import find_scans
from pretraining.scans.reading import read_scan
from tests.faults.payloads import FORMATS, write_all
from tests.faults.small_world import DATASET, NAME, small_plans, write_small_world
from tests.nnunet_genesis.comparison.synthetic_results import SCRATCH, write_run
from tests.nnunet_genesis.networks import network, save

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "benchmark"))
import protocol_data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    write_small_world(nnunet_folders["nnUNet_preprocessed"])
    return nnunet_folders


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "ran"


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory, marker: Path) -> list[Path]:
    return write_all(tmp_path_factory.mktemp("strangers"), marker)


@pytest.fixture(autouse=True)
def nothing_ran(marker: Path) -> Iterator[None]:
    assert not marker.exists()
    yield
    assert not marker.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.model", "weights.npz", "weights.npy", "weights2.pkl"])
def test_a_careless_reader_would_have_run_it(tmp_path, name):
    (tmp_path / name).write_bytes(FORMATS[name](tmp_path / "here"))
    careless = {
        ".npz": lambda file: np.load(file, allow_pickle=True)["weights"],
        ".npy": lambda file: np.load(file, allow_pickle=True),
        ".pkl": lambda file: pickle.loads(file.read_bytes()),  # noqa: S301 - our own payload
    }
    careless.get(Path(name).suffix, lambda file: torch.load(file, weights_only=False))(tmp_path / name)
    assert (tmp_path / "here").is_dir()


def trainer(plans: dict | None = None) -> nnUNetTrainerGenesis:
    made = nnUNetTrainerGenesis(
        (plans or small_plans()) | {"continue_training": False}, "3d_fullres", 0, dict(DATASET), CPU
    )
    made.initialize()
    return made


def by_variable(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_genesis_weights", str(path))
        trainer().on_train_start()


def by_plans(path: Path) -> None:
    trainer({**small_plans(), "genesis": {"weights": str(path)}}).on_train_start()


def resumed_fine_tuning(path: Path) -> None:
    try:
        trainer().load_checkpoint(str(path))
    except KeyError as error:  # torch reads safetensors, and nnU-Net misses its weights in them
        assert path.suffix == ".safetensors"
        raise GenesisError(f"{path.name}: damaged") from error


def resumed_pretraining(path: Path) -> None:
    made = pretraining_folder()
    shutil.copy(path, made / "checkpoint_latest.pth")
    pretrain(NAME, "3d_fullres", fold="all", device=CPU, continue_training=True)


def pretraining_folder() -> Path:
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    made = Path(get_output_folder(NAME, "nnUNetTrainerRestoration", "nnUNetPlans", "3d_fullres", "all"))
    made.mkdir(parents=True, exist_ok=True)
    return made


def exported(path: Path) -> None:
    folder = path.parent.with_name("model") / "T__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(small_plans()))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    shutil.copy(path, folder / "fold_0" / "checkpoint_final.pth")
    export_stock(folder)


def planned(path: Path) -> None:
    plan_network(NAME, path)


def imported(format: str | None) -> Callable[[Path], None]:
    return lambda path: checkpoint.save(importers.convert(path, format).checkpoint, path.with_suffix(".new"))


def inspected(path: Path) -> None:
    inspect_weights(path, NAME, "3d_fullres", "nnUNetPlans")


READERS: dict[str, Callable[[Path], object]] = {
    "load": checkpoint.load,
    "load_weights": checkpoint.load_weights,
    "inspect": inspected,
    "inspect, no data set": lambda path: inspect_weights(path, None, "3d_fullres", "nnUNetPlans"),
    "plan --weights": planned,
    "export": exported,
    "fine-tuning": by_variable,
    "weights named in plans": by_plans,
    "fine-tuning --c": resumed_fine_tuning,
    "pretraining --c": resumed_pretraining,
    **{f"import --format {name}": imported(name) for name in (None, *importers.FORMATS)},
}


@pytest.mark.parametrize("reader", READERS)
def test_weights(world, payloads, reader):
    for path in payloads:
        with pytest.raises((GenesisError, SystemExit)) as error:
            READERS[reader](path)
        message = str(error.value)
        assert "Traceback" not in message
        assert path.name in message or "checkpoint_" in message, message  # names the file, or the copy of it
        assert any(advice in message for advice in ("refused", "damaged", "npack it", "Convert", "Give")), message
    print(f"survived: {len(payloads)} files with code in them, read by {reader}")


def test_fine_tuning_goes_on_from_its_own_checkpoint(world, tmp_path):
    """It holds numpy's numbers, which are no plain data."""
    first, second = trainer(), trainer()
    first.logger.log("train_losses", np.float32(0.25), 0)
    first._best_ema = np.float64(0.5)
    first.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    second.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert (second.current_epoch, second._best_ema) == (1, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True))


JSON_READERS: dict[str, Callable[[Path], object]] = {
    "summary.json": lambda file: report_with("fold_0/validation/summary.json", file),
    "genesis_nsd.json": lambda file: report_with("fold_0/validation/genesis_nsd.json", file),
    "debug.json": lambda file: report_with("fold_0/debug.json", file),
    "dataset.json": lambda file: report_with("dataset.json", file),
    "plans.json": lambda file: report_with("plans.json", file),
    "genesis_splits.json": read_map,
    "splits_final.json": lambda file: subsets_with("splits_final.json", file),
    "dataset.json of a data set": lambda file: subsets_with("dataset.json", file),
    "dataset.json of a protocol": lambda file: protocol_data.is_msd(copied(file, "dataset.json").parent),
    "plans of a data set": lambda file: inspect_weights(
        save(network(3), file.parent / "good.pth"), planned_as(file), "3d_fullres", "other"
    ),
}


def copied(file: Path, name: str) -> Path:
    target = file.parent.with_name("copy") / name
    target.parent.mkdir(exist_ok=True)
    return Path(shutil.copy(file, target))


def planned_as(file: Path) -> str:
    from nnunet_genesis.folders import nnunet_folder

    shutil.copy(file, nnunet_folder("nnUNet_preprocessed") / NAME / "other.json")
    return NAME


def report_with(name: str, file: Path) -> None:
    root = file.parent.with_name("results")
    shutil.rmtree(root, ignore_errors=True)
    model = write_run(root / NAME, SCRATCH, 0, {"a": (0.5, 0.6)}, (0.1,)).parent
    shutil.copy(file, model / name)
    write_report([], file.parent.with_name("report"), root)


def subsets_with(name: str, file: Path) -> None:
    folder = copied(file, name).parent
    add_subsets(folder, [1])
    (folder / name).unlink()


@pytest.mark.parametrize("reader", JSON_READERS)
def test_json(world, payloads, reader):
    for path in payloads:
        with pytest.raises((GenesisError, ValueError)) as error:
            JSON_READERS[reader](path)
        assert isinstance(error.value, GenesisError) or reader == "dataset.json of a protocol"
        assert "expected JSON, found something else" in str(error.value) or reader == "dataset.json of a protocol"
    print(f"survived: {len(payloads)} files with code in them in place of {reader}")


def test_scans(payloads, tmp_path):
    endings = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".dcm", "")
    for path in payloads:
        for ending in endings:
            shutil.copy(path, tmp_path / f"{path.name.replace('.', '_')}{ending}")
    scans, left_out = find_scans([tmp_path])
    for scan in scans:
        with pytest.raises(GenesisError):
            read_scan(scan)
    print(f"survived: {len(payloads) * len(endings)} files with code in them among scans, {len(left_out)} named")
