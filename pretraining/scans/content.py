"""What a volume shows, told by its voxels: labels, a CT or neither. Shares of voxels count, never an extreme."""

import re
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import find_objects

_ENOUGH = 500_000  # voxels tell what is in a volume
_FEW = 64  # distinct values: hardly a scanner gives so few
# How much more often neighbours are equal than by chance (Cohen's kappa; voxels of the background don't count): 0.61 to
# 0.98 in label maps, at most 0.2 in scans, those of 8 bits and of 91 grey values among them.
_COHERENT = 0.45
# Of many values (instances). Voxels that are doubled along each axis reach 0.5; repeated slices 0 along the others.
_INSTANCES, _INSTANCES_ALONG_AN_AXIS = 0.7, 0.4
_PLATEAUS = 3  # values that fill areas of scans too: padding, air, and what is clipped
_SPARSE = 0.995  # share of the background around landmarks, which have no neighbours
_NAMES = re.compile(
    r"(?:^|[^a-z])(?:seg|segm|segmentation|label|labelmap|labelstr|labelsts|labelsval|mask|msk|annotation|annot|gt|"
    r"ground_?truth|roi|aseg|aparc|parcellation|instance|prob|probability|softmax|pve)s?(?:$|[^a-z])"
)
_PADDING, _MOST_REST = (-2000, -2048, -3024), 0.99  # what CT scanners and viewers put where there is nothing
_LEAST_RANGE = 256  # HU: less is 8 bits, of a window or wrapped around
_CT_NAME = re.compile(r"(?!OCT)(?:.*[^A-Z])?(?:PET|[A-Z]{0,2})CT[APC]?(?:[^A-Z].*)?", re.IGNORECASE)


def is_ct_name(modality: str) -> bool:
    """Tell whether a modality's name is a kind of CT: CT, CTA, CBCT, PETCT, …"""
    return bool(_CT_NAME.fullmatch(modality))


def named_like_labels(path: str) -> bool:
    """Tell whether a file's name, or its folder's, says that it holds labels."""
    return any(_NAMES.search(part.lower()) for part in path.split("/")[-2:])


def is_label_map(voxels: np.ndarray, named: bool = False) -> bool:
    """Tell labels, masks and maps of probability from scans: values that nearly all have neighbours of the same value.

    Maps of which nothing but :func:`may_be_probability` speaks aren't told.

    Args:
        voxels: (Z, Y, X), not all the same.
        named: whether its name says labels, which makes what is nearly clear sure.
    """
    step = max(1, int((voxels.size / _ENOUGH) ** (1 / 3)))
    sample = voxels[::step, ::step, ::step]
    values, counts = np.unique(sample, return_counts=True)
    background, share = values[counts.argmax()], counts.max() / sample.size
    within = voxels[_box(voxels != background)]
    here, neighbours = _with_neighbours(within)
    values, index, counts = np.unique(here, return_inverse=True, return_counts=True)
    if len(values) <= 2 or (len(values) <= _FEW and share >= _SPARSE):
        return True
    few = len(values) <= _FEW
    kappas = _agreement(here, neighbours, index.reshape(here.shape), counts, 1 if few else _PLATEAUS)
    if few:
        return float(np.mean(kappas)) > (_COHERENT / 2 if named else _COHERENT)
    return (np.mean(kappas) > _INSTANCES and min(kappas) > _INSTANCES_ALONG_AN_AXIS) or _is_probability(within, named)


def may_be_probability(voxels: np.ndarray) -> bool:
    """Tell whether voxels (not all the same) are as smooth as a blurred mask; so are some scans scaled to 0 to 1."""
    return bool(voxels.min() >= 0 and voxels.max() <= 1.001) and _is_probability(voxels[_box(voxels > 0)], False, True)


def _is_probability(voxels: np.ndarray, named: bool, smooth: bool = False) -> bool:
    """Tell a probability: from 0 to 1, most of it at 0 without noise, much of the rest near 1, or all smooth."""
    highest = voxels.max()
    if voxels.min() < 0 or (highest > 1.001 and not named) or min(voxels.shape) < 3:
        return False
    if highest > 1.001:  # percent, or of 8 bits
        voxels, named = voxels / highest, False
    low = voxels < 0.05
    if low.all() or not low.mean() > 0.3 or np.mean(voxels[low] < 0.001) < 0.6:
        return False
    high = voxels > 0.95
    # Clipping a scan leaves many voxels at exactly 1, a network's output few.
    certain = high.sum() > 0.1 * (~low).sum() and np.mean(voxels[high] == voxels.max()) < 0.8
    return bool(named or certain or (smooth and _is_smooth(voxels, ~low & ~high)))


def _is_smooth(voxels: np.ndarray, counted: np.ndarray) -> bool:
    """Tell whether slopes change little from voxel to voxel: 0.1 to 0.4 of it in blurred masks, 0.6 to 2 in scans."""
    for axis in range(3):
        v, inner = np.moveaxis(voxels, axis, 0), np.moveaxis(counted, axis, 0)[1:-1]
        slope, change = np.abs(v[2:] - v[:-2])[inner], np.abs(v[2:] - 2 * v[1:-1] + v[:-2])[inner]
        if not change.sum() < 0.45 * slope.sum():
            return False
    return True


def looks_like_ct(voxels: np.ndarray) -> bool:
    """Tell whether voxels are meant as HU: much air or lung and little between it and fat; or fat and soft tissue.

    Whether they are right is another question. Splines make values below -1000 in MR too, but few.
    """
    sample = voxels.ravel()[:: max(1, voxels.size // _ENOUGH)]
    lowest = sample.min()
    if np.ptp(sample) < _LEAST_RANGE:
        return False
    rest = sample[sample > lowest]
    padded = lowest in _PADDING and rest.size < _MOST_REST * sample.size and rest.min() > lowest + 500
    if padded and np.mean((rest > -200) & (rest < 300)) > 0.5:  # organs that were cut out of a CT
        return True

    def share(low: float, high: float) -> float:
        return float(np.mean((sample >= low) & (sample < high)))

    air, between = share(-1100, -500), share(-500, -200)
    # Within dense lungs there is more between, but soft tissue stands out; phases of MR are even, and go further down.
    dense_lung = air > 1.5 * between and share(0, 100) > 2 * share(-300, -200)
    if air > 0.01 and (air > 4 * between or (dense_lung and share(lowest + 1, -1100) < 0.01)):
        return True
    sample = sample[(sample > lowest) & (sample < sample.max())]  # a window clips many voxels
    if sample.size < 1000 or share(-np.inf, -200) > 0.05 or share(-200, -30) < 0.02 or share(-200, 300) < 0.7:
        return False
    # Noise spreads each tissue over 10 HU and more; the most common one, fat or soft tissue, lies within 50.
    tens = np.histogram(sample, 50, (-200, 300))[0] / sample.size
    fifties = np.convolve(tens, np.ones(5), "valid")
    middle = -175 + 10 * int(fifties.argmax())
    return bool(tens.max() < 0.3 and fifties.max() > 0.21 and (-140 < middle < -50 or -10 < middle < 140))


def may_be_soft_tissue(voxels: np.ndarray) -> bool:
    """Tell whether values without air and fat may be HU: within what soft tissue spans."""
    low, high = np.percentile(voxels.ravel()[:: max(1, voxels.size // _ENOUGH)], (1, 99))
    return bool(low > -200 and high < 300 and high - low < 250)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Give the box around what is marked, and a voxel more."""
    (found,) = find_objects(mask.view(np.int8))
    return tuple(slice(max(0, s.start - 1), s.stop + 1) for s in found)


def _with_neighbours(voxels: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sample voxels, with the next voxel along each axis."""
    step = max(1, int((voxels.size / _ENOUGH) ** (1 / 3)))

    def part(along: int | None) -> np.ndarray:
        begin = [int(axis == along) for axis in range(3)]
        return voxels[tuple(slice(b, n - 1 + b, step) for b, n in zip(begin, voxels.shape, strict=True))]

    return part(None), [part(axis) for axis in range(3)]


def _agreement(
    here: np.ndarray, neighbours: Sequence[np.ndarray], index: np.ndarray, counts: np.ndarray, most: int
) -> list[float]:
    """Along each axis, the kappa of voxels and their neighbours, without the ``most`` most common values."""
    counted = ~np.isin(index, np.argsort(-counts)[:most])
    chance = float((counts / counts.sum())[index[counted]].mean()) if counted.any() else 1.0
    equal = [float((neighbour == here)[counted].mean()) if counted.any() else 0.0 for neighbour in neighbours]
    return [(share - chance) / (1 - chance) if chance < 1 else 0.0 for share in equal]
