"""Corruption on one core: against loops over windows, and against its floor.

The floor is what no implementation can save: a copy of the patch and, where out-painting applies (72 %), its noise.
"""

import numpy as np
import torch

from pretraining.restoration import CORRUPTIONS, RestorationTransform
from tests.benchmarks import window_loops
from tests.benchmarks.timing import mean, median

SHAPES = ((64, 64, 32), (40, 56, 40), (128, 128, 128))


def main() -> None:
    """Print a table a patch size."""
    torch.set_num_threads(1)
    for shape in SHAPES:
        image, rng = torch.rand(1, *shape), np.random.default_rng(0)
        small = shape[0] < 100
        print(f"\n{'×'.join(map(str, shape)):<14} {'ours / ms':>10} {'loops / ms':>11} {'ratio':>6}")
        for name, loops in zip(CORRUPTIONS, LOOPS, strict=True):
            transform = RestorationTransform.only(name, seed=0)
            ours = median(lambda: transform(image=image), 15)  # noqa: B023 - called at once
            theirs = median(lambda: loops(rng, image.numpy().copy()), 3)  # noqa: B023
            print(f"{name:<14} {ours:10.2f} {theirs:11.2f} {theirs / ours:6.1f}")
        transform = RestorationTransform(seed=0)
        ours = mean(lambda: transform(image=image), 400 if small else 80)  # noqa: B023
        theirs = mean(lambda: window_loops.corrupt(rng, image.numpy()), 100 if small else 20)  # noqa: B023
        print(f"{'all together':<14} {ours:10.2f} {theirs:11.2f} {theirs / ours:6.1f}")
        copy = median(lambda: image.clone(), 15)  # noqa: B023
        noise = median(lambda: rng.random(shape, dtype=np.float32), 15)  # noqa: B023
        floor = copy + 0.72 * noise
        print(f"{'floor':<14} {floor:10.2f} {'':>11} {ours / floor:6.1f} times above it")


LOOPS = (window_loops.shuffle, window_loops.remap, window_loops.paint_in, window_loops.paint_out)

if __name__ == "__main__":
    main()
