"""The part of nnU-Net's results that a report needs, small enough to be committed: no images, no paths, no weights."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_genesis.comparison.curves import EPOCH, PSEUDO_DICE
from nnunet_genesis.comparison.results import Run
from nnunet_genesis.comparison.surface import FILE
from nnunet_genesis.files import read_json
from nnunet_genesis.folders import SUBSETS

KEPT = ("iterations", "num_iterations_per_epoch", "num_epochs", "initial_lr", "batch_size")  # of debug.json


def export_results(name: str, runs: Sequence[Run], subsets_file: Path, target: Path) -> None:
    """Write ``target/DatasetXXX_NAME`` in nnU-Net's layout; ``nnUNetv2_genesis_report --results target`` reads it."""
    for run in runs:
        model = target / name / run.folder.parent.name
        fold = model / run.folder.name
        (fold / "validation").mkdir(parents=True, exist_ok=True)
        for file in ("dataset.json", "plans.json"):
            if not (model / file).exists():
                shutil.copy(run.folder.parent / file, model / file)
        _write(fold / "validation" / "summary.json", {"metric_per_case": [_case(*case) for case in run.metrics()]})
        if (run.validation / FILE).exists():
            shutil.copy(run.validation / FILE, fold / "validation" / FILE)
        if (run.folder / "debug.json").exists():
            debug = read_json(run.folder / "debug.json")
            _write(fold / "debug.json", {key: debug[key] for key in KEPT if key in debug})
        for log in run.folder.glob("training_log_*.txt"):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if EPOCH.search(line) or PSEUDO_DICE.search(line)]
            (fold / log.name).write_text("\n".join(kept) + "\n", encoding="utf-8")
    if subsets_file.exists() and subsets_file != target / name / SUBSETS:
        shutil.copy(subsets_file, target / name / SUBSETS)


def _case(_: str, reference: str, dice: dict[str, float]) -> dict[str, Any]:
    metrics = {label: {"Dice": value} for label, value in dice.items()}
    return {"reference_file": re.split(r"[/\\]", reference)[-1], "metrics": metrics}


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
