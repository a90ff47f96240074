"""What volumes the images of DICOM series form: by what their headers tell, and nothing else. Reads no file."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TypeVar

import numpy as np

from pretraining.scans.dicom_geometry import ORIENTATION_TOLERANCE, MissingSlicesError, order_slices
from pretraining.scans.dicom_headers import ALSO, SHOWN, SliceHeader
from pretraining.scans.scan import Geometry, ScanError

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Digest = Callable[[SliceHeader], str]  # gives the hash of an image's pixels; called for suspected copies only
_MOST_TAGS = 3  # that are tried together
_NEAR = 3  # decimals of a mm: images that agree in them lie at the same place
_FEW = 2  # scouts that don't say so
_KINDS = ("orientation", "matrix", "ImageType", "FrameType")


@dataclass
class Part:
    """Images of a series that are told from its others."""

    told: tuple[tuple[str, str], ...]  # the elements, with their values, that tell them apart; none of a whole series
    label: str  # the same as it may be shown
    headers: list[SliceHeader]
    least: int  # slices that make a volume

    @cached_property
    def judged(self) -> tuple[list[SliceHeader], Geometry] | str:
        """The slices in order with their grid, or why they are no volume."""
        try:
            ordered_and_grid = order_slices(self.headers)
        except ScanError as e:
            return str(e)
        few = len(self.headers) < self.least
        return f"{len(self.headers)} slices: too few to tell that they are a volume" if few else ordered_and_grid

    @property
    def is_volume(self) -> bool:
        """Whether they are one."""
        return not isinstance(self.judged, str)


@dataclass(frozen=True)
class Rest:
    """Images that are not used."""

    headers: list[SliceHeader]
    reason: str
    same_as: SliceHeader | None = None  # the image that has the same pixels as the first of them, if that is why
    expected: bool = False  # whether such images are usual company of a scan

    @classmethod
    def copy(cls, headers: list[SliceHeader], of: SliceHeader) -> "Rest":
        """Name images that are there twice."""
        other = "" if headers[0].patient == of.patient else " (under another PatientID)"
        return cls(headers, f"same pixels{other}", of, True)


def volumes_of(headers: Sequence[SliceHeader], digest: Digest) -> tuple[list[Part], list[Rest]]:
    """Find the volumes of a series, and what is left of it.

    Images at the same place with the same pixels, and the same in all that could tell them apart, count once. A series
    is divided by the fewest elements that make every part a volume. If images lie at the same place and elements tell
    them all apart, each part is judged alone; else one that can't be explained leaves out the series.
    """
    rests = [Rest(images, reason, expected=all(h.company for h in images))
             for reason, images in grouped(headers, lambda h: h.no_slice).items() if reason]  # fmt: skip
    slices = [header for header in headers if not header.no_slice]
    if not slices:
        return [], rests
    try:
        parts, copies = _parts(slices, digest)
    except ScanError as e:
        company = "".join(f"; {len(rest.headers)} of its files: {rest.reason}" for rest in rests)
        return [], [Rest(list(headers), f"{e}{company}")]
    rests += copies + [Rest(part.headers, f"{part.label}: {part.judged}") for part in parts if not part.is_volume]
    return [part for part in parts if part.is_volume], rests


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Group items by their key, in the order in which keys come first."""
    groups: dict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _place(header: SliceHeader) -> Hashable:
    """Say where an image lies and how it is turned; None if it isn't known."""
    if header.position is None:
        return None
    return *(round(x, _NEAR) for x in header.position), *(round(x, 2) for x in header.orientation or ())


def _parts(headers: list[SliceHeader], digest: Digest) -> tuple[list[Part], list[Rest]]:
    """Find the parts of a series, and the copies in it: of the same headers or, where that isn't enough, of any."""
    # In this order: black slices of two phases are no copies of each other.
    slices, copies = _without_copies(headers, digest)
    # Anonymisers have given many series the same identifier: whatever else may tell them apart.
    if len({h.patient for h in slices}) > 1:
        raise ScanError("slices of several patients under one series")
    if len(modalities := sorted({h.modality for h in slices})) > 1:
        raise ScanError(f"several modalities under one series: {', '.join(modalities)}")
    try:
        return _divided(slices), copies
    except ScanError:
        fewer, more = _without_copies(slices, digest, SHOWN)
        if not more:
            raise
        return _divided(fewer), copies + more


def _without_copies(
    headers: list[SliceHeader], digest: Digest, names: Sequence[str] | None = None
) -> tuple[list[SliceHeader], list[Rest]]:
    """Count images once that lie at the same place, with the same pixels and the same in these (None: all) elements."""

    def alike(h: SliceHeader) -> Hashable:
        told = tuple(pair for pair in h.told if names is None or pair[0] in names)
        return h.matrix, h.pixel_spacing, told, _place(h) or (h.path, h.frame)

    kept, copies = [], []
    for group in grouped(headers, alike).values():
        if len(group) == 1 or not all(h.complete and h.frames == 1 for h in group):
            kept += group
            continue
        group.sort(key=lambda h: h.patient != headers[0].patient)  # of a scan under two names, all of one
        for first, *others in grouped(group, digest).values():
            kept.append(first)
            copies += [Rest.copy([other], first) for other in others]
    return kept, copies


def _divided(headers: list[SliceHeader]) -> list[Part]:
    """Find the parts of a series that its headers tell apart; one if nothing need be told.

    Raises:
        ScanError: why the whole is no volume, if it can't be divided either.
    """
    gap = False
    try:
        order_slices(headers)
    except MissingSlicesError:
        gap = True
    except ScanError:
        pass
    coincide = _coincide(headers)
    labels = _labels(headers, coincide)
    divisions: dict[tuple[str, ...], list[Part]] = {}
    for tags in _choices(_telling(labels)):
        # Any two slices are a volume, if nothing else speaks for it.
        least = 2 if coincide or not tags else 3
        parts = divisions[tags] = _division(headers, labels, tags, least)
        if all(part.is_volume for part in parts) and (not gap or _nothing_lost(parts)):
            return parts
    if gap:
        order_slices(headers)  # what lies on both sides of it is a volume too, but not what was scanned
    for parts in divisions.values():
        if _explained(parts, coincide) and any(part.is_volume for part in parts):
            return parts
    order_slices(headers)
    return divisions[()]


def _nothing_lost(parts: list[Part]) -> bool:
    """Tell by InstanceNumber whether parts with a gap between them are what was scanned: none is missing."""

    def runs(headers: list[SliceHeader]) -> bool:
        numbers = sorted(h.number for h in headers if h.number is not None)
        return bool(numbers) and numbers == [numbers[0] + i for i in range(len(headers))]

    begin_alike = len({min(h.number or 0 for h in part.headers) for part in parts}) == 1
    together = [header for part in parts for header in part.headers]
    return all(runs(part.headers) for part in parts) and (begin_alike or runs(together))


def _telling(labels: dict[int, dict[str, str]]) -> list[str]:
    """Name the elements that differ, but not from slice to slice; of those that divide the series alike, the first."""
    names = dict.fromkeys((*SHOWN, *ALSO, *(name for known in labels.values() for name in known)))
    divisions: dict[tuple[int, ...], str] = {}
    for name in names:
        values = [known.get(name, "") for known in labels.values()]
        numbers = {value: i for i, value in enumerate(dict.fromkeys(values))}
        if 1 < len(numbers) < max(3, len(values)):
            divisions.setdefault(tuple(numbers[value] for value in values), name)
    return list(divisions.values())


def _choices(tags: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield first all that changes what is shown; then as few as possible."""
    yield tuple(name for name in tags if name in SHOWN)
    for count in range(min(_MOST_TAGS, len(tags)) + 1):
        yield from combinations(tags, count)


def _division(
    headers: list[SliceHeader], labels: dict[int, dict[str, str]], tags: tuple[str, ...], least: int
) -> list[Part]:
    groups = grouped(headers, lambda header: tuple(labels[id(header)].get(name, "") for name in tags))
    known = [sorted(set(values)) for values in zip(*groups, strict=True)]
    parts = []
    for values in sorted(groups):
        words = [f"{name} {value if _may_be_shown(value) else f'no. {all_values.index(value) + 1}'}"
                 for name, value, all_values in zip(tags, values, known, strict=True)]  # fmt: skip
        parts.append(Part(tuple(zip(tags, values, strict=True)), ", ".join(words), groups[values], least))
    return parts


def _may_be_shown(value: str) -> bool:
    """Tell whether it is a number, not the hash of a word: words may name a patient."""
    return bool(value) and set(value) <= set("0123456789.-+e x") and not (len(value) == 8 and value.isalnum())


def _labels(headers: list[SliceHeader], coincide: bool) -> dict[int, dict[str, str]]:
    """Collect what each header tells, its size and orientation (whose rounding differs between slices) too."""
    known: list[np.ndarray] = []
    labels = {}
    for header in headers:
        told = dict(header.told)
        told["matrix"] = " x ".join(map(str, header.matrix or ()))
        if coincide:  # else a scan whose parts were reconstructed differently would be taken for two
            told["pixel spacing"] = " ".join(f"{length:.5g}" for length in header.pixel_spacing or ())
        if header.orientation:
            axes = np.array(header.orientation)
            near = next((k for k in known if np.abs(k - axes).max() < ORIENTATION_TOLERANCE), None)
            known += [axes] if near is None else []
            told["orientation"] = " ".join(f"{x + 0:.3f}" for x in np.round(axes if near is None else near, 3))
        labels[id(header)] = told
    return labels


def _explained(parts: list[Part], coincide: bool) -> bool:
    """Tell whether those parts that are no volumes needn't speak against the others.

    That is so if images of the series lay at the same place, none does within a part, and the volumes are the longest
    parts; and of one or two images of another kind.
    """
    if not all(all(h.position and h.complete for h in part.headers) for part in parts):
        return False
    if coincide and not any(_coincide(part.headers) for part in parts):
        shortest = min((len(part.headers) for part in parts if part.is_volume), default=0)
        return all(part.is_volume or len(part.headers) <= shortest for part in parts)
    volumes = [dict(part.told) for part in parts if part.is_volume]
    return all(
        len(part.headers) <= _FEW
        and any(name in _KINDS and all(value != other[name] for other in volumes) for name, value in part.told)
        for part in parts
        if not part.is_volume
    )


def _coincide(headers: list[SliceHeader]) -> bool:
    return len({_place(h) for h in headers}) < len(headers)


def _spot(header: SliceHeader) -> Hashable:
    return _place(header), header.matrix, header.pixel_spacing, header.modality


def without_copies(volumes: Sequence[Part], digest: Digest) -> tuple[list[Part], list[Rest]]:
    """Count a volume once whose images all are in another one, pixel by pixel, whatever series or patient they name.

    Pixels are read where the middle image of one volume has the place of an image of another.
    """
    middles = {id(part): part.headers[len(part.headers) // 2] for part in volumes}
    suspected = Counter(map(_spot, middles.values()))
    held: dict[Hashable, list[Part]] = defaultdict(list)
    seen, kept, copies = set[Hashable](), set[int](), list[Rest]()
    for part in sorted(volumes, key=lambda part: (-len(part.headers), part.headers[0].path)):
        middle = middles[id(part)]
        for other in held[_spot(middle), digest(middle)] if _spot(middle) in seen else ():
            twins = {_spot(h): h for h in other.headers}
            if all(_spot(h) in twins and digest(twins[_spot(h)]) == digest(h) for h in part.headers):
                copies.append(Rest.copy(part.headers, twins[_spot(part.headers[0])]))
                break
        else:
            kept.add(id(part))
            for header in part.headers:
                if suspected[_spot(header)] > (header is middle):
                    seen.add(_spot(header))
                    held[_spot(header), digest(header)].append(part)
    return [part for part in volumes if id(part) in kept], copies
