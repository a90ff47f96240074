"""How preprocessed CTs are compressed: nnU-Net's own setting beside others; size, seconds to save, and to read patches.

One thread, as preparation and a loader's worker have it; nnU-Net's chunks, blocks and choice of filter.
"""

import statistics
import tempfile
import time
from pathlib import Path

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

from pretraining.preparation.preprocess import preprocess
from tests.benchmarks.preparation import PATCH, ct_dataset, ct_scans
from tests.benchmarks.timing import milliseconds, quiet

SETTINGS = [(blosc2.Codec.LZ4HC, 5)] + [
    (codec, level)
    for codec, levels in (
        (blosc2.Codec.LZ4HC, (1, 3, 9)),
        (blosc2.Codec.LZ4, (1, 5, 9)),
        (blosc2.Codec.ZSTD, (1, 3, 5, 9)),
    )
    for level in levels
]
PATCHES = 20  # a scan


def main() -> None:
    """Print the table; nnU-Net's setting is its first row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = ct_scans(folder)
        dataset = ct_dataset(scans, folder)
        (dataset.folder / "nnUNetPlans_3d_fullres").mkdir(parents=True)
        with quiet():
            for scan in scans:
                preprocess(scan, dataset, "CT")
        cases = [
            [
                blosc2.open(urlpath=str(file.with_name(file.stem + ending)), mode="r")[:]
                for ending in (".b2nd", "_seg.b2nd")
            ]
            for file in sorted(dataset.folder.rglob("*.pkl"))
        ]
        print(f"{'codec, level':<14} {'MB':>7} {'s to save':>10} {'ms to read a patch':>19}")
        for codec, level in SETTINGS:
            rows = [measure(image, body, folder / "case", codec, level) for image, body in cases]
            size, save, read = (
                sum(row[0] for row in rows),
                sum(row[1] for row in rows),
                [t for row in rows for t in row[2]],
            )
            print(
                f"{codec.name + f' {level}':<14} {size / 1e6:7.1f} {save:10.2f} {statistics.median(read):19.2f}",
                flush=True,
            )


def measure(
    image: np.ndarray, body: np.ndarray, file: Path, codec: blosc2.Codec, level: int
) -> tuple[int, float, list[float]]:
    """Bytes of image and body, seconds to save them, and milliseconds to read each of some random patches."""
    (blocks, chunks), (seg_blocks, seg_chunks) = (comp_blosc2_params(a.shape, PATCH, a.itemsize) for a in (image, body))
    start = time.perf_counter()
    nnUNetDatasetBlosc2.save_case(
        image, body, {}, str(file), chunks, blocks, seg_chunks, seg_blocks, clevel=level, codec=codec
    )
    seconds = time.perf_counter() - start
    saved, random = blosc2.open(urlpath=f"{file}.b2nd", mode="r", dparams={"nthreads": 1}), np.random.default_rng(0)
    room = [max(1, size - patch + 1) for size, patch in zip(image.shape[1:], PATCH, strict=True)]

    def read() -> None:
        corner = random.integers(room)
        saved[(slice(None), *(slice(first, first + patch) for first, patch in zip(corner, PATCH, strict=True)))]

    times = milliseconds(read, PATCHES)
    size = sum(Path(f"{file}{ending}").stat().st_size for ending in (".b2nd", "_seg.b2nd"))
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        Path(f"{file}{ending}").unlink()
    return size, seconds, times


if __name__ == "__main__":
    main()
