"""nnU-Net results on disk without nnU-Net: summaries and logs with the Dice that a test wants."""

import json
from collections.abc import Mapping
from pathlib import Path

SCRATCH, GENESIS = "nnUNetTrainerGenesisScratch", "nnUNetTrainerGenesis"
LABELS = {"background": 0, "organ": 1, "tumour": 2}


def write_run(
    dataset: Path, trainer: str, fold: int, dice: Mapping[str, tuple[float, float]], curve: tuple[float, ...] = ()
) -> Path:
    """Write a run; ``dice``: case → Dice of classes 1 and 2; ``curve``: pseudo-Dice by epoch. Returns its folder."""
    model = dataset / f"{trainer}__nnUNetPlans__3d_fullres"
    folder = model / f"fold_{fold}"
    (folder / "validation").mkdir(parents=True)
    (model / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))
    (model / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {"spacing": [5.0, 1.0, 1.5]}}}))
    cases = [
        {"reference_file": f"/data/{case}.nii.gz", "metrics": {str(k): {"Dice": v} for k, v in enumerate(values, 1)}}
        for case, values in dice.items()
    ]
    (folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    lines = [
        f"2026-01-01 00:00:00.0: Epoch {epoch} \n2026-01-01 00:00:01.0: Pseudo dice [np.float32({value}), nan] \n"
        for epoch, value in enumerate(curve)
    ]
    (folder / "training_log_2026_1_1_00_00_00.txt").write_text("".join(lines))
    (folder / "debug.json").write_text(json.dumps({"num_iterations_per_epoch": "10", "hostname": "secret"}))
    return folder
