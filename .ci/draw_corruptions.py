"""Draw docs/corruptions.png, each corruption on a synthetic torso: ``python .ci/draw_corruptions.py``."""

from pathlib import Path
from runpy import run_path

import torch
from matplotlib.figure import Figure

from pretraining.masking import BlockMasking
from pretraining.restoration.transform import CORRUPTIONS, RestorationTransform

ROOT = Path(__file__).parents[1]
WINDOW, SEED = (-200, 250), 2  # HU; a seed whose draws show all there is to see


def main() -> None:
    """Corrupt one patch in each way, alone and together, and draw its middle slices side by side."""
    low, high = WINDOW
    torso = run_path(str(ROOT / "examples" / "synthetic_torso.py"))["make_torso"](2, 0)
    voxels = torch.from_numpy(torso.image[None, 4:52, 4:68, 4:68]).float()
    clean = ((voxels - low) / (high - low)).clamp(0, 1)
    pictures = {"clean": clean}
    for name in CORRUPTIONS:
        pictures[name] = RestorationTransform.only(name, SEED)(image=clean)["image"]
    pictures["all together"] = RestorationTransform(SEED, 1, 1, 1, 0.2, 0)(image=clean)["image"]
    pictures["masking"] = BlockMasking(0.75, (8, 8, 8), SEED, 0)(image=clean)["image"]
    figure = Figure(figsize=(12.6, 2.0), layout="constrained")
    for axes, (name, image) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        axes.imshow(image[0, image.shape[1] // 2], cmap="gray", vmin=0, vmax=1)
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    figure.savefig(ROOT / "docs" / "corruptions.png", dpi=110)


if __name__ == "__main__":
    main()
