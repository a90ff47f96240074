"""Processes that are forked from one that has imported nnU-Net, where nnU-Net and this package ask for fresh ones.

A fresh one takes 8 seconds of a core to import torch and nnU-Net, and most tests start several. These differ in nothing
else: they inherit no state of the process that starts them, and have its environment.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

MODULES = [
    "nnunetv2.experiment_planning.plan_and_preprocess_api",
    "nnunetv2.run.run_training",
    "pretraining.__main__",
    "pretraining.preparation.pipeline",
    "pretraining.run",
    "tests.integration.preloaded",
]

if sys.platform != "win32":
    from multiprocessing import forkserver
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    class WarmProcess(ForkServerProcess):
        """Carries the environment along: the process that it is forked from has the one of its own start."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.environment = dict(os.environ)

        def run(self) -> None:
            os.environ.clear()
            os.environ.update(self.environment)
            super().run()

    class WarmContext(ForkServerContext):
        """What ``multiprocessing.get_context("spawn")`` gives in the tests."""

        Process = WarmProcess

    def warm_context() -> WarmContext:
        context = WarmContext()
        context.set_forkserver_preload(MODULES)
        return context

    def start_command(command: Callable[[], None], arguments: list[str], output: Path, **environment: str) -> Any:
        """Start what an installed script calls, in such a process; it leads a session, and prints to ``output``."""
        output.touch()
        process = warm_context().Process(target=_call, args=(command, arguments, output, environment))
        process.start()
        return process


def _call(command: Callable[[], None], arguments: list[str], output: Path, environment: dict[str, str]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a program of its own
    os.environ.update(environment)
    os.setsid()
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch  # here: tests that need none of it don't wait for it

    torch.set_num_threads(1)  # sums depend on it; OMP_NUM_THREADS was read when torch was imported
    sys.argv = [command.__name__, *arguments]
    command()


class Within:
    """A command in a folder; where it asks for fresh processes it gets warm ones, from the same server as itself."""

    def __init__(self, command: Callable[[], None], folder: str):
        self.command, self.folder, self.__name__ = command, folder, command.__name__
        warm_context()  # says what the server imports
        forkserver.ensure_running()
        self.server = forkserver._forkserver._forkserver_address

    def __call__(self) -> None:
        forkserver._forkserver._forkserver_address = self.server
        forkserver._forkserver.ensure_running = lambda: None
        multiprocessing.process.ORIGINAL_DIR = self.folder  # that of its processes
        os.chdir(self.folder)
        with warm():
            self.command()


@contextmanager
def warm() -> Iterator[None]:
    """Within it, ``spawn`` gives such processes; on other systems than Linux, where forking isn't safe, it doesn't."""
    if sys.platform != "linux":
        yield
        return
    context, get_context = warm_context(), multiprocessing.get_context

    def get_warm_context(method: str | None = None) -> BaseContext:
        return context if method == "spawn" else get_context(method)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", get_warm_context)
        yield
