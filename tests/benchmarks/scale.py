"""What grows with the number of scans: seconds and memory from 1,000 to 100,000 links to one prepared MR crop.

Each count in a process of its own. MR, since its intensity ranges are kept by case; CT's are in the plans.
"""

import csv
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from pretraining.preparation import manifest
from pretraining.preparation.preprocess import ENDINGS
from tests.benchmarks.timing import median, quiet
from tests.benchmarks.world import CONFIGURATION, make_world

COUNTS = (1_000, 10_000, 100_000)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        plans = make_world(Path(name), 1)
        heads = ("manifest", "split", "start", "ms a batch", "peak MB", "kB a scan")
        print(f"{'scans':>8}", *(f"{head:>10}" for head in heads))
        before: tuple[int, float] | None = None
        for count in COUNTS:
            _link(plans.parent, count)
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                written, split, start, batch, peak = process.submit(measure, plans).result()
            more = f"{1e3 * (peak - before[1]) / (count - before[0]):10.2f}" if before else ""
            print(
                f"{count:8} {written:10.2f} {split:10.2f} {start:10.2f} {batch:10.1f} {peak:10.0f} {more}", flush=True
            )
            before = count, peak


def measure(plans_file: Path) -> tuple[float, float, float, float, float]:
    """Seconds for manifest, split and the trainer's start; milliseconds a batch; peak memory in MB."""
    from pretraining.options import RestorationOptions
    from pretraining.trainer import nnUNetTrainerRestoration

    torch.set_num_threads(1)
    os.environ["nnUNet_n_proc_DA"] = "0"
    folder, clock = plans_file.parent, time.perf_counter
    start = clock()
    rows = manifest.update(folder, (), ())
    written = clock() - start
    (folder / "splits_final.json").unlink()
    start = clock()
    manifest.write_split(folder, rows, 0.1)
    split = clock() - start
    start = clock()
    plans, dataset_json = (json.loads(file.read_text()) for file in (plans_file, folder / "dataset.json"))
    plans["continue_training"] = False
    with quiet():
        trainer = nnUNetTrainerRestoration(plans, CONFIGURATION, 0, dataset_json, torch.device("cpu"))
        trainer.use(RestorationOptions(epochs=1, iterations=1))
        trainer.initialize()
        trainer.get_dataloaders()
    begun = clock() - start
    numbers = iter(range(1000))
    batch = median(lambda: trainer.train_loader.batch(next(numbers)), 20)
    return written, split, begun, batch, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _link(folder: Path, count: int) -> None:
    """Fill the data set up to ``count`` cases: links, rows of the manifest, intensity ranges."""
    cases = folder / "nnUNetPlans_3d_fullres"
    first, *others = sorted(file.stem for file in cases.glob("*.pkl"))
    for number in range(len(others), count - 1):
        for ending in ENDINGS:
            os.symlink(cases / f"{first}{ending}", cases / f"case_{number:06}{ending}")
    names = [first, *(f"case_{number:06}" for number in range(count - 1))]
    rows = manifest.read(folder)[:1]
    with (folder / manifest.FILE_NAME).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, vars(rows[0]))
        writer.writeheader()
        writer.writerows({**vars(rows[0]), "source": f"{name}.nii.gz", "case": name, "group": name} for name in names)
    (file,) = folder.glob("genesis_intensity_ranges_*.json")
    known = next(iter(json.loads(file.read_text()).values()))
    file.write_text(json.dumps(dict.fromkeys(names, known)))


if __name__ == "__main__":
    main()
