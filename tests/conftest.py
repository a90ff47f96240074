"""Where the real scans are (never committed; tests that need them skip with a reason), and a tiny world."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# nnU-Net reads these when it is imported.
os.environ["nnUNet_def_n_proc"] = "2"
os.environ["nnUNet_n_proc_DA"] = "0"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

from tests.integration.warm_processes import warm

DATA = Path(os.environ.get("GENESIS_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="module", autouse=True)
def warm_processes() -> Iterator[None]:
    """Forked processes in place of fresh ones; a module of tests of the processes themselves overrides it."""
    with warm():
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real scans (see the README, "Tests")."""
    if not DATA.is_dir():
        pytest.skip(f"no real scans at {DATA}: set GENESIS_TEST_DATA to a folder that holds them")
    return DATA


@pytest.fixture(scope="session")
def cases() -> Path:
    """Folder of inputs that were misread once, beside the real scans."""
    folder = DATA.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no odd inputs at {folder}")
    return folder


@pytest.fixture(scope="module")
def nnunet_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Empty nnUNet_raw, nnUNet_preprocessed and nnUNet_results of this module's own, set in the environment."""
    root = tmp_path_factory.mktemp("nn unet")  # with a space: users have them
    folders = {name: root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in folders.items():
            folder.mkdir()
            patch.setenv(name, str(folder))
        for name in [name for name in os.environ if name.startswith("nnUNet_genesis_")]:
            patch.delenv(name)
        draw_few_voxels(patch)
        yield folders


def draw_few_voxels(patch: pytest.MonkeyPatch) -> None:
    """For the statistics of intensities, of which nnU-Net draws 100 million, however small a data set is."""
    # here: it imports torch
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    run = DatasetFingerprintExtractor.run

    def run_on_few(extractor: DatasetFingerprintExtractor, *arguments: Any, **options: Any) -> dict[str, Any]:
        extractor.num_foreground_voxels_for_intensitystats = 1e5
        return run(extractor, *arguments, **options)

    patch.setattr(DatasetFingerprintExtractor, "run", run_on_few)


@pytest.fixture(scope="module")
def world(nnunet_folders: dict[str, Path]) -> dict[str, Path]:
    """These folders with data set 701: five small scans, prepared; fine-tuning segments their bodies."""
    from tests.integration.tiny_world import prepare_scans  # here: it imports torch

    prepare_scans(nnunet_folders["nnUNet_preprocessed"], nnunet_folders["nnUNet_results"].parent / "scans")
    return nnunet_folders
