"""Smaller plans for a smaller machine, on the same preprocessed data; and how long a step takes with them."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIGURATION = "3d_fullres"


def smaller_patch(patch: Sequence[int], strides: Sequence[Sequence[int]], voxels: int) -> list[int]:
    """Shorten the longest axes of a patch (z, y, x), each divisible by its strides, down to at most ``voxels``."""
    steps, small = [math.prod(axis) for axis in zip(*strides, strict=True)], list(patch)
    while math.prod(small) > voxels and (able := [a for a in range(len(small)) if small[a] >= 2 * steps[a]]):
        longest = max(able, key=lambda axis: small[axis])
        small[longest] -= steps[longest]
    return small


def write_small_plans(
    folder: Path, name: str, voxels: int, batch_size: int, patch: Sequence[int] | None = None
) -> list[tuple[str, Any, Any]]:
    """Write ``NAME.json`` beside nnUNetPlans.json: half the features, a smaller patch and batch, the same data.

    Returns:
        The differences: (what, planned, here).
    """
    plans = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"][CONFIGURATION]
    network = configuration["architecture"]["arch_kwargs"]
    new_patch = list(patch or smaller_patch(configuration["patch_size"], network["strides"], voxels))
    features = [value // 2 for value in network["features_per_stage"]]
    differences = [
        ("network's features per stage", network["features_per_stage"], features),
        ("patch size (z, y, x) in voxels", configuration["patch_size"], new_patch),
        ("batch size", configuration["batch_size"], min(batch_size, configuration["batch_size"])),
    ]
    network["features_per_stage"] = features
    configuration.update(patch_size=new_patch, batch_size=differences[2][2])
    plans["plans_name"], plans["configurations"] = name, {CONFIGURATION: configuration}
    (folder / f"{name}.json").write_text(json.dumps(plans, indent=1), encoding="utf-8")
    return differences


def time_steps(folder: Path, name: str, device: str, threads: int, repeat: int = 5) -> tuple[float, float, float]:
    """Seconds of a training step and of a prediction's tile, and tiles per case; network only, on random numbers."""
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plan = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["configurations"][CONFIGURATION]
    kwargs, patch = plan["architecture"], plan["patch_size"]
    torch.set_num_threads(threads)
    network = get_network_from_plans(
        kwargs["network_class_name"], kwargs["arch_kwargs"], kwargs["_kw_requires_import"], 1, 3, deep_supervision=True
    ).to(device)
    batch = torch.randn(plan["batch_size"], 1, *patch, device=device)
    step = _seconds(lambda: sum(out.square().mean() for out in network(batch)).backward(), device, repeat)
    with torch.no_grad():
        tile = _seconds(lambda: network(batch[:1]), device, repeat)
    image = [max(size, edge) for size, edge in zip(plan["median_image_size_in_voxels"], patch, strict=True)]
    tiles = math.prod(len(steps) for steps in compute_steps_for_sliding_window([round(n) for n in image], patch, 0.5))
    return step, tile, tiles


def _seconds(action: Any, device: str, repeat: int) -> float:
    """The fastest of several turns: other work on the machine only ever slows them down."""
    import torch

    times = []
    for _ in range(repeat + 1):  # the first one warms up
        start = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
