"""SIGTERM and --c of both commands; the resumed run is the whole one within tolerance; predict after fine-tuning."""

import json

import nibabel
import numpy as np

from tests.benchmarks.gpu.commands import PREDICT, PRETRAIN, TRAIN, Command, pretraining_arguments, require_close
from tests.benchmarks.gpu.part import Part
from tests.benchmarks.gpu.plans import CONFIGURATION, SMALL

TRAINER = "nnUNetTrainerGenesis"


def main(part: Part) -> None:
    """Report a row a step of the path: pretrain, stop, go on, fine-tune, stop, go on, validate, predict."""
    whole = Command(part, "whole", PRETRAIN, pretraining_arguments(part))
    stopped = Command(part, "stopped", PRETRAIN, pretraining_arguments(part))
    stopped.stop_in_epoch(1)
    part.row("pretraining, SIGTERM: exit status 75")
    resumed = Command(part, "resumed", PRETRAIN, pretraining_arguments(part, "--c"), results="stopped")
    whole.finish()
    resumed.finish()
    require_close(part, "pretraining stopped and continued, beside the whole one", resumed.logged(), whole.logged())
    _fine_tune(part, whole)


def _fine_tune(part: Part, pretrained: Command) -> None:
    arguments = ["702", CONFIGURATION, "0", "-tr", TRAINER, "-device", part.device.type]
    iterations = "4" if part.tiny else "25"
    settings = {
        "nnUNet_genesis_weights": str(pretrained.folder() / "checkpoint_final.pth"),
        "nnUNet_genesis_epochs": "3",
        "nnUNet_genesis_iterations": iterations,
        "nnUNet_genesis_seed": "3",
    }
    stopped = Command(part, "tuned", TRAIN, arguments, **settings)
    stopped.stop_in_epoch(1)
    part.row("fine-tuning, SIGTERM: exit status 75")
    resumed = Command(part, "tuned-on", TRAIN, [*arguments, "--c"], results="tuned", **settings)
    resumed.finish()
    folder = resumed.folder(TRAINER)
    report = json.loads((folder / "genesis_load_report.json").read_text())
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    dice = summary["foreground_mean"]["Dice"]
    part.row("fine-tuning continued, validated", coverage=report.get("coverage"), dice=round(dice, 3))
    _predict(part)


def _predict(part: Part) -> None:
    out = part.folder / "predicted"
    places = ["-i", str(part.folder / "predict"), "-o", str(out), "-d", "702", "-c", CONFIGURATION, "-f", "0"]
    more = ["-tr", TRAINER, "-device", part.device.type, "-npp", "1", "-nps", "1", "--disable_progress_bar"]
    Command(part, "predict", PREDICT, [*places, *more], results="tuned").finish()
    labels = part.folder / "nnUNet_preprocessed" / SMALL / "gt_segmentations" / "case0.nii.gz"
    ours, truth = (np.asarray(nibabel.load(file).dataobj) for file in (out / "case0.nii.gz", labels))
    part.row("predict", same_voxels=round(float((ours == truth).mean()), 3))
