"""Which image files are channels of one case: ``X_0000``, ``X_0001``, … or the volumes of a 4D file."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json
from nnunet_genesis.folders import channel_names
from pretraining.scans.image_files import data_files, ending_of
from pretraining.scans.scan import SAME_SPACING, File, Geometry, LeftOut, Scan, ScanError, digest, stamp

NUMBERED = re.compile(r"(?P<name>.+)_(?P<number>\d{4})")
Group = dict[int, File]  # files of one name in one folder, by number
Said = int | bool | None  # whether numbered files are channels, or how many a case has; None: nobody says
_MOST = 10  # so many channels has hardly a case; what has more is numbered by patients
_MOST_ANGLE, _SAME_ANGLE = 1.0, 0.01  # degrees between channels of one case


def cases_of(groups: Mapping[tuple[str, str, str], Group], said: Callable[[str], Said]) -> Iterator[Group]:
    """Yield each case's files by channel number. What has no number 0 is never a channel, as in nnU-Net.

    Unless that is asked for, numbers are channels where ``dataset.json`` in the folder or above it says that there are
    several, where several names have the same numbers, or where there are two; three or more of a single name are
    patients.

    Args:
        groups: by folder, name without number, and ending.
        said: gives what is said of a folder (:func:`channels_said`).
    """
    sets = {(name, tuple(sorted(group))) for (_, name, _), group in groups.items() if len(group) > 1 and 0 in group}
    shared = max(Counter(numbers for _, numbers in sets).values(), default=0) > 1
    for (folder, _, _), group in groups.items():
        count = said(folder)
        told = count if isinstance(count, bool) else count > 1 if count else None
        guessed = len(group) == 2 or (shared and len(group) <= _MOST)
        if 0 in group and (len(group) == 1 or (guessed if told is None else told)):
            yield dict(sorted(group.items()))
        else:
            yield from ({0: path} for path in group.values())


def summary(groups: Mapping[tuple[str, str, str], Group], cases: list[Group], asked: Said) -> str:
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


def channels_said(folder: str, asked: Said) -> Said:
    """Return what is ``asked``, else how many channels nnU-Net's or MSD's ``dataset.json``, here or above, names."""
    if asked is not None:
        return asked
    for place in (Path(folder), Path(folder).parent):
        try:
            return len(channel_names(read_json(place / "dataset.json")))
        except (GenesisError, OSError, AttributeError, TypeError, ValueError):
            continue
    return None


def image_scan(case: Group, contents: Mapping[str, object], said: Said) -> Scan:
    """Make the scan of a case's files; what each holds, by path, and what is said of channels are given.

    Raises:
        ScanError: a channel is missing or can't be read, they don't fit, or nothing says that 4D ones are channels.
    """
    numbers, files = list(case), list(case.values())
    names = " ... ".join(os.path.basename(file.path) for file in (files[0], files[-1]))
    if numbers != list(range(len(numbers))):
        missing = min(set(range(numbers[-1])) - set(numbers))
        raise ScanError(f"{names} are channels of one case by nnU-Net's naming, and channel {missing} is missing. "
                        "If they are separate scans: --no_channels")  # fmt: skip
    geometries = [_geometry(contents[file.path], file, len(files)) for file in files]
    first = geometries[0]
    if problem := next(filter(None, (_difference(first, g) for g in geometries)), None):
        raise ScanError(f"{names} are channels of one case by nnU-Net's naming, but differ in {problem}: "
                        "rename them if they are separate scans, or give --no_channels")  # fmt: skip
    corrections = dict.fromkeys(text for g in geometries for text in g.corrections)
    if (angle := max(_angle(first, g) for g in geometries)) > _SAME_ANGLE:
        corrections[f"its channels' directions differ by {angle:.2g} degrees: the first one's were taken"] = None
    paths = [(file.path,) for file in files]
    if max(g.volumes for g in geometries) > 1:
        paths *= _channels_of_4d(geometries, said)
    ending, name = ending_of(files[0].path) or "", os.path.basename(files[0].path)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name[: -len(ending)].removesuffix("_0000"))[:40]
    name = f"{stem}_{digest(files[0].name, 8)}"
    data = tuple(str(path) for file in files for path in data_files(Path(file.path)))
    return Scan(
        case=name, kind="image", channels=tuple(paths), source=files[0].source, group=name, modality=None,
        shape=first.shape, spacing=first.spacing_zyx, corrections=tuple(corrections), real=files[0].real,
        data=data, stamps=(*(file.stamp for file in files), *(stamp(os.stat(path)) for path in data)),
    )  # fmt: skip


def _channels_of_4d(geometries: Sequence[Geometry], said: Said) -> int:
    """Return how many channels a 4D file holds, if somebody says that they are channels."""
    count = geometries[0].volumes
    if len(geometries) == 1 and said == count and not isinstance(said, bool):
        return count
    known = f", where {said} are expected" if said and not isinstance(said, bool) else ""
    raise ScanError(
        f"4D: {max(g.volumes for g in geometries)} volumes in one file{known}. If they are channels of one case (not "
        f"times or directions), say so: --channels {count}, or a dataset.json that names them in its folder or above; "
        "else save each volume that you want as a file of its own"
    )


def _geometry(content: object, file: File, count: int) -> Geometry:
    if isinstance(content, LeftOut):
        raise ScanError(f"{os.path.basename(file.path)}: {content.reason}" if count > 1 else content.reason)
    assert isinstance(content, Geometry)
    return content


def _difference(a: Geometry, b: Geometry) -> str | None:
    if a.size != b.size:
        return f"shape: {a.shape} and {b.shape} (z, y, x)"
    if not np.allclose(a.spacing, b.spacing, rtol=SAME_SPACING):
        return f"spacing: {a.spacing_zyx} and {b.spacing_zyx} mm (z, y, x)"
    if _angle(a, b) > _MOST_ANGLE or not np.allclose(a.origin, b.origin, atol=max(a.spacing)):
        return "position or orientation"
    return None


def _angle(a: Geometry, b: Geometry) -> float:
    """Measure the largest angle between the same axes of two grids, degrees."""
    cosines = np.sum(np.reshape(a.direction, (3, 3)) * np.reshape(b.direction, (3, 3)), axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))
