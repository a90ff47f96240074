"""What signals do before, between and after iterations."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from nnunet_genesis.training.signals import Interrupted, StopSignals


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


def test_before_the_first_iteration_a_signal_stops_at_once():
    with StopSignals(), pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGUSR1)


def test_other_threads_set_no_handlers():
    found = []

    def look() -> None:
        with StopSignals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
