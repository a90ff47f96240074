"""One preparation of a data set at a time, or parts of one; the kernel lets go of a dead process' lock."""

import contextlib
import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nnunet_genesis.errors import GenesisError

CACHE = "genesis_cache"  # folder of what an interrupted run leaves and the next one goes on from
LOCK = "genesis.lock"


@contextlib.contextmanager
def locked(base: Path, part_id: int | None, num_parts: int) -> Iterator[None]:
    """Hold the lock of a data set, whose folder exists; parts share it, and each holds one of its own besides.

    Raises:
        GenesisError: another process prepares the data set, or this part of it.
    """
    part = part_id is not None
    with contextlib.ExitStack() as stack:
        own = stack.enter_context((base / LOCK).open("a+"))
        if not _lock(own, shared=part):
            raise _taken(base, _held_parts(base) or [base / LOCK])
        if part:
            file = base / CACHE / f"part_{part_id}_of_{num_parts}.lock"
            file.parent.mkdir(exist_ok=True)
            own = stack.enter_context(file.open("a+"))
            if not _lock(own):
                raise _taken(base, [file])
        own.truncate(0)
        own.write(f"process {os.getpid()} on {platform.node()}")
        own.flush()
        yield


@contextlib.contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """Hold a lock within the block; wait for it while another call does."""
    with file.open("a+") as stream:
        if not _lock(stream):
            print("Waiting for another part, which reads the headers of all files")
            while not _lock(stream):
                time.sleep(0.2)
        yield


def refuse_while_prepared(base: Path) -> None:
    """Refuse a data set of which some scans aren't there yet; on Windows, which has no shared locks, it can't tell.

    Raises:
        GenesisError: another process prepares it.
    """
    if not (base / LOCK).is_file():
        return
    with (base / LOCK).open() as stream:
        free = _lock(stream, shared=True)
    if held := _held_parts(base) or ([] if free else [base / LOCK]):
        raise _taken(base, held)


def _held_parts(base: Path) -> list[Path]:
    held = []
    for file in sorted((base / CACHE).glob("part_*.lock")):
        with file.open() as stream:
            if not _lock(stream, shared=True):
                held.append(file)
    return held


def _taken(base: Path, files: list[Path]) -> GenesisError:
    holders = ", ".join(f"{file.read_text() or 'another process'} (lock file {file})" for file in files)
    return GenesisError(
        f"{base}: is being prepared already, by {holders}. Wait until that has ended, or end it: its lock ends with "
        "it, and there is no file to remove."
    )


def _lock(stream: IO[str], shared: bool = False) -> bool:
    """Lock an open file without waiting; return whether that was possible."""
    if sys.platform == "win32":
        import msvcrt

        if shared:
            return True  # there are none: a part doesn't keep the whole out
        stream.seek(1 << 30)  # what is locked can't be read by others, so not the text
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        stream.seek(0)
        return True
    import fcntl

    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        # Some clusters mount their file systems so; a call by itself is then as good as ever.
        print(f"{stream.name}: this file system has no locks. See to it that no other call prepares this data set.")
    return True
