"""Does pretraining help to classify? Scratch, Genesis, a linear probe and volume alone, by fold; one command.

    python examples/benchmark/classification.py malignancy --data /data/Dataset044_LIDCNodule -o out

Each fold's network is pretrained on the images of its training cases alone. Narrow networks and small patches, for two
cores. Run it again to go on: finished runs are skipped.
"""

import argparse
import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol_options import refuse_other_settings

CONFIGURATION, PLANS = "3d_fullres", "nnUNetNarrowPlans"
SETTINGS = ("task", "epochs", "pretraining_epochs", "peak_lr", "features", "stages", "batch_size")
CLASSIFIER, SCRATCH = "nnUNetTrainerGenesisClassifier", "nnUNetTrainerGenesisClassifierScratch"


def _lidc(data: Path, label: Callable[[dict[str, str]], str]) -> list[tuple[str, str, str]]:
    with (data / "labels.csv").open(encoding="utf-8") as file:
        return [(row["case"], label(row), f"patient{row['patient']}") for row in csv.DictReader(file)]


def _acdc(data: Path) -> list[tuple[str, str, str]]:
    with (data / "groups.csv").open(encoding="utf-8") as file:
        groups = {row["patient"]: row["group_inferred"] for row in csv.DictReader(file)}
    names = sorted(file.name.removesuffix("_0000.nii.gz") for file in (data / "imagesTr").glob("*_0000.nii.gz"))
    return [(name, groups[name.split("_")[0]], name.split("_")[0]) for name in names]


def _malignancy(row: dict[str, str]) -> str:
    return "malignant" if float(row["malignancy"]) >= 4 else "benign" if float(row["malignancy"]) <= 2 else ""


TASKS: dict[str, tuple[int, list[int], Callable[[Path], list[tuple[str, str, str]]]]] = {
    "texture": (
        744,
        [32, 32, 32],
        lambda data: _lidc(data, lambda row: "solid" if float(row["texture"]) >= 5 else "other"),
    ),
    "malignancy": (745, [32, 32, 32], lambda data: _lidc(data, _malignancy)),
    "acdc": (727, [10, 64, 64], _acdc),
}


def _candidates(args: argparse.Namespace) -> str:
    """Place candidates on nodules and elsewhere, in LUNA16's columns; in the crops far from the nodule."""
    import numpy as np
    import SimpleITK

    from pretraining.preparation.options import PrepareOptions
    from pretraining.preparation.pipeline import prepare_dataset

    name, random = "Dataset746_Candidates", np.random.default_rng(0)
    folder, scans = Path(os.environ["nnUNet_preprocessed"]) / name, args.o / "scans"
    if (folder / "done").exists():
        return name
    scans.mkdir(parents=True, exist_ok=True)
    rows = [("seriesuid", "coordX", "coordY", "coordZ", "class")]
    for file in sorted((args.data / "labelsTr").glob("*.nii.gz")):
        case, mask = file.name.removesuffix(".nii.gz"), SimpleITK.ReadImage(str(file))
        shutil.copy(args.data / "imagesTr" / f"{case}_0000.nii.gz", scans)
        array = SimpleITK.GetArrayFromImage(mask) > 0
        centre = np.argwhere(array).mean(0)
        others = random.integers(13, 38, (40, 3))  # a patch of 24 stays within the crop of 51
        others = others[(np.linalg.norm(others - centre, axis=1) > 12) & ~array[tuple(others.T)]][:3]
        for place, label in [(centre, 1), *((other, 0) for other in others)]:
            point = mask.TransformContinuousIndexToPhysicalPoint([float(value) for value in place[::-1]])
            rows.append((case, *(f"{value:.3f}" for value in point), label))
    for file in sorted(args.unlabelled.glob("*chest*.nii.gz")):
        if file.name.startswith("lidc"):  # of the crops' source: it may hold one of their nodules
            continue
        shutil.copy(file, scans)
        image = SimpleITK.ReadImage(str(file))
        body = np.argwhere(SimpleITK.GetArrayViewFromImage(image) > -900)
        for place in body[random.integers(len(body), size=60)]:
            point = image.TransformIndexToPhysicalPoint([int(value) for value in place[::-1]])
            rows.append((file.name.removesuffix(".nii.gz"), *(f"{value:.3f}" for value in point), 0))
    with (args.o / "candidates.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    options = PrepareOptions((scans,), 746, "Candidates", modality="CT", processes=1,
                             candidates=args.o / "candidates.csv")  # fmt: skip
    prepare_dataset(options)
    _narrow(folder, [24, 24, 24], args)
    return name


def set_up(args: argparse.Namespace) -> str:
    """Raw data set, labels, nnU-Net's plans made narrow, preprocessed images, folds; the data set's name."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess_dataset,
    )

    number, patch, rows_of = TASKS[args.task]
    name = f"Dataset{number}_{args.task.capitalize()}"
    raw = Path(os.environ["nnUNet_raw"]) / name
    folder = Path(os.environ["nnUNet_preprocessed"]) / name
    if (folder / "done").exists():
        return name
    rows = [row for row in rows_of(args.data) if row[1]]
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (raw / part).mkdir(parents=True, exist_ok=True)
        for case, _, _ in rows:
            shutil.copy(args.data / part / f"{case}{ending}", raw / part)
    description = json.loads((args.data / "dataset.json").read_text(encoding="utf-8"))
    (raw / "dataset.json").write_text(json.dumps(description | {"numTraining": len(rows)}), encoding="utf-8")
    with (raw / "labelsTr.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("case", "label", "group"), *rows])
    extract_fingerprints([number], num_processes=1)
    plan_experiments([number])
    preprocess_dataset(number, configurations=(CONFIGURATION,), num_processes=(1,))
    _narrow(folder, patch, args)
    return name


def _narrow(folder: Path, patch: list[int], args: argparse.Namespace) -> None:
    plans = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
    plan = plans["configurations"][CONFIGURATION]
    network = plan["architecture"]["arch_kwargs"]
    for key, value in list(network.items()):
        if isinstance(value, list):
            network[key] = value[: args.stages - key.endswith("decoder")]
    network.update(n_stages=args.stages, features_per_stage=[args.features * 2**k for k in range(args.stages)])
    plan.update(patch_size=patch, batch_size=args.batch_size // 2)  # the classifier doubles it
    plans |= {"plans_name": PLANS, "configurations": {CONFIGURATION: plan}}
    (folder / f"{PLANS}.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "done").touch()


def run(dataset: str, trainer: str, fold: int, **settings: Any) -> None:
    """Train and validate a fold, unless that is done."""
    from nnunetv2.run.run_training import run_training

    from nnunet_genesis.folders import environment

    folder = Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__{PLANS}__{CONFIGURATION}" / f"fold_{fold}"
    if (folder / "validation" / "classification.csv").exists():
        return
    with environment(**{f"nnUNet_genesis_{name}": str(value) for name, value in settings.items()}):
        run_training(dataset, CONFIGURATION, fold, trainer, PLANS, continue_training=True, device=_cpu())


def _cpu() -> Any:
    import torch

    torch.set_num_threads(1)
    return torch.device("cpu")


def main() -> None:
    """All arms of the folds asked for, for each seed, and the report of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[*TASKS, "candidates"])
    parser.add_argument("--data", type=Path, required=True, help="folder of Dataset044_LIDCNodule or Dataset027_ACDC")
    parser.add_argument("--unlabelled", type=Path, help="of candidates: folder of chest CTs")
    parser.add_argument("-o", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12, help="of 25 iterations, in each arm")
    parser.add_argument("--pretraining_epochs", type=int, default=16, help="of 25 iterations")
    parser.add_argument(
        "--peak_lr", type=float, default=1e-3, help="narrow networks and short runs want more than 1e-4"
    )
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args()
    if args.task == "candidates" and not args.unlabelled:
        parser.error("candidates: give --unlabelled, the folder of chest CTs")
    out = args.o.resolve()
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(out / name)

    from nnunet_genesis.cli import trainers_folder
    from nnunet_genesis.comparison.report import write_report
    from pretraining.run import pretrain

    refuse_other_settings(out / "settings.json", {name: getattr(args, name) for name in SETTINGS})
    os.environ["nnUNet_extTrainer"] = str(trainers_folder())
    dataset = _candidates(args) if args.task == "candidates" else set_up(args)
    os.environ["nnUNet_n_proc_DA"] = "0"
    length = {"epochs": args.epochs, "iterations": 25}
    for seed in args.seeds:
        os.environ["nnUNet_results"] = str(out / f"results_seed_{seed}")
        common = {**length, "peak_lr": args.peak_lr, "seed": seed}
        for fold in args.folds:
            run(dataset, SCRATCH, fold, **common)
            weights = pretrain(
                dataset, CONFIGURATION, PLANS, fold, _cpu(), continue_training=True,
                epochs=args.pretraining_epochs, iterations=25, seed=seed,
            )  # fmt: skip
            run(dataset, CLASSIFIER, fold, weights=weights, **common)
            _probe(out, seed, dataset, fold, weights, length)
    results = [out / f"results_seed_{seed}" for seed in args.seeds]
    print(write_report([dataset], out / "report", results, SCRATCH, export=out / "results"))


def _probe(out: Path, seed: int, dataset: str, fold: int, weights: Path, length: dict[str, int]) -> None:
    from nnunet_genesis.folders import environment

    results = out / f"probe_seed_{seed}"
    with environment(nnUNet_results=str(results)):
        run(dataset, CLASSIFIER, fold, weights=weights, freeze="encoder", seed=seed, **length)
    model = Path(dataset) / f"{CLASSIFIER}__{PLANS}__{CONFIGURATION}" / f"fold_{fold}" / "validation"
    arm = Path(os.environ["nnUNet_results"]) / str(model).replace(CLASSIFIER, f"{CLASSIFIER}Probe")  # of its own
    shutil.copytree(results / model, arm, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
