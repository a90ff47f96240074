"""Two labelled data sets of CTs in nnU-Net's format: 701 with the plans to be measured, 702 of small crops.

From the CTs (``.nii.gz``) that lie in the folder ``scans`` of the work folder; synthetic ones where there are none.
Written with nnU-Net's own functions, resampled linearly to 1.5 mm: neither SimpleITK nor ``prepare`` is needed.
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from torch.nn.functional import interpolate

from tests.benchmarks.gpu.part import Part
from tests.benchmarks.gpu.plans import CONFIGURATION, LARGE, MEAN, SMALL, STD, WINDOW, plans

SPACING = 1.5  # mm
BODY, BONE = -500, 300  # HU: the labels are voxels above these
HELD_OUT = 2
SMALL_EDGE = 72  # voxels an axis of the crops in 702
MOST = 224  # voxels an axis in 701


def main(part: Part) -> None:
    """Write both data sets."""
    scans = sorted((part.folder / "scans").glob("*.nii.gz"))
    jobs: list[Any] = [*scans] if scans and not part.tiny else [*range(4)]
    for name in (LARGE, SMALL):
        _write_description(part, name, len(jobs))
    with ProcessPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
        shapes = list(pool.map(write_case, [part.folder] * len(jobs), [part.tiny] * len(jobs), jobs, range(len(jobs))))
    part.row(f"{len(jobs)} {'real' if jobs == scans else 'synthetic'} CTs", shapes=shapes)


def case_name(number: int) -> str:
    """Name of a case; the last two are held out."""
    return f"case{number}"


def write_case(folder: Path, tiny: bool, scan: Path | int, number: int) -> list[int]:
    """One scan, for both data sets; returns its shape (Z, Y, X)."""
    torch.set_num_threads(1)
    hounsfield = _read(scan) if isinstance(scan, Path) else _synthetic(scan)
    hounsfield = hounsfield[tuple(slice(0, MOST) for _ in range(3))]
    small = hounsfield[tuple(_middle(size, 40 if tiny else SMALL_EDGE) for size in hounsfield.shape)]
    for name, image in ((LARGE, hounsfield), (SMALL, small)):
        base = folder / "nnUNet_preprocessed" / name
        labels = ((image > BODY).astype(np.uint8) + (image > BONE)).astype(np.uint8)
        _save(image, labels, base, number, tiny)
        if name == SMALL:
            _write_nifti(labels, base / "gt_segmentations" / f"{case_name(number)}.nii.gz")
            if number == 0:
                _write_nifti(image.round().astype(np.int16), folder / "predict" / f"{case_name(0)}_0000.nii.gz")
    return list(hounsfield.shape)


def _save(image: np.ndarray, labels: np.ndarray, base: Path, number: int, tiny: bool) -> None:
    data = ((image.clip(*WINDOW) - MEAN) / STD).astype(np.float32)[None]
    seg = labels.astype(np.int16)[None]
    patch = plans(base.name, tiny)["configurations"][CONFIGURATION]["patch_size"]
    blocks, chunks = comp_blosc2_params(data.shape, tuple(patch))
    properties = {
        "spacing": [SPACING] * 3,
        "shape_before_cropping": image.shape,
        "shape_after_cropping_and_before_resampling": image.shape,
        "bbox_used_for_cropping": [[0, size] for size in image.shape],
        "class_locations": DefaultPreprocessor._sample_foreground_locations(seg, [1, 2]),
        "nibabel_stuff": {"original_affine": _affine()},
    }
    target = base / plans(base.name, tiny)["configurations"][CONFIGURATION]["data_identifier"] / case_name(number)
    nnUNetDatasetBlosc2.save_case(
        data, seg, properties, str(target), chunks=chunks, blocks=blocks, chunks_seg=chunks, blocks_seg=blocks
    )


def _write_description(part: Part, name: str, cases: int) -> None:
    base = part.folder / "nnUNet_preprocessed" / name
    planned = plans(name, part.tiny)
    (base / planned["configurations"][CONFIGURATION]["data_identifier"]).mkdir(parents=True)
    for folder in (base / "gt_segmentations", part.folder / "nnUNet_results", part.folder / "predict"):
        folder.mkdir(exist_ok=True)
    names = [case_name(number) for number in range(cases)]
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "body": 1, "bone": 2},
        "file_ending": ".nii.gz",
        "numTraining": cases,
        "overwrite_image_reader_writer": "NibabelIO",
    }
    contents = {
        "nnUNetPlans.json": planned,
        "dataset.json": dataset,
        "dataset_fingerprint.json": {},
        "splits_final.json": [{"train": names[:-HELD_OUT], "val": names[-HELD_OUT:]}],
    }
    for file, content in contents.items():
        (base / file).write_text(json.dumps(content))


def _read(file: Path) -> np.ndarray:
    """(Z, Y, X) in HU at 1.5 mm."""
    scan = nibabel.load(file)
    image = torch.from_numpy(np.asarray(scan.dataobj, dtype=np.float32).transpose(2, 1, 0).copy())
    lengths = [float(length) for length in scan.header.get_zooms()[:3]][::-1]
    size = [round(voxels * length / SPACING) for voxels, length in zip(image.shape, lengths, strict=True)]
    return interpolate(image[None, None], size=size, mode="trilinear")[0, 0].numpy()


def _synthetic(seed: int) -> np.ndarray:
    """A noisy ball with a bone in it, (48, 48, 48), in HU."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 48)] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    return np.where(radius < 0.3, 600.0, np.where(radius < 0.8, 40.0, -1000.0)) + random.normal(0, 20, radius.shape)


def _middle(size: int, edge: int) -> slice:
    first = max(0, (size - edge) // 2)
    return slice(first, first + edge)


def _affine() -> np.ndarray:
    return np.diag([SPACING] * 3 + [1.0])


def _write_nifti(image: np.ndarray, file: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(image.transpose(2, 1, 0), _affine()), file)
