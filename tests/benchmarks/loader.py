"""The loader on one core: patches a second by what they cost, and with worker processes that feed a consumer."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import blosc2
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from pretraining.dataloader import RestorationDataLoader
from pretraining.preparation.preprocess import preprocess
from pretraining.restoration import RestorationTransform
from pretraining.scans.scan import Scan
from tests.benchmarks.preparation import ct_dataset, ct_scans
from tests.benchmarks.timing import profiled, quiet, shares

PATCHES = ((128, 128, 128), (64, 64, 32))
WANTED = 40  # patches a second: 20 steps of nnU-Net's usual batch of 2
WORKERS = (1, 2)
STEPS = {
    "open": ("load_case",),
    "place": ("get_bbox",),
    "read": ("crop_and_pad_nd",),
    "corrupt": ("get_parameters", "apply"),
    "intensities": ("to_unit", "from_unit"),
    "stack": ("stack",),
}


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    print(f"\n{'patch, ms each':<14} {'a core':>8}  " + " ".join(f"{step:>11}" for step in [*STEPS, "other"]))
    with tempfile.TemporaryDirectory() as folder:
        scans = ct_scans(Path(folder), 4)
        loaders = {patch: ct_loader(scans, Path(folder), patch) for patch in PATCHES}
        for patch, loader in loaders.items():
            _print_parts(patch, loader)
        for patch, loader in loaders.items():
            _print_workers(patch, loader)


def ct_loader(scans: list[Scan], folder: Path, patch: tuple[int, ...]) -> RestorationDataLoader:
    """Batches of 2 patches of preprocessed scans, stored in chunks for such patches."""
    dataset = replace(ct_dataset(scans[:1], folder, patch), folder=folder / "x".join(map(str, patch)))
    cases = dataset.case_folders["3d_fullres"]
    cases.mkdir(parents=True)
    for scan in scans:
        preprocess(scan, dataset, "CT")
    properties = dataset.plans["foreground_intensity_properties_per_channel"]["0"]
    low, high = (
        (properties[key] - properties["mean"]) / properties["std"] for key in ("percentile_00_5", "percentile_99_5")
    )
    ranges = {scan.case: [[low, high]] for scan in scans}
    labels = LabelManager(dataset.dataset_json["labels"], None)
    return RestorationDataLoader(
        nnUNetDatasetBlosc2(str(cases)), 2, patch, labels, 1.0, ranges, RestorationTransform(), (0, 0)
    )


def _print_parts(patch: tuple[int, ...], loader: RestorationDataLoader) -> None:
    loader.batch(0)  # compiles
    batches = _batches(patch)
    start = time.perf_counter()
    for number in range(batches):
        loader.batch(number)
    each = (time.perf_counter() - start) / batches / loader.batch_size
    seconds, functions = profiled(lambda: [loader.batch(number) for number in range(batches)])
    parts = shares(seconds, functions, STEPS)
    cells = " ".join(f"{1e3 * each * part / seconds:11.2f}" for part in parts.values())
    print(f"{_name(patch):<14} {1e3 * each:8.2f}  {cells}")
    print(f"{'':<14} {1 / each:.0f} patches a second and core: {WANTED} take {WANTED * each:.2f} cores")


def _print_workers(patch: tuple[int, ...], loader: RestorationDataLoader) -> None:
    for workers in WORKERS:
        with _fed(loader, workers) as batches:
            for _ in range(4 * workers):  # the queues' first ones were made while nobody waited
                next(batches)
            count, start = _batches(patch), time.perf_counter()
            for _ in range(count):
                next(batches)
            rate = count * loader.batch_size / (time.perf_counter() - start)
        print(f"{_name(patch):<14} {workers} workers, {os.cpu_count()} cores: {rate:.0f} patches a second")


@contextmanager
def _fed(loader: RestorationDataLoader, workers: int) -> Iterator[Iterator[dict]]:
    augmenter = loader.start(0, workers)
    try:
        yield iter(augmenter)
    finally:
        with quiet():  # batchgenerators ends its workers while its thread may still be reading from one
            augmenter._finish()
            time.sleep(0.5)


def _batches(patch: tuple[int, ...]) -> int:
    return 40 if patch[0] > 100 else 300


def _name(patch: tuple[int, ...]) -> str:
    return "×".join(map(str, patch))


if __name__ == "__main__":
    blosc2.set_nthreads(1)
    main()
