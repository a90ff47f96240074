"""Work on many scans in spawned processes, with a progress bar; one bad scan never stops the others."""

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

import SimpleITK
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nnunet_genesis.files import not_writable
from nnunet_genesis.training.signals import end_with_parent
from pretraining.scans.scan import LeftOut, Scan

Item = TypeVar("Item")
Result = TypeVar("Result")

_PEAK = 5  # times a scan as float32: 3.8 were measured (README, "How fast"), more where it is made finer
_PROCESS = 0.5  # GB, without a scan


def for_each_scan(
    work: Callable[[Scan], Result], scans: Sequence[Scan], processes: int, title: str
) -> Iterator[tuple[Scan, Result | LeftOut]]:
    """Call ``work`` on every scan; yield each scan with its result or the reason why there is none, as they finish.

    A scan whose process is killed, most likely because memory ran out, is tried again alone when all others are done.

    Raises:
        OSError: the disk is full.
    """
    killed: list[Scan] = []
    with tqdm(total=len(scans), desc=title, unit="scan", disable=not scans) as progress:
        for some, count in ((scans, processes), (killed, 1)):
            for scan, result in in_processes(partial(attempt, work), some, count):
                if isinstance(result, BrokenProcessPool):
                    if some is not killed:
                        killed.append(scan)
                        tqdm.write(f"{scan.source}: its process was killed. It is tried again, alone, when the others "
                                   "are done.")  # fmt: skip
                        continue
                    reason = f"its process was killed twice, the second time alone. Most likely {_needs_more(scan)}"
                    more = ". If there is enough, a library crashes on this scan: convert it to another format"
                    result = LeftOut(scan.source, reason + more)
                progress.update()
                yield scan, result


def _needs_more(scan: Scan) -> str:
    needed = _PROCESS + _PEAK * 4 * math.prod(scan.shape) * len(scan.channels) / 1e9
    return (
        f"memory ran out: it needs about {needed:.1f} GB. Free some memory, or use a larger machine, and run the same "
        "command again"
    )


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[tuple[Item, Result | BrokenProcessPool]]:
    """Call ``work`` on every item, once; yield each with its result as they finish, or that its process was killed.

    A pool of one process each, so that it is known which item that one had.
    """
    waiting = list(reversed(items))
    running: dict[Future, tuple[Item, ProcessPoolExecutor]] = {}

    def start(pool: ProcessPoolExecutor) -> None:
        if not waiting:
            pool.shutdown()  # at once: it has nothing to do; at exit the standard library may trip over one that ends
            return
        item = waiting.pop()
        try:
            running[pool.submit(work, item)] = item, pool
        except BrokenProcessPool:  # killed while it had nothing to do
            pool = _pool()
            running[pool.submit(work, item)] = item, pool

    try:
        for _ in range(min(processes, len(items))):
            start(_pool())
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                item, pool = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    result = error
                start(pool)
                yield item, result
    finally:
        for _, pool in running.values():
            pool.shutdown(cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_worker)


def start_worker() -> None:
    """Prepare a worker process: one thread, and an end when its parent is killed."""
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    threadpool_limits(limits=1)
    os.environ["BLOSC_NTHREADS"] = "1"  # nnU-Net asks for 4, which write an array's blocks in any order
    end_with_parent()


def attempt(work: Callable[[Scan], Result], scan: Scan) -> Result | LeftOut:
    """Call ``work`` on a scan; one that can't be digested must not lose the others."""
    try:
        return work(scan)
    except MemoryError:
        return LeftOut(scan.source, _needs_more(scan))
    except Exception as error:
        if not_writable(error):
            raise
        return LeftOut.because(scan.source, error)
