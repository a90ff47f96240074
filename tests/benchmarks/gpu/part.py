"""A part of ``make gpu``: what it is told, and how it reports."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

UNAVAILABLE_STATUS = 3


class NotAvailable(Exception):  # noqa: N818 - not an error
    """This machine can't answer the part's question."""


@dataclass
class Part:
    """What a part works with.

    Attributes:
        name: its name in the table, ``MODULE`` or ``MODULE:ARGUMENT``.
        device: where to train.
        tiny: rehearse: small networks and patches, a few steps.
        folder: work folder of the whole call, with nnU-Net's folders in it.
        rows_file: JSON lines of all parts.
        seconds: time it may take.
    """

    name: str
    device: torch.device
    tiny: bool
    folder: Path
    rows_file: Path
    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def argument(self) -> str:
        """What follows the module in its name."""
        return self.name.partition(":")[2]

    @property
    def left(self) -> float:
        """Seconds until it is ended."""
        return self.seconds - (time.monotonic() - self.started)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def row(self, what: str, **cells: Any) -> None:
        """Add a line to the table: kept at once, whatever becomes of the part."""
        line = json.dumps({"part": self.name, "what": what, **cells})
        with self.rows_file.open("a") as file:
            file.write(f"{line}\n")

    def rows(self, module: str) -> list[dict[str, Any]]:
        """What another module's parts have reported."""
        return [row for row in read_rows(self.rows_file) if row["part"].partition(":")[0] == module]

    def wait(self) -> None:
        """Let the GPU finish."""
        if self.on_gpu:
            torch.cuda.synchronize()


def read_rows(file: Path) -> list[dict[str, Any]]:
    """All rows so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
