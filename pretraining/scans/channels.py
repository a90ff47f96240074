"""Which numbered files (``X_0000``, ``X_0001``, …) are channels of one case, and which are scans of their own."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json
from nnunet_genesis.folders import channel_names
from pretraining.scans.scan import File

NUMBERED = re.compile(r"(?P<name>.+)_(?P<number>\d{4})")
Group = dict[int, File]  # files of one name in one folder, by number
_MOST = 10  # so many channels has hardly a case; what has more is numbered by patients


def cases_of(groups: Mapping[tuple[str, str, str], Group], asked: int | bool | None) -> Iterator[Group]:
    """Yield each case's files by channel number. What has no number 0 is never a channel, as in nnU-Net.

    Unless that is asked for, numbers are channels where ``dataset.json`` in the folder or above it says that there are
    several, where several names have the same numbers, or where there are two; three or more of a single name are
    patients.

    Args:
        groups: by folder, name without number, and ending.
        asked: whether they are channels, or how many channels a case has; ``None``: what the folder says.
    """
    sets = {(name, tuple(sorted(group))) for (_, name, _), group in groups.items() if len(group) > 1 and 0 in group}
    planned = cache(_planned_channels)
    shared = max(Counter(numbers for _, numbers in sets).values(), default=0) > 1
    for (folder, _, _), group in groups.items():
        said = asked if asked is not None else planned(folder)
        told = said if isinstance(said, bool) else said > 1 if said else None
        guessed = len(group) == 2 or (shared and len(group) <= _MOST)
        if 0 in group and (len(group) == 1 or (guessed if told is None else told)):
            yield dict(sorted(group.items()))
        else:
            yield from ({0: path} for path in group.values())


def summary(groups: Mapping[tuple[str, str, str], Group], cases: list[Group], asked: int | bool | None) -> str:
    """Say what was taken for channels, and for scans although it is numbered like channels; "" if there is neither."""
    several = [case for case in cases if len(case) > 1]
    scans = sum(len(group) for group in groups.values() if len(group) > 1 and 0 in group) - sum(map(len, several))
    lines = []
    if several:
        lines.append(f"{sum(map(len, several))} files are channels of {len(several)} cases, as nnU-Net names them"
                     f"{' (if they are separate scans: --no_channels)' if asked is None else ''}")  # fmt: skip
    if scans:
        lines.append(f"{scans} files are numbered as channels are (_0000, …), and were taken for scans of their own"
                     f"{' (if they are channels: --channels)' if asked is None else ''}")  # fmt: skip
    return "\n".join(lines)


def _planned_channels(folder: str) -> int | None:
    """Read how many channels nnU-Net's or MSD's ``dataset.json`` names, in a folder of images or above it."""
    for place in (Path(folder), Path(folder).parent):
        try:
            return len(channel_names(read_json(place / "dataset.json")))
        except (GenesisError, OSError, AttributeError, TypeError, ValueError):
            continue
    return None
