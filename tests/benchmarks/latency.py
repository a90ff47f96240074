"""What a slow file system costs 4 processes over gloo: each read of a case waits; without and with a loader."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from pretraining.run import pretrain
from tests.benchmarks.timing import quiet
from tests.integration.tiny_world import prepare_scans

PROCESSES, LATENCIES, WORKERS = 4, (0, 100), (0, 1)  # latencies in ms
CPU, TRAINER = torch.device("cpu"), "nnUNetTrainerSlowDisk"
SIZES: dict[str, Any] = {"epochs": 2, "iterations": 15, "batch_size": 8, "precision": "fp32"}


def main() -> None:
    """Print the table: seconds a step in the second epoch."""
    os.environ["nnUNet_extTrainer"] = str(Path(__file__).parent / "slow_disk")
    with tempfile.TemporaryDirectory() as name:
        world = Path(name)
        for folder in ("nnUNet_preprocessed", "nnUNet_results"):
            (world / folder).mkdir()
            os.environ[folder] = str(world / folder)
        with quiet():
            prepare_scans(world / "nnUNet_preprocessed", world / "scans")
        rows = {latency: [_step(world, latency, workers) for workers in WORKERS] for latency in LATENCIES}
    print(f"\n{'ms a read':>10}", *(f"{f'{workers} workers':>11}" for workers in WORKERS))  # after what the ranks print
    for latency, row in rows.items():
        print(f"{latency:10}", *(f"{seconds:11.3f}" for seconds in row))


def _step(world: Path, latency: int, workers: int) -> float:
    os.environ["nnUNet_results"] = str(world / f"results_{latency}_{workers}")
    os.environ.update(GENESIS_BENCH_LATENCY=str(latency), nnUNet_n_proc_DA=str(workers))
    with quiet():
        trained = pretrain("701", "3d_fullres", device=CPU, num_gpus=PROCESSES, trainer=TRAINER, **SIZES)
    log = torch.load(trained, weights_only=True)["logging"]
    return (log["epoch_end_timestamps"][-1] - log["epoch_start_timestamps"][-1]) / SIZES["iterations"]


if __name__ == "__main__":
    main()
