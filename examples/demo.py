"""The whole path in one go: raw scans, pretraining, fine-tuning, prediction, Dice; beside the same from scratch.

Runs on two slow cores in about eight minutes, with the commands that a user types; each is printed, its output is in
``demo_out/logs``. The scans are synthetic unless ``--data`` names a folder of CTs to pretrain on.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK
from synthetic_torso import LABELS, TRUNCATED, write_labelled, write_unlabelled

matplotlib.use("agg")
from matplotlib.figure import Figure

MARKER = ".nnunet_genesis_demo"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "unlabelled", "predictions", "logs")
PICTURES = ("restoration.png", "segmentation.png")
LABELLED, UNLABELLED = "Dataset801_DemoLiver", "Dataset802_DemoUnlabelled"
PLANS, CONFIGURATION = "DemoPlans", "3d_fullres"
TRAINERS = {"scratch": "nnUNetTrainerGenesisScratch", "Genesis": "nnUNetTrainerGenesis"}
FEATURES, PATCH = [8, 16, 32, 64], [24, 40, 40]  # of the small plans
LEFT_OUT_STATUS = 3  # of nnUNetv2_genesis_prepare
# So short runs need higher learning rates than the default, 1e-3; SGD would find nothing in them.
PRETRAINING = ("--epochs", "5", "--iterations", "65", "--lr", "2e-3")
FINE_TUNING = {"epochs": "5", "iterations": "40", "optimizer": "adamw", "peak_lr": "2e-3"}


@dataclass
class Demo:
    """Runs commands, logs them in ``out`` and keeps their times."""

    out: Path
    environment: dict[str, str]
    times: dict[str, float] = field(default_factory=dict)

    def export(self, **variables: str | Path) -> None:
        """Set environment variables for the commands that follow."""
        for name, value in variables.items():
            self.environment[name] = str(value)
            print(f"export {name}={shlex.quote(str(value))}")

    def run(self, step: str, command: Sequence[str | Path], show: str = "$.", accept: Sequence[int] = (0,)) -> int:
        """Run a command, print the lines that match ``show``, and stop the demo if it fails."""
        words = [str(word) for word in command]
        log = self.out / "logs" / f"{len(self.times) + 1:02d}_{re.sub('[^a-z]+', '_', step.lower())}.txt"
        print(f"$ {shlex.join(words)}", flush=True)
        start, tail, ended = time.monotonic(), deque[str](maxlen=25), threading.Event()
        threading.Thread(target=_tell_time, args=(step, ended), daemon=True).start()
        with (
            log.open("w", encoding="utf-8", buffering=1) as file,
            subprocess.Popen(words, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, errors="replace") as process,
        ):  # fmt: skip
            for line in process.stdout or ():
                file.write(line)
                tail.append(line)
                if re.search(show, line):
                    print(f"    {line.rstrip()}", flush=True)
        ended.set()
        self.times[step] = time.monotonic() - start
        if process.returncode not in accept:
            sys.exit(f"{''.join(tail)}\nERROR: the command above ended with {process.returncode}; all of it: {log}")
        return process.returncode


def _tell_time(step: str, ended: threading.Event) -> None:
    """Print a line every 20 seconds."""
    start = time.monotonic()
    while not ended.wait(20):
        print(f"    … {step}, {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of CT scans to pretrain on [default: synthetic ones]")
    parser.add_argument("-o", type=Path, default=Path("demo_out"), help="output folder [default: demo_out]")
    args = parser.parse_args()
    out, scans = args.o.resolve(), args.data.resolve() if args.data else None
    environment = _environment()
    _start_afresh(out, scans)
    demo = Demo(out, environment)
    print("\n== 1  Where things are, and the scans")
    demo.export(**{name: out / name for name in FOLDERS[:3]}, nnUNet_n_proc_DA="2", nnUNet_def_n_proc="1")
    demo.export(OMP_WAIT_POLICY="passive")  # PyTorch's threads sleep while they wait: the loaders need the cores
    _make_scans(demo, scans is None)
    print("\n== 2  Plan the labelled data set, as ever with nnU-Net")
    _plan(demo)
    print("\n== 3  Prepare the unlabelled scans, with the same plans")
    _prepare(demo, scans)
    print("\n== 4  Pretrain: restore corrupted patches")
    weights = _pretrain(demo)
    print("\n== 5  Train on the labelled cases, from random weights and from Genesis weights, with the same schedule")
    _train(demo, weights)
    print("\n== 6  Predict the test cases, compare with their labels")
    dice = {name: _test(demo, name) for name in TRAINERS}
    _draw_segmentation(out)
    _summarise(demo, dice)


def _environment() -> dict[str, str]:
    """This one, without nnU-Net's variables, and with the commands that are installed beside this Python."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    if not shutil.which("nnUNetv2_genesis_prepare", path=environment["PATH"]):
        sys.exit("ERROR: nnUNetv2_genesis_prepare is not installed. In the repository: pip install -e .")
    return environment


def _start_afresh(out: Path, scans: Path | None) -> None:
    """Remove what an earlier demo made in ``out``, and nothing else."""
    if out.exists() and not out.is_dir():
        sys.exit(f"ERROR: -o {out} is a file. Choose a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        sys.exit(f"ERROR: -o {out} is not empty and not a demo's. Nothing was touched; choose another folder.")
    if scans and not scans.is_dir():
        sys.exit(f"ERROR: --data {scans} is not a folder.")
    if scans and (scans == out or out in scans.parents or scans in out.parents):
        sys.exit(f"ERROR: --data {scans} and -o {out} lie within each other. Choose separate folders.")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    for name in FOLDERS:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        (out / name).mkdir()
    for name in PICTURES:
        (out / name).unlink(missing_ok=True)


def _make_scans(demo: Demo, unlabelled: bool) -> None:
    start = time.monotonic()
    write_labelled(demo.out / "nnUNet_raw" / LABELLED, training=10, test=3)
    print(f"Made {LABELLED}: 10 synthetic CTs with labels to train on, 3 to test")
    if unlabelled:
        write_unlabelled(demo.out / "unlabelled" / "scans", count=12)
        print(f"Made 12 synthetic CTs without labels (.nii.gz, .mha, .nrrd), and {TRUNCATED}, cut short on purpose")
    demo.times["make the scans"] = time.monotonic() - start


def _plan(demo: Demo) -> None:
    command = ["nnUNetv2_plan_and_preprocess", "-d", "801", "-c", CONFIGURATION, "-gpu_memory_target", "2"]
    command += ["-npfp", "1", "-np", "1", "--no_pbar"]
    demo.run("plan and preprocess", command, show=r"^(Fingerprint|Experiment|Preprocessing)\b.*\.\.\.$")
    folder = demo.out / "nnUNet_preprocessed" / LABELLED
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    configuration = plans["configurations"][CONFIGURATION]
    network = configuration["architecture"]["arch_kwargs"]
    planned = f"patch {configuration['patch_size']}, features {network['features_per_stage']}"
    network |= {"n_stages": 4, "features_per_stage": FEATURES, "kernel_sizes": [[3, 3, 3]] * 4}
    network |= {"strides": [[1, 1, 1]] + [[2, 2, 2]] * 3}
    network |= {"n_conv_per_stage": [1, 2, 2, 2], "n_conv_per_stage_decoder": [2, 2, 1]}
    configuration |= {"patch_size": PATCH, "batch_size": 2}
    plans |= {"plans_name": PLANS, "configurations": {CONFIGURATION: configuration}}
    (folder / f"{PLANS}.json").write_text(json.dumps(plans, indent=1))
    print(f"nnU-Net's plans ({planned}) are for a GPU. Wrote {PLANS}.json: the same preprocessed data,")
    print(f"patch {PATCH}, features {FEATURES}. With a GPU you would keep nnU-Net's plans.")
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (folder / "gt_segmentations").iterdir())
    (folder / "splits_final.json").write_text(json.dumps([{"train": cases[:-1], "val": cases[-1:]}], indent=1))
    print("Wrote splits_final.json: 9 cases to train on, 1 to validate.")


def _prepare(demo: Demo, scans: Path | None) -> None:
    command = ["nnUNetv2_genesis_prepare", "-i", scans or demo.out / "unlabelled", "-d", "802", "-n", "DemoUnlabelled"]
    command += ["--like", "801", "-p", PLANS, "-np", "1"]
    show = "Found|patch size|train on|left out|^  "
    status = demo.run("prepare", command, show, accept=(0, LEFT_OUT_STATUS))
    if status == LEFT_OUT_STATUS:
        why = "expected here: the truncated file is left out" if scans is None else "some scans are left out"
        print(f"Exit status {status}: {why}, with the reason, and the rest is prepared. All of it is in")
        print(f"{demo.out / 'nnUNet_preprocessed' / UNLABELLED / 'genesis_manifest.csv'}")


def _pretrain(demo: Demo) -> Path:
    command = ["nnUNetv2_genesis_pretrain", "802", CONFIGURATION, "-p", PLANS, "-device", "cpu", *PRETRAINING]
    demo.run("pretrain", command, show="R²")
    print("R²: 0 is a constant image, 1 a perfect one. By default a run has 250,000 iterations; this one had 325.")
    results = demo.out / "nnUNet_results" / UNLABELLED
    folder = results / f"nnUNetTrainerRestoration__{PLANS}__{CONFIGURATION}" / "fold_0"
    shutil.copy(max(folder.glob("restoration_epoch*.png")), demo.out / "restoration.png")
    return folder / "checkpoint_final.pth"


def _train(demo: Demo, weights: Path) -> None:
    print("$ nnUNetv2_genesis_trainers", flush=True)
    trainers = subprocess.check_output(["nnUNetv2_genesis_trainers"], env=demo.environment, text=True)
    demo.export(nnUNet_extTrainer=trainers.strip())
    demo.export(**{f"nnUNet_genesis_{name}": value for name, value in FINE_TUNING.items()})
    for name, trainer in TRAINERS.items():
        if name == "Genesis":
            demo.export(nnUNet_genesis_weights=weights)
        command = ["nnUNetv2_train", "801", CONFIGURATION, "0", "-p", PLANS, "-tr", trainer, "-device", "cpu"]
        demo.run(f"train, {name}", command, show="Pseudo dice|encoder:")


def _test(demo: Demo, name: str) -> dict[str, float]:
    """Dice of each label, mean over the test cases."""
    raw, predicted = demo.out / "nnUNet_raw" / LABELLED, demo.out / "predictions" / name
    model = ["-d", "801", "-c", CONFIGURATION, "-p", PLANS, "-tr", TRAINERS[name], "-f", "0"]
    options = ["-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta", "--disable_progress_bar"]
    command = ["nnUNetv2_predict", "-i", raw / "imagesTs", "-o", predicted, *model, *options]
    demo.run(f"predict, {name}", command, show="^Predicting|^done with")
    files = ["-djfile", predicted / "dataset.json", "-pfile", predicted / "plans.json"]
    demo.run(f"evaluate, {name}", ["nnUNetv2_evaluate_folder", raw / "labelsTs", predicted, *files])
    means = json.loads((predicted / "summary.json").read_text())["mean"]
    return {label: float(means[str(LABELS[label])]["Dice"]) for label in ("liver", "lesion")}


def _draw_segmentation(out: Path) -> None:
    """The slice of a test case with the most lesion: its labels, and both predictions."""
    raw = out / "nnUNet_raw" / LABELLED
    folders = {"ground truth": raw / "labelsTs", **{name: out / "predictions" / name for name in TRAINERS}}
    case = min((raw / "labelsTs").iterdir()).name.removesuffix(".nii.gz")
    image = SimpleITK.ReadImage(str(raw / "imagesTs" / f"{case}_0000.nii.gz"))
    voxels = SimpleITK.GetArrayFromImage(image)
    labels = {name: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"{case}.nii.gz")))
              for name, folder in folders.items()}  # fmt: skip
    z = int(np.argmax((labels["ground truth"] == LABELS["lesion"]).sum((1, 2))))
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    figure.suptitle(f"{case}, slice {z}: liver green, lesions red (synthetic scan, shown from -100 to 200 HU)")
    for axes, (name, segmentation) in zip(figure.subplots(1, 3), labels.items(), strict=True):
        axes.imshow(voxels[z], cmap="gray", vmin=-100, vmax=200, aspect=image.GetSpacing()[1] / image.GetSpacing()[0])
        for mask, colour in ((segmentation[z] > 0, "lime"), (segmentation[z] == LABELS["lesion"], "red")):
            if mask.any():
                axes.contour(mask, [0.5], colors=colour, linewidths=1.2)
        axes.set(title=name, xticks=[], yticks=[])
    figure.savefig(out / "segmentation.png", dpi=100)


def _summarise(demo: Demo, dice: dict[str, dict[str, float]]) -> None:
    print("\n== 7  Result")
    print("Dice, mean of 3 test cases    liver   lesion")
    for name, values in dice.items():
        print(f"  {name:<26}{values['liver']:>7.3f}  {values['lesion']:>7.3f}")
    print("\nSeconds")
    for step, duration in demo.times.items():
        print(f"  {step:<26}{duration:>7.0f}")
    print(f"  {'all':<26}{sum(demo.times.values()):>7.0f}")
    print(f"\nPictures: {', '.join(str(demo.out / name) for name in PICTURES)}")
    print(
        "\nThis shows that the path works from one end to the other. It does not show that Genesis helps: few scans,\n"
        "made by a formula, a tiny network, minutes of training, one run each. The difference above may be chance."
    )


if __name__ == "__main__":
    main()
