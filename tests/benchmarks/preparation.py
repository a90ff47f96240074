"""Preparation on one core: nnU-Net's own resampling (--exact) against ours, and what is left; cost by number of scans.

Takes real CTs from GENESIS_TEST_DATA or ../shared/data, synthetic ones where there are none. Everything runs in
``Worker``'s spawned process, as in nnUNetv2_genesis_prepare.
"""

import os
import re
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from pretraining.preparation.fingerprint import analyse, fingerprint, samples_per_scan
from pretraining.preparation.planning import PreparedDataset
from pretraining.preparation.pool import start_worker
from pretraining.preparation.preprocess import preprocess
from pretraining.scans.find import find_scans
from pretraining.scans.scan import Scan
from tests.benchmarks.timing import profiled, quiet, shares
from tests.conftest import DATA
from tests.pretraining.preparation.synthetic_scans import write_scan

SPACING, PATCH = (2.0, 1.5, 1.5), (64, 192, 192)  # what nnU-Net plans for the CTs of the README's example
MOST_SCANS = 8
COUNTS = (10, 100, 1000)
STEPS = {  # name in the table: functions of the profile
    "reading": ("read_images",),
    "body": ("read_seg",),
    "crop": ("crop_to_nonzero",),
    "resample": ("resample", "resample_data_or_seg_to_shape"),
    "locations": ("_sample_foreground_locations",),
    "saving": ("save_case",),
}


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        scans = ct_scans(Path(folder))
        with _process() as worker:
            rows = worker.submit(measure, scans, Path(folder)).result()
        _print_scans(rows)
        _print_memory(max(scans, key=lambda scan: np.prod(scan.shape)), Path(folder))
        _print_counts(Path(folder))


def measure(scans: list[Scan], folder: Path) -> list[tuple[Scan, float, float, dict[str, float]]]:
    """Per scan: seconds by nnU-Net's resampling and by ours, and ours step by step."""
    tiny = find_scans([write_scan(folder / "tiny.nii.gz", spacing=2.4)])[0][0]
    dataset = ct_dataset([tiny], folder)
    _seconds(tiny, dataset, False)  # imports
    rows = []
    for scan in scans:
        theirs, _ = _seconds(scan, dataset, True)
        ours, steps = _seconds(scan, dataset, False)
        rows.append((scan, theirs, ours, steps))
    return rows


def peak(scan: Scan, folder: Path, exact: bool) -> float:
    """Peak memory of preprocessing one scan beyond what the process holds before it, in bytes; on Linux."""
    tiny = find_scans([write_scan(folder / "tiny.nii.gz", spacing=2.4)])[0][0]
    dataset = ct_dataset([tiny], folder)
    _seconds(tiny, dataset, exact)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far; getrusage's is the parent's where that is higher
    before = _memory("VmRSS")
    _seconds(scan, dataset, exact)
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    return 1024 * float(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def _seconds(scan: Scan, dataset: PreparedDataset, exact: bool) -> tuple[float, dict[str, float]]:
    (dataset.folder / "nnUNetPlans_3d_fullres").mkdir(parents=True)
    seconds, functions = profiled(preprocess, scan, dataset, "CT", exact)
    shutil.rmtree(dataset.folder)
    return seconds, shares(seconds, functions, STEPS)


def ct_dataset(scans: list[Scan], folder: Path, patch: tuple[int, ...] = PATCH) -> PreparedDataset:
    """A data set below ``folder`` with the part of nnU-Net's plans that preprocessing reads; default resampling."""
    (folder / "cache").mkdir(exist_ok=True)
    found = fingerprint([analyse(scan, "CT", samples_per_scan(1), folder / "cache") for scan in scans], (-1000, 1000))
    kwargs = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "architecture": {},
        "spacing": list(SPACING), "patch_size": list(patch), "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False], "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **kwargs},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **kwargs},
    }  # fmt: skip
    plans = {
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": found["foreground_intensity_properties_per_channel"],
        "configurations": {"3d_fullres": configuration},
    }  # fmt: skip
    labels = {"background": 0, "body": 1}
    dataset_json = {"channel_names": {"0": "CT"}, "labels": labels, "genesis": {"modality": "CT"}}
    return PreparedDataset(folder / "preprocessed", plans, dataset_json, {}, ("3d_fullres",))


def ct_scans(folder: Path, most: int = MOST_SCANS) -> list[Scan]:
    roots = [root for root in (DATA / "ct_unlabeled", DATA / "Dataset003_Liver" / "imagesTr") if root.is_dir()]
    if not roots:
        print(f"No real scans at {DATA} (GENESIS_TEST_DATA): synthetic ones, small and smooth")
        roots = [write_scan(folder / f"{seed}.nii.gz", seed, 2.4 + seed / 4) for seed in range(4)]
    scans = sorted(find_scans(roots)[0], key=lambda scan: np.prod(scan.shape))
    chosen = np.linspace(0, len(scans) - 1, min(most, len(scans))).round().astype(int)
    return [scans[k] for k in chosen]


def _print_scans(rows: list[tuple[Scan, float, float, dict[str, float]]]) -> None:
    print(
        f"{'s a scan':<26} {'--exact':>8} {'ours':>6} {'ratio':>6}  " + " ".join(f"{s:>9}" for s in [*STEPS, "other"])
    )
    for scan, theirs, ours, steps in rows:
        shares = " ".join(f"{seconds:9.2f}" for seconds in steps.values())
        print(f"{'×'.join(map(str, scan.shape)):<26} {theirs:8.2f} {ours:6.2f} {theirs / ours:6.1f}  {shares}")
    theirs, ours = (statistics.median(row[k] for row in rows) for k in (1, 2))
    print(f"{'median':<26} {theirs:8.2f} {ours:6.2f} {statistics.median(row[1] / row[2] for row in rows):6.1f}")
    total, ours_total = sum(row[1] for row in rows), sum(row[2] for row in rows)
    rate, ours_rate = (60 * len(rows) / seconds for seconds in (total, ours_total))
    print(f"{'scans a minute':<26} {rate:8.1f} {ours_rate:6.1f} {total / ours_total:6.1f}")


def _print_memory(scan: Scan, folder: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        return
    size = 4 * np.prod(scan.shape)
    for exact in (True, False):
        with _process() as worker:  # a fresh one: the kernel keeps a process's peak
            more = worker.submit(peak, scan, folder, exact).result()
        name = "--exact" if exact else "ours"
        print(f"peak memory, {name}: {more / 1e6:.0f} MB, {more / size:.1f} times the largest scan as float32")


def _print_counts(folder: Path) -> None:
    print(f"\n{'scans':>6} {'s in all':>9} {'ms a scan':>10}")
    scan, before = write_scan(folder / "small" / "0.nii.gz", spacing=2.4), None
    for count in COUNTS:
        with _process() as worker:
            seconds = worker.submit(prepare_copies, scan, folder / str(count), count).result()
        more = f"{1e3 * (seconds - before[1]) / (count - before[0]):10.1f} each further one" if before else ""
        print(f"{count:6} {seconds:9.1f} {1e3 * seconds / count:10.1f} {more}", flush=True)
        before = (count, seconds)


def prepare_copies(scan: Path, folder: Path, count: int) -> float:
    """Seconds to prepare ``count`` copies of one scan, from finding them to the manifest, in a new data set."""
    raw = scan.read_bytes()
    (folder / "scans").mkdir(parents=True)
    for number in range(count):  # equal files would count once: each has a time of its own in its gzip header
        (folder / "scans" / f"{number}.nii.gz").write_bytes(raw[:4] + number.to_bytes(4, "little") + raw[8:])
    for name in ("preprocessed", "results"):  # nnU-Net looks for data sets of the same id in both
        (folder / name).mkdir()
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ.pop("nnUNet_raw", None)
    from pretraining.preparation.options import PrepareOptions
    from pretraining.preparation.pipeline import prepare_dataset

    start = time.perf_counter()
    with quiet():
        prepare_dataset(PrepareOptions((folder / "scans",), 701, "Copies", processes=1, hu_window=(-1000, 1000)))
    return time.perf_counter() - start


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), start_worker)


if __name__ == "__main__":
    main()
