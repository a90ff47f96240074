"""What asks a run to stop: a scheduler's signal, Ctrl-C, a terminal or pipe that nobody reads any more."""

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

RESUME_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same again with --c
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
CLOSED = getattr(signal, "SIGPIPE", 13)  # what a program is sent where nobody reads its output
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)  # of a pipe whose reader has ended, and of a closed terminal
_HANGUP = getattr(signal, "SIGHUP", None)  # a terminal that is closed sends it unasked, and nohup ignores it
_ONE = 1.0  # seconds: a terminal or SLURM and the launcher may each deliver the same request


class Interrupted(SystemExit):
    """Ends the process with :data:`RESUME_STATUS`, without a traceback."""

    def __init__(self) -> None:
        super().__init__(RESUME_STATUS)


def name_of(number: int) -> str:
    """Return a signal's name, or what has happened where it stands for a closed output."""
    return "Nobody reads the output any more" if number == CLOSED else signal.Signals(number).name


class StopSignals:
    """Within the block SIGTERM, SIGINT, SIGUSR1, SIGHUP and a closed stdout or stderr ask for a stop.

    Until :meth:`wait` they raise :class:`Interrupted` where the program is. After it they only set :attr:`received`,
    and another signal, more than a second later, ends the process at once. What nobody reads is written nowhere. After
    the block handlers and streams are as they were. Handlers that aren't Python's, an ignored SIGHUP (``nohup``), and
    in other threads than the main one, which alone may set handlers, all of them, stay as they are.

    Attributes:
        received: the signal's number, :data:`CLOSED` for a closed output; 0 as long as there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._waits, self._at, self._process = False, 0.0, os.getpid()
        self._within = contextlib.ExitStack()

    def wait(self) -> None:
        """From now on the program looks at :attr:`received` when it can stop."""
        self._waits = True

    def __enter__(self) -> "StopSignals":
        for stream, redirect in ((sys.stdout, contextlib.redirect_stdout), (sys.stderr, contextlib.redirect_stderr)):
            if stream is not None:
                output = _Output(getattr(stream, "watched", stream), self._note_closed)
                self._within.enter_context(redirect(output))
                self._within.callback(output.flush)
        self._within.enter_context(_handling(self._note))
        return self

    def __exit__(self, *_: Any) -> None:
        self._waits = True  # raises nothing from here on
        with contextlib.suppress(OSError):  # a full disk under the output
            self._within.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # forked from us: a loader's worker makes batches until its run has stopped
            if self.received:
                _end(number)
            self.received = number
        elif not self.received:
            self.received, self._at = number, time.monotonic()
            if self._waits:
                _say(f"{name_of(number)}: stopping after this iteration; send a signal again to end at once")
            else:
                self.stop_now(name_of(number))
        elif time.monotonic() - self._at > _ONE and number != _HANGUP:
            _end(number)

    def _note_closed(self) -> None:
        if not self.received:
            self._waits |= threading.current_thread() is not threading.main_thread()
            self._note(CLOSED, None)

    def stop_now(self, name: str) -> None:
        """Stop where the program is, before the first iteration.

        Raises:
            Interrupted: always.
        """
        _say(f"{name}: stopped before the next iteration. Nothing is lost: go on with the same command and --c")
        raise Interrupted


class StopValidation(StopSignals):
    """Within the block of nnU-Net's final validation a signal ends the process at once, with :data:`RESUME_STATUS`.

    An exception would wait for nnU-Net's pool for ever: the signal of a terminal or of a scheduler has ended its
    workers too, and one of them held the lock of their queue.
    """

    def stop_now(self, name: str) -> None:
        """End the process and its workers."""
        _say(
            f"{name}: stopped in the final validation. The training has ended, and checkpoint_final.pth is whole; the "
            "validation is to be done again as a whole: the same command with --val in place of --c"
        )
        # nnU-Net's pool starts new workers for those that the signal has ended; one that is cut off while it starts
        # would print a traceback. Those of before are known by now, those to come are silent.
        _write_nowhere(2)
        time.sleep(0.2)
        for worker in multiprocessing.active_children():
            worker.kill()
        with contextlib.suppress(RuntimeError):  # the signal came within a print
            sys.stdout.flush()
        os._exit(RESUME_STATUS)


class _Output:
    """A stream that tells once that nobody reads it any more, and from then on writes nowhere."""

    def __init__(self, watched: Any, closed: Callable[[], None]):
        self.watched, self.closed = watched, closed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watched, name)

    def write(self, text: str) -> int:
        """Write ``text``, and whole lines at once: a pipe's buffer would hide for hours that nobody reads it."""
        self._try(self.watched.write, text)
        if text.endswith("\n"):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Hand what was written to the reader."""
        self._try(self.watched.flush)

    def _try(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            call(*args)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            _write_nowhere(self.watched.fileno())
            self.closed()


def _write_nowhere(output: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)


@contextlib.contextmanager
def _handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let ``handle`` get the signals within the block, in the main thread; Python's handlers are restored after it."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if main}
    # None: a handler that isn't Python's couldn't be restored. An ignored SIGHUP: nohup is to be respected.
    ours = [n for n, handler in before.items() if handler is not None and (n, handler) != (_HANGUP, signal.SIG_IGN)]
    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def pass_signals_on(processes: Sequence[int]) -> contextlib.AbstractContextManager[None]:
    """Within the block, in the main thread, give what asks for a stop to these processes, and wait for them."""

    def give(number: int, frame: FrameType | None) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    return _handling(give)


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
    """Write to stderr of rank 0. A handler may interrupt a print, which can't be entered twice."""
    if os.environ.get("RANK", "0") == "0":
        try:
            os.write(2, f"{message}\n".encode())
        except OSError:  # nobody reads it, and nothing else may be written there
            _write_nowhere(2)
