"""Work on many scans in spawned processes, with a progress bar; one bad scan never stops the others."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

import SimpleITK
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nnunet_genesis.errors import GenesisError
from pretraining.scans.scan import Scan, ScanError

Result = TypeVar("Result")


def for_each_scan(
    work: Callable[[Scan], Result], scans: Sequence[Scan], processes: int, title: str
) -> Iterator[tuple[Scan, Result | ScanError]]:
    """Call ``work`` on every scan; yield each scan with its result or the reason why there is none, as they finish.

    Raises:
        GenesisError: a worker process died.
    """
    if not scans:
        return
    executor = ProcessPoolExecutor(min(processes, len(scans)), get_context("spawn"), _one_thread)
    try:
        futures = {executor.submit(partial(_attempt, work), scan): scan for scan in scans}
        for future in tqdm(as_completed(futures), title, len(futures), unit="scan"):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise GenesisError(
            f"{title}: a worker process was killed, most likely because memory ran out. Run the same command again "
            f"with fewer processes (-np, now {processes}); finished scans are kept."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _one_thread() -> None:
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    threadpool_limits(limits=1)


def _attempt(work: Callable[[Scan], Result], scan: Scan) -> Result | ScanError:
    try:
        return work(scan)
    except ScanError as error:
        return error
    except Exception as error:  # one scan that nnU-Net itself can't digest must not lose the others
        return ScanError(f"preprocessing failed: {type(error).__name__}: {error}")
