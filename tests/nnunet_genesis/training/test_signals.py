"""What signals, and a closed output, do before, between and after iterations."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nnunet_genesis.training.signals import CLOSED, SIGNALS, Interrupted, StopSignals, end_with_parent


def test_a_second_signal_ends_at_once():
    process = multiprocessing.get_context("fork").Process(target=_wait_for_ever)
    process.start()
    time.sleep(1)
    os.kill(process.pid, signal.SIGTERM)
    process.join(1.5)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == -signal.SIGTERM


def _wait_for_ever() -> None:
    with StopSignals() as signals:
        signals.wait()
        while True:
            time.sleep(0.1)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP"])
def test_before_the_first_iteration_a_signal_stops_at_once(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # nohup's tests have it ignored
    with StopSignals(), pytest.raises(Interrupted):
        signal.raise_signal(number)
    signal.signal(number, before)


def test_nohup_is_respected(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
        assert not signals.received
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_is_not_pythons_stays(monkeypatch):
    """Python knows nothing of such a handler: it calls it ``None``, and can't restore it."""
    replace = signal.signal

    def replace_a_foreign_one(number: int, handler: Any) -> None:
        replace(number, handler)

    before = [replace(number, signal.getsignal(number)) for number in SIGNALS]
    monkeypatch.setattr(signal, "signal", replace_a_foreign_one)
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with StopSignals():
        pass
    monkeypatch.undo()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_other_threads_set_no_handlers():
    found = []

    def look() -> None:
        with StopSignals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


@pytest.fixture
def closed() -> Iterator[io.TextIOWrapper]:
    """A stream that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w", buffering=1)
    yield stream
    stream.close()  # raises where something is left to be written to nobody


def test_a_closed_output_asks_for_a_stop_and_is_written_to_no_more(closed, monkeypatch):
    monkeypatch.setattr(sys, "stdout", closed)
    with StopSignals() as signals:
        signals.wait()
        print("one")
        print("two")
    assert signals.received == CLOSED
    assert sys.stdout is closed
    print("three")


def test_before_the_first_iteration_a_closed_output_stops_at_once(closed, monkeypatch):
    monkeypatch.setattr(sys, "stderr", closed)
    with StopSignals(), pytest.raises(Interrupted):
        print("one", file=sys.stderr)


def test_what_is_left_in_the_buffer_of_a_closed_output_does_no_harm(closed, monkeypatch):
    monkeypatch.setattr(sys, "stdout", closed)
    with StopSignals() as signals:
        print("one", end="")
    assert signals.received == CLOSED


def test_an_outer_block_leaves_the_stop_to_the_inner_one(closed, monkeypatch):
    monkeypatch.setattr(sys, "stdout", closed)
    with StopSignals() as outer:
        with StopSignals() as inner:
            inner.wait()
            print("one")
        assert inner.received == CLOSED
        assert not outer.received


def test_a_worker_ends_with_its_parent():
    program = "import os, subprocess, sys; from tests.nnunet_genesis.training.test_signals import _parent; _parent()"
    parent = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{parent.stdout.strip()}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _parent() -> None:
    worker = multiprocessing.get_context("fork").Process(target=_work)
    worker.start()
    print(worker.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _work() -> None:
    os.close(1)
    end_with_parent()
    time.sleep(600)
