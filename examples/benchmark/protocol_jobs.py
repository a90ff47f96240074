"""Jobs: commands that make one result each, skipped where it is there, several at a time, each with its log."""

import csv
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A command and how to tell that it is done.

    Attributes:
        name: for people, and of the log.
        command: program and arguments.
        done: whether its result is there.
        environment: variables besides the common ones.
        after: jobs whose results it needs.
        minutes: estimated.
        statuses: exit statuses that are success.
    """

    name: str
    command: Sequence[str]
    done: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: "Sequence[Job]" = ()
    minutes: float = 0.0
    statuses: Sequence[int] = (0,)


def run_jobs(jobs: Sequence[Job], out: Path, environment: Mapping[str, str], parallel: int = 1) -> list[str]:
    """Run what isn't done, ``parallel`` at a time, each after the jobs that it needs; returns the names of failed ones.

    A failure stops only what depends on it. Logs go to ``out/logs``, times to ``out/jobs.csv``.
    """
    pending = [job for job in jobs if not job.done()]
    running: dict[Future[bool], Job] = {}
    failed: list[str] = []
    with ThreadPoolExecutor(parallel) as pool:
        while True:
            ready = [job for job in pending if all(needed.done() for needed in job.after)]
            for job in ready[: parallel - len(running)]:
                pending.remove(job)
                running[pool.submit(_run, job, out, environment)] = job
            if not running:
                return failed + [f"{job.name} (not started: what it needs is missing)" for job in pending]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                failed += [] if future.result() else [f"{job.name} (see {_log(job, out)})"]


def _log(job: Job, out: Path) -> Path:
    return out / "logs" / f"{job.name.replace(', ', '_').replace(' ', '_')}.txt"


def _run(job: Job, out: Path, environment: Mapping[str, str]) -> bool:
    log, start = _log(job, out), time.time()
    log.parent.mkdir(parents=True, exist_ok=True)
    assignments = [f"{name}={shlex.quote(value)}" for name, value in job.environment.items()]
    print(f"start  {job.name}\n       $ {' '.join([*assignments, shlex.join(job.command)])}", flush=True)
    with log.open("a", encoding="utf-8") as file:
        status = subprocess.run(
            job.command, env={**environment, **job.environment}, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        ).returncode
    ok = status in job.statuses and job.done()
    seconds = time.time() - start
    print(f"{'done ' if ok else 'FAILED'}  {job.name}, {seconds / 60:.1f} min", flush=True)
    _note(out / "jobs.csv", [job.name, "done" if ok else f"failed ({status})", f"{start:.0f}", f"{seconds:.1f}"])
    return ok


def _note(file: Path, row: Sequence[str]) -> None:
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(([["job", "state", "started", "seconds"]] if new else []) + [list(row)])


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
