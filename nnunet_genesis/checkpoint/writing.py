"""Checkpoints written so that a whole one is always there, and found again."""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from nnunet_genesis.checkpoint import safetensors_format
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path, disk_in_words, flush

FINAL, BEST, LATEST, PREVIOUS = (f"checkpoint_{kind}.pth" for kind in ("final", "best", "latest", "previous"))
GO_ON = "go on with the same command and --c. Earlier checkpoints are intact."


def save(checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write ``checkpoint`` to ``path`` atomically; ``*.safetensors``: weights and record only, each tensor once.

    Raises:
        GenesisError: the content is no plain data.
    """
    with atomic_path(path) as temporary:
        if os.fspath(path).endswith(safetensors_format.SUFFIX):
            safetensors_format.write(checkpoint, temporary)
        else:
            try:
                torch.save(checkpoint, temporary)
            except RecursionError as error:
                raise GenesisError(f"{path}: not written: its content is nested too deep for a checkpoint.") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield a temporary path; once the checkpoint there is on the disk and was read back, it takes ``path``'s place.

    A ``checkpoint_latest.pth`` that stood there becomes ``checkpoint_previous.pth``. At any moment a whole one of the
    two is on the disk.

    Raises:
        GenesisError: it can't be written; what stood there is as it was.
    """
    path = Path(path)
    with disk_in_words(path, GO_ON), atomic_path(path) as temporary:
        yield temporary
        flush(temporary, forget=True)
        if problem := damage(temporary):
            raise GenesisError(
                f"{path}: not written: what was read back is not what was written ({problem}). What stood there is "
                f"intact. Check the disk, then {GO_ON}"
            )
        if path.name == LATEST and path.is_file() and not damage(path):
            _keep(path)


def _keep(latest: Path) -> None:
    previous, link = latest.with_name(PREVIOUS), latest.with_name(f"{PREVIOUS}.tmp{os.getpid()}")
    try:
        os.link(latest, link)
        os.replace(link, previous)
    except OSError:  # a file system without links
        os.replace(latest, previous)


def damage(path: str | os.PathLike[str]) -> str | None:
    """Say what is wrong with a checkpoint: read it to its end, and compare sums; nothing in it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        return f"truncated or damaged: {error}"
    return f"damaged: {broken}" if broken else None


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """Find the checkpoint to go on from; one that is damaged is passed over with a warning.

    Raises:
        GenesisError: there are checkpoints, and all of them are damaged.
    """
    final, latest = ([folder / name for name in names if (folder / name).is_file()] for names in (
        (FINAL,), (LATEST, PREVIOUS)))  # fmt: skip
    # A run that was extended has both kinds: the later one counts.
    extended = final and latest and latest[0].stat().st_mtime > final[0].stat().st_mtime
    files = latest + final if extended else final + latest
    for number, file in enumerate(files):
        problem = damage(file)
        if problem is None:
            return file
        others = files[number + 1 :]
        if not others:
            best = folder / BEST
            whole = f"{BEST}, which is whole," if best.is_file() and not damage(best) else "a whole one"
            raise GenesisError(
                f"{file}: {problem}. Expected a whole {FINAL}, {LATEST} or {PREVIOUS} to go on from, found none. Copy "
                f"{whole} to {LATEST} to go on from its epoch, or move the folder away to start anew."
            )
        warn(f"WARNING: {file}: {problem}. Trying {others[0].name}: what was trained in between is done again.")
    return None


def set_aside(folder: Path) -> list[Path]:
    """Keep an earlier run's checkpoints from being taken for a new run's; returns their new names."""
    (folder / PREVIOUS).unlink(missing_ok=True)
    files = [folder / name for name in (FINAL, LATEST, BEST) if (folder / name).is_file()]
    return [file.replace(file.with_name(file.name.replace("_", "_earlier_"))) for file in files]
