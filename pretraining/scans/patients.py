"""Which image files are of one patient, told by names: ``P1/flair``, ``P1/t1``, ``P2/flair``; ``P1_t1``, ``P1_t2``."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

_FEW = 20  # scans of a patient
_BIDS = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[_/])")
_NEARLY_ALL = 0.9  # of the files below a folder: one that is called sub-01_... says nothing of the others
_LAST = re.compile(r"(?P<patient>.*\d.*)[_-](?P<role>[^_-]+)")


def patients_of(stems: Iterable[str]) -> dict[str, str]:
    """Tell which files belong to a patient who has several; by file his folder, or what his files' names begin with.

    BIDS says it: ``sub-01`` is one patient wherever it stands (``derivatives/x/sub-01``), with any number of files.
    Other names are of patients if they are at least as many as the files of any of them, which are few, and if the rest
    of their files' names (``flair``, ``t1``) comes with others of them too.

    Args:
        stems: paths of the files in a folder and below, posix, without ending.
    """
    return dict(_patients("", {stem: stem for stem in stems}))


def _patients(above: str, rests: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (file, patient) of files, whose paths from the folder ``above`` on are given too."""
    marked = {stem: found[1] for stem in rests if (found := _BIDS.search(stem))}
    if len(marked) >= _NEARLY_ALL * len(rests):
        yield from marked.items()
        rests = {stem: rest for stem, rest in rests.items() if stem not in marked}
    folders, files, names = (defaultdict[str, dict[str, str]](dict) for _ in range(3))
    for stem, rest in rests.items():
        folder, slash, inner = rest.partition("/")
        if slash:
            folders[folder][stem] = inner.replace(folder, "")
            files[inner][stem] = folder
        elif match := _LAST.fullmatch(rest):
            names[match["patient"]][stem] = match["role"]
    nested = folders if _are_patients(folders) else files
    for members in (nested, names):
        if _are_patients(members):
            yield from ((stem, f"{above}{name}") for name, stems in members.items() for stem in stems)
    if not _are_patients(nested):
        for folder, stems in folders.items():
            yield from _patients(f"{above}{folder}/", {stem: rests[stem].partition("/")[2] for stem in stems})


def _are_patients(members: Mapping[str, Mapping[str, str]]) -> bool:
    """Tell by the roles (what is left of the name) of each one's files."""
    roles = [set(files.values()) for files in members.values()]
    often = Counter(role for some in roles for role in some)
    most = max(map(len, members.values()), default=0)
    shared = sum(any(often[role] > 1 for role in some) for some in roles)
    return 1 < most <= min(_FEW, len(members)) and 2 * shared >= len(members)
