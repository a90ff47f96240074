"""Batches by number: the same for any number of loader processes, and for a run that was interrupted.

nnU-Net's workers share one torch random stream and depend on their number. Here batch number k has a random stream of
its own, keyed by (seed, stream, …, k), so that a resumed run goes on where it stopped without any stored random state.
"""

import contextlib
import copy
import random
import threading
from collections.abc import Callable, Iterator
from multiprocessing import util
from typing import Any, TypeAlias

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_genesis.training.signals import end_with_parent

TRAINING, VALIDATION = 0, 1  # second part of a loader's random key

Batches: TypeAlias = SingleThreadedAugmenter | MultiThreadedAugmenter


@contextlib.contextmanager
def keyed_random(*key: int) -> Iterator[None]:
    """Seed numpy, torch (CPU) and random from ``key`` within the block; restore their states after it."""
    seeds = np.random.SeedSequence(key).generate_state(3)
    states = np.random.get_state(), torch.get_rng_state(), random.getstate()
    np.random.seed(seeds[0])
    torch.random.default_generator.manual_seed(int(seeds[1]))
    random.seed(int(seeds[2]))
    try:
        yield
    finally:
        np.random.set_state(states[0])
        torch.set_rng_state(states[1])
        random.setstate(states[2])


def start(batch: Callable[[int], dict], first: int, workers: int, pin_memory: bool = False) -> Batches:
    """Make batches ``first``, ``first + 1``, … of ``batch``, in order, in ``workers`` processes (0: this process).

    ``pin_memory``: for a GPU; it opens a CUDA context.
    """
    numbered = _Numbered(batch, first, max(1, workers))
    if workers == 0:
        return SingleThreadedAugmenter(numbered, None)
    # The order-preserving augmenter: batches made from their number don't depend on the number of workers.
    return MultiThreadedAugmenter(
        numbered, None, workers, num_cached_per_queue=2, pin_memory=pin_memory, wait_time=0.002
    )


class _Numbered:
    """Makes one worker's batches, every ``workers``-th."""

    def __init__(self, batch: Callable[[int], dict], first: int, workers: int):
        self.batch, self.number, self.workers = batch, first, workers

    def set_thread_id(self, thread_id: int) -> None:
        """Prepare a forked worker. OpenMP's threads don't survive a fork: a parallel region would hang."""
        self.number += thread_id
        torch.set_num_threads(1)
        end_with_parent()

    def __next__(self) -> dict:
        self.number += self.workers
        return self.batch(self.number - self.workers)


class KeyedBatches:
    """Makes batches of one of nnU-Net's loaders by their number.

    Args:
        loader: nnU-Net's, with its transforms.
        key: the random key of batch k is ``(*key, k)``.
    """

    def __init__(self, loader: nnUNetDataLoader, *key: int):
        self.loader, self.key = loader, key
        self.transforms = copy.deepcopy(loader.transforms)
        disable_benchmarks(self.transforms)

    def batch(self, number: int) -> dict:
        """Make batch ``number``, whatever was made before."""
        self.loader.transforms = copy.deepcopy(self.transforms)  # some keep what they drew
        with keyed_random(*self.key, number):
            return self.loader.generate_train_batch()


def disable_benchmarks(transform: Any) -> None:
    """Let no transform choose by a stop-watch: the Gaussian blur takes FFT or convolution, whose roundings differ."""
    if hasattr(transform, "benchmark"):
        transform.benchmark = False
    for inner in [*getattr(transform, "transforms", []), *filter(None, [getattr(transform, "transform", None)])]:
        disable_benchmarks(inner)


def end_forked_with_parent(owner: object) -> None:
    """Let processes that are forked from now on, while ``owner`` lives, end with this one, however it ends.

    A killed run can't end its workers: nnU-Net's would poll their queues for ever.
    """
    util.register_after_fork(owner, lambda _: end_with_parent())


def finish(*loaders: Any) -> None:
    """End the loaders' processes."""
    for loader in loaders:
        if hasattr(loader, "_finish"):
            with _quiet(loader):
                loader._finish()


@contextlib.contextmanager
def _quiet(loader: Any) -> Iterator[None]:
    """Hide errors of the loader's thread within the block: a process that ends may take a batch with it."""
    names = ("pin_memory_thread", "results_loop_thread")  # of batchgenerators' two augmenters
    own, show = [getattr(loader, name) for name in names if hasattr(loader, name)], threading.excepthook

    def hook(error: threading.ExceptHookArgs) -> None:
        if error.thread not in own:
            show(error)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = show
