"""Work on scans that ends its own process, as the kernel does when memory runs out."""

import os
import signal
import time
from pathlib import Path

from pretraining.scans.scan import Scan


def die(scan: Scan, folder: Path) -> str:
    """Work that is killed for a scan of case ``twice`` always, of ``once`` the first time; else says it worked."""
    with (folder / scan.case).open("a") as file:
        file.write("tried\n")
    tries = len((folder / scan.case).read_text().splitlines())
    if scan.case == "twice" or (scan.case.startswith("once") and tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return f"worked on {scan.case}"


def wait_to_be_killed(scan: Scan, folder: Path) -> str:
    """Work that the first time tells its process' id and waits."""
    file = folder / scan.case
    if not file.exists():
        file.with_suffix(".new").write_text(str(os.getpid()))
        file.with_suffix(".new").replace(file)
        time.sleep(600)
    return "worked"


def fill_disk(scan: Scan) -> str:
    """Work that finds no space."""
    raise OSError(28, "No space left on device")
