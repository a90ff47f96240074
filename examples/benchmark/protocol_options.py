"""What a protocol can be told, and the budgets: the published one, and one for two CPU cores and a few hours."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from protocol_data import MD5

# Of pretraining: restoration, and what trainers/genesis_variants.py has.
VARIANTS = ("restoration", "shuffling", "intensity", "inpainting", "outpainting", "zscored", "masking")
ARMS = {"scratch": "nnUNetTrainerGenesisScratch", "genesis": "nnUNetTrainerGenesis", "full": "nnUNetTrainerGenesisFull"}


def _published(value: Any, what: str) -> Any:
    return field(default=value, metadata={"what": what})


@dataclass(frozen=True)
class Budget:
    """How long; the defaults are the published protocol's."""

    pretraining_epochs: int = _published(1000, "epochs of pretraining")
    pretraining_iterations: int = _published(250, "iterations of an epoch of pretraining")
    pretraining_lr: float = _published(1e-3, "peak learning rate of pretraining")
    epochs: int = _published(1000, "epochs of fine-tuning")
    iterations: int = _published(250, "iterations of an epoch of fine-tuning")
    lr: float = _published(0.0, "peak learning rate of fine-tuning (0: by the run's length, docs/schedules.md)")
    optimizer: str = _published("sgd", "optimiser of fine-tuning")
    precision: str = _published("fp32", "number format of fine-tuning on a CPU")
    unit_variance: str = _published("auto", "loaded kernels scaled to unit variance (auto: with sgd; 0, 1)")
    schedule: str = _published("warmup", "schedule of fine-tuning: warmup, sawtooth or poly")
    mirroring: int = _published(1, "mirroring in fine-tuning and prediction (0 tells left from right)")
    pretraining_batch_size: int = _published(0, "batch size of pretraining (0: as planned)")


BUDGETS = {"full": Budget(), "cpu": Budget(25, 80, 2e-3, 25, 30, precision="auto")}


def budget_of(args: argparse.Namespace) -> Budget:
    """The budget, with what was given on the command line."""
    given = {item.name: getattr(args, item.name) for item in fields(Budget)}
    return replace(BUDGETS[args.budget], **{name: value for name, value in given.items() if value is not None})


def _cases(text: str) -> str:
    if not re.fullmatch(r"all|[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"expected a number or 'all', found {text!r}")
    return text


def arguments(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, nargs="?", help="TaskXX_NAME of the MSD, or DatasetXXX_NAME in nnU-Net's format")
    add("-o", type=Path, required=True, help="folder for everything: data, checkpoints, logs, report")
    add("--download", choices=sorted(MD5), help="in place of a folder: fetch this task of the MSD over https")
    add("--budget", choices=sorted(BUDGETS), default="full", help="[default: full]")
    add("--folds", type=int, nargs="+", default=list(range(5)), help="[default: 0 1 2 3 4]")
    add("--cases", type=_cases, nargs="+", default=["all"], help="label subsets too, e.g. 4 16 all [default: all]")
    add("--arms", choices=ARMS, nargs="+", default=list(ARMS), help="[default: scratch genesis full]")
    add("--seed", type=int, default=0, help="of subsets, pretraining and fine-tuning [default: 0]")
    add("--group_by", help=r"pattern that names the patient in a case's name, e.g. 'patient\d+'")
    add("--variants", choices=VARIANTS, nargs="+", default=[VARIANTS[0]], help="of pretraining [default: restoration]")
    add("--unlabelled", nargs="+", metavar="SCANS", help="pretrain on these [default: each fold's training images]")
    add("--patch", type=int, nargs=3, metavar="N", help="with --budget cpu: patch size, z y x")
    add("--spacing", type=float, nargs=3, metavar="MM", help="coarser target spacing, z y x [default: as planned]")
    for item in fields(Budget):
        add(f"--{item.name}", type=type(item.default), help=item.metadata["what"])
    add("--device", choices=["cuda", "cpu", "mps"], help="[default: cuda; cpu with --budget cpu]")
    add("--jobs", type=int, default=1, help="runs at a time [default: 1]")
    add("--dry_run", action="store_true", help="set up, print the plan, train nothing")
    args = parser.parse_args(argv)
    if (args.data is None) == (args.download is None):
        parser.error("give the data set's folder, or --download TASK")
    args.unlabelled = [str(Path(scans).resolve()) for scans in args.unlabelled] if args.unlabelled else None
    if args.patch and args.budget != "cpu":
        parser.error("--patch goes with --budget cpu")
    args.device = args.device or ("cpu" if args.budget == "cpu" else "cuda")
    return args


def refuse_other_settings(file: Path, settings: dict[str, Any], defaults: dict[str, Any] | None = None) -> None:
    """Stop unless all results in a folder are made alike; ``defaults``: of settings that early versions lacked."""
    found = (defaults or {}) | json.loads(file.read_text(encoding="utf-8")) if file.exists() else settings
    if other := {name: found.get(name) for name, value in settings.items() if found.get(name) != value}:
        sys.exit(f"ERROR: {file}: made with {other}. Use the same settings, or another folder with -o.")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=1), encoding="utf-8")
