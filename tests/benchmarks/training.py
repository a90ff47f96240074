"""Pretraining on this machine: number formats, what 50 steps consist of, and several processes."""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from nnunet_genesis.training.precision import MEMORY_FORMATS, choose_precision
from pretraining.options import RestorationOptions
from pretraining.trainer import nnUNetTrainerRestoration as Trainer
from tests.benchmarks.timing import quiet
from tests.benchmarks.world import BATCH, CONFIGURATION, DATASET, make_world

STEPS = 50
PARTS = {  # part of a step: what the names of its operators contain
    "convolutions, backward": ("convolution_backward",),
    "convolutions, forward": ("convolution",),
    "normalisation": ("batch_norm",),
    "copies between formats": ("copy_", "::cat", "contiguous"),
    "activations": ("relu", "sigmoid"),
    "optimiser, clipping": ("Optimizer", "foreach", "addcmul_", "addcdiv_", "lerp_", "linalg_vector_norm", "sqrt"),
}
EPOCHS, ITERATIONS = 4, 5


def main() -> None:
    """Print the tables."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        plans = make_world(Path(folder))
        print_formats(plans, device)
        print_parts(plans, device)
        if device.type == "cpu":
            print_processes(Path(folder))


def print_formats(plans: Path, device: torch.device) -> None:
    """Milliseconds a step in each format, in turns, as the machine's speed changes."""
    formats = [(number, memory) for number in ("fp32", "bf16") for memory in MEMORY_FORMATS[1:]]
    trainers = {choice: make_trainer(plans, device, *choice) for choice in formats}
    times: dict[tuple[str, str], list[float]] = {choice: [] for choice in formats}
    for turn in range(8):
        for choice, trainer in trainers.items():
            start = time.perf_counter()
            step(trainer)
            if turn:  # the first one warms up
                times[choice].append(1e3 * (time.perf_counter() - start))
    medians = {choice: statistics.median(values) for choice, values in times.items()}
    print(f"\n{'a step':<22} {'ms':>6} {'ratio':>6}   (chosen by itself: {choose_precision(device)} contiguous)")
    for choice, median in medians.items():
        print(f"{' '.join(choice):<22} {median:6.0f} {medians[formats[0]] / median:6.2f}")


def print_parts(plans: Path, device: torch.device) -> None:
    """Shares of 50 steps' time, waiting for batches included."""
    trainer = make_trainer(plans, device)
    step(trainer)
    waiting, start = 0.0, time.perf_counter()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiled:
        for _ in range(STEPS):
            before = time.perf_counter()
            batch = next(trainer.dataloader_train)
            waiting += time.perf_counter() - before
            trainer.train_step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    rest, shares = profiled.key_averages(), {"loader": waiting}
    kind = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    for part, names in PARTS.items():
        mine = [event for event in rest if any(name in event.key for name in names)]
        rest = [event for event in rest if event not in mine]
        shares[part] = sum(getattr(event, kind) for event in mine) / 1e6
    print(f"\n{STEPS} steps, {trainer.precision}, batch {BATCH}, patch {trainer.configuration_manager.patch_size}")
    for part, taken in {**shares, "other": seconds - sum(shares.values())}.items():
        print(f"{part:<24} {100 * taken / seconds:5.1f} %")


def print_processes(folder: Path) -> None:
    """Seconds an epoch of the command itself, by number of processes; one thread each."""
    print(f"\n{'processes':>9} {'s an epoch':>11} {'speed-up':>9}   ({os.cpu_count()} cores)")
    first = None
    for processes in (1, 2, 4):
        seconds = epoch_seconds(folder, processes)
        first = first or seconds
        print(f"{processes:9} {seconds:11.2f} {first / seconds:9.2f}", flush=True)


def epoch_seconds(folder: Path, processes: int) -> float:
    """Median over the epochs after the first of a run of ``processes`` processes."""
    results = folder / f"results{processes}"
    results.mkdir()
    options = f"-device cpu -num_gpus {processes} --epochs {EPOCHS} --iterations {ITERATIONS}"
    command = [sys.executable, "-m", "pretraining", DATASET, CONFIGURATION, *options.split()]
    one_thread = {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "0", "nnUNet_results": str(results)}
    subprocess.run(
        command, env=os.environ | one_thread, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = next(results.rglob("training_log_*.txt")).read_text()
    return statistics.median(map(float, re.findall(r"Epoch time: ([\d.]+)", log)[1:]))


def make_trainer(plans: Path, device: torch.device, precision: str = "auto", memory_format: str = "auto") -> Trainer:
    """A trainer that is about to start; its loader runs in this process."""
    dataset_json = json.loads((plans.parent / "dataset.json").read_text())
    os.environ["nnUNet_n_proc_DA"] = "0"
    with quiet():
        content = json.loads(plans.read_text()) | {"continue_training": False}
        trainer = Trainer(content, CONFIGURATION, 0, dataset_json, device)
        trainer.use(RestorationOptions(epochs=1, precision=precision, memory_format=memory_format))
        trainer.initialize()
        trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
        trainer.network.train()
    return trainer


def step(trainer: Trainer) -> None:
    """One step, to its end."""
    float(trainer.train_step(next(trainer.dataloader_train))["loss"])


if __name__ == "__main__":
    main()
