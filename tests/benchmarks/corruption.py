"""Corruption against the plain-loop reference of the same facts, on one core: ``make bench``.

Prints medians in milliseconds and the ratio; the ratio is what compares across machines.
"""

import statistics
import time
from collections.abc import Callable

import torch

from pretraining.restoration import CORRUPTIONS, RestorationTransform
from tests.pretraining.restoration_reference import REFERENCE

SHAPES = ((64, 64, 32), (40, 56, 40), (128, 128, 128))


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of ``work``."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """Print one line per patch size and corruption."""
    torch.set_num_threads(1)
    print(f"{'patch':>14} {'corruption':>12} {'ours / ms':>10} {'loop / ms':>10} {'ratio':>6}")
    for shape in SHAPES:
        image = torch.rand(1, *shape)
        for name in CORRUPTIONS:
            transform = RestorationTransform.only(name, seed=0)
            transform(image=image)  # tables of this shape are made once
            ours = milliseconds(lambda: transform(image=image), 15)  # noqa: B023 - called at once
            corruption = transform.corruptions[name]
            params = corruption.get_parameters(image=image)
            loop = milliseconds(lambda: REFERENCE[name](image, **params), 3)  # noqa: B023
            print(f"{'x'.join(map(str, shape)):>14} {name:>12} {ours:10.2f} {loop:10.2f} {loop / ours:6.1f}")


if __name__ == "__main__":
    main()
