"""Fetch a repository of the Hugging Face hub: only where the user types ``hf:ORG/NAME``, and nowhere else."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import sha256
from nnunet_genesis.importers.repository import CHECKPOINT, FILES, LARGEST

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def fetch(name: str) -> tuple[Path, str]:
    """Download what an import needs; the library keeps it in its cache, and goes on where it was cut off.

    What will be fetched, how large it is and from where is said first. Sizes, and the checkpoint's SHA-256 where the
    hub knows it, are compared with what has come.

    Args:
        name: ``hf:ORG/NAME``, or ``hf:ORG/NAME@REVISION``.

    Returns:
        The folder in the cache, and the name with the commit that was fetched.

    Raises:
        GenesisError: the library isn't installed, there is no such repository or no checkpoint in it, the connection
            failed, or something else came than the hub announced.
    """
    asked = _NAME.fullmatch(name)
    if not asked:
        raise GenesisError(f"{name}: expected hf:ORG/NAME or hf:ORG/NAME@REVISION. Correct the name.")
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError as error:
        raise GenesisError(
            f'{name}: needs huggingface_hub. Install it with pip install "nnunet-genesis[hub]", or download the '
            "repository yourself and give its folder."
        ) from error
    with _in_words(name):
        info = huggingface_hub.HfApi().model_info(asked["repo"], revision=asked["revision"], files_metadata=True)
    there = {entry.rfilename: entry for entry in info.siblings or ()}
    wanted = [file for file in FILES if file in there]
    if CHECKPOINT not in wanted:
        raise GenesisError(f"{name}: expected {CHECKPOINT}, found {', '.join(sorted(there)[:8]) or 'no file'}.")
    sizes = {file: int(there[file].size or 0) for file in wanted}
    if large := [file for file in wanted if file != CHECKPOINT and sizes[file] > LARGEST]:
        raise GenesisError(f"{name}: {large[0]} has {sizes[large[0]]:,} bytes, expected at most {LARGEST:,}.")
    files = ", ".join(f"{file} ({size:,} bytes)" for file, size in sizes.items())
    print(f"Fetching from {constants.ENDPOINT}/{asked['repo']}, commit {info.sha}: {files}")
    print(f"  {sum(sizes.values()) / 1e6:,.1f} MB in all, kept in {constants.HF_HUB_CACHE}")
    for file in wanted:
        with _in_words(name):
            path = Path(huggingface_hub.hf_hub_download(asked["repo"], file, revision=info.sha))
        _check(name, path, sizes[file], getattr(there[file].lfs, "sha256", None))
    return path.parent, f"{PREFIX}{asked['repo']}@{info.sha}"


def _check(name: str, file: Path, size: int, digest: str | None) -> None:
    found = file.stat().st_size
    if found != size or (digest and sha256(file) != digest):
        file.resolve().unlink()  # or the library would give it again
        wrong = f"{found:,} bytes, expected {size:,}" if found != size else f"another SHA-256 than {digest}"
        raise GenesisError(f"{name}: {file.name} has {wrong}, as announced. It was removed: run the command again.")


@contextlib.contextmanager
def _in_words(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library's own, its HTTP client's, and the system's
        why = " ".join(str(error).split())[:300]
        raise GenesisError(
            f"{name}: can't be fetched ({type(error).__name__}: {why}). Check the name and the connection, and run the "
            "command again: what has come is kept. Or download the repository yourself and give its folder."
        ) from error
