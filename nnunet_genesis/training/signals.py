"""Signals that ask a run to stop: what a scheduler sends before it takes the machine, and Ctrl-C."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

RESUME_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same again with --c
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
_ONE = 1.0  # seconds: a terminal or SLURM and the launcher may each deliver the same request


class Interrupted(SystemExit):
    """Ends the process with :data:`RESUME_STATUS`, without a traceback."""

    def __init__(self) -> None:
        super().__init__(RESUME_STATUS)


class StopSignals:
    """Within the block SIGTERM, SIGINT and SIGUSR1 ask for a stop; the handlers before it are restored after it.

    Until :meth:`wait` they raise :class:`Interrupted` where the program is. After it they only set :attr:`received`,
    and another one, more than a second later, ends the process at once. Outside the main thread, which alone may set
    handlers, nothing is done.

    Attributes:
        received: the signal's number; 0 as long as there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._waits, self._at, self._process = False, 0.0, os.getpid()
        self._before: dict[int, Any] = {}

    def wait(self) -> None:
        """From now on the program looks at :attr:`received` when it can stop."""
        self._waits = True

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if os.getpid() != self._process:  # forked from us: a loader's worker makes batches until its run has stopped
            if self.received:
                _end(number)
            self.received = number
        elif not self.received:
            self.received, self._at = number, time.monotonic()
            if not self._waits:
                _say(f"{name}: stopped before the next iteration. Nothing is lost: go on with the same command and --c")
                raise Interrupted
            _say(f"{name}: stopping after this iteration, with a checkpoint; send it again to end at once")
        elif time.monotonic() - self._at > _ONE:
            _end(number)


@contextlib.contextmanager
def pass_signals_on(processes: Sequence[int]) -> Iterator[None]:
    """Within the block, in the main thread, give SIGTERM, SIGINT and SIGUSR1 to these processes and wait for them."""

    def give(number: int, frame: FrameType | None) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, give) for number in SIGNALS} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process when the one that started it does, however that ends: a killed run can't end its workers."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _end(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _say(message: str) -> None:
    """To stderr of rank 0. A handler may interrupt a print, which can't be entered twice."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{message}\n".encode())
