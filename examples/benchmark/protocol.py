"""The published protocol on a labelled data set: five folds, pretraining, fine-tuning, report; one command.

    python examples/benchmark/protocol.py /data/Task04_Hippocampus -o out          # published, on a GPU
    python examples/benchmark/protocol.py --download Task04_Hippocampus -o out --budget cpu --jobs 2

Of each fold, the network is pretrained on the images of the training cases alone, without their labels, and fine-tuned
on the same cases: scratch, Genesis (encoder) and GenesisFull (encoder and decoder). Label subsets (--cases) start from
their fold's pretraining. No weight depends on a validation image of its fold: pretraining draws its batches from the
fold's training cases, and its last checkpoint is used, not its best. (The R² in its log is measured on the validation
images, and nnU-Net's fingerprint and plan look at all training images of the data set, as they always do.)

--variants restoration masking … pretrains in other ways, too (trainers/genesis_variants.py has what), for an ablation.
--unlabelled SCANS pretrains once, on scans from elsewhere with the labelled data's plans; all folds start from there.

Run it again to go on: finished steps are skipped, interrupted ones continue from their last checkpoint.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from protocol_data import dataset_name, download, is_msd, link_or_clear
from protocol_jobs import Job, cores, run_jobs
from protocol_options import ARMS, VARIANTS, Budget, arguments, budget_of, refuse_other_settings
from protocol_plans import CONFIGURATION, time_steps, write_small_plans

from nnunet_genesis.cli import trainers_folder

# Patch and batch of the small plans. A batch of one would take torch's slow convolutions on a CPU.
SMALL_VOXELS, SMALL_BATCH = 93_000, 2

# nnU-Net's variables that change how fast it is, not what it does.
KEPT = ("nnUNet_compile", "nnUNet_n_proc_DA", "nnUNet_def_n_proc")

UNLABELLED = "Dataset999_Unlabelled"


class Protocol:
    """The jobs of one data set; everything lies under ``args.o``."""

    def __init__(self, args: argparse.Namespace, source: Path):
        self.args, self.out, self.source = args, args.o.resolve(), source
        self.dataset = dataset_name(source)
        self.id = str(int(self.dataset[7:10]))
        self.budget = budget_of(args)
        self.small = args.budget == "cpu"
        self.plans = "nnUNetHalfPlans" if self.small else "nnUNetPlans"
        self.threads = max(1, cores() // args.jobs)
        self.environment = self._environment()
        self.preprocessed = self.out / "nnUNet_preprocessed" / self.dataset

    def _environment(self) -> dict[str, str]:
        environment = {n: value for n, value in os.environ.items() if n in KEPT or not n.lower().startswith("nnunet_")}
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (self.out / name).mkdir(parents=True, exist_ok=True)
            environment[name] = str(self.out / name)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        folders = [trainers_folder(), Path(__file__).resolve().parent / "trainers"]
        return environment | {"nnUNet_extTrainer": os.pathsep.join(map(str, folders))}

    def on_cpu(self) -> dict[str, str]:
        """What keeps parallel jobs off each other's cores."""
        if self.args.device != "cpu":
            return {}
        threads = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        return threads | {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"}

    def set_up(self) -> list[Job]:
        """Raw data, plans, preprocessed data, splits."""
        raw = self.out / "nnUNet_raw" / self.dataset
        link_or_clear(self.source, raw.parent)
        prepare = ["nnUNetv2_plan_and_preprocess", "-d", self.id, "-c", CONFIGURATION, "-np", str(cores())]
        prepare += ["-overwrite_target_spacing", *map(str, self.args.spacing)] if self.args.spacing else []
        group = ["--group_by", self.args.group_by] if self.args.group_by else []
        split = ["nnUNetv2_genesis_split", "-d", self.id, "--cases", *map(str, self.args.cases), "--seed",
                 str(self.args.seed), "--folds", str(max(self.args.folds) + 1), *group]  # fmt: skip
        jobs = [
            Job("plan and preprocess", prepare, self._is_preprocessed),
            Job("split", split, lambda: all(self.numbers().get((f, c)) is not None for f, c in self.subsets())),
        ]
        convert = ["nnUNetv2_convert_MSD_dataset", "-i", str(self.source), "-np", str(cores())]
        return ([Job("convert", convert, (raw / "dataset.json").exists)] if is_msd(self.source) else []) + jobs

    def _is_preprocessed(self) -> bool:
        folder = self.preprocessed / f"nnUNetPlans_{CONFIGURATION}"
        cases = list((self.out / "nnUNet_raw" / self.dataset / "labelsTr").glob("[!.]*"))
        return 0 < len(cases) <= len(list(folder.glob("*.pkl")))

    def subsets(self) -> list[tuple[int, str]]:
        """(fold, cases), as asked for."""
        return [(fold, cases) for fold in self.args.folds for cases in self.args.cases]

    def numbers(self) -> dict[tuple[int, str], int]:
        """(fold, cases) → number of the fold, from nnUNetv2_genesis_split's map."""
        file = self.preprocessed / "genesis_splits.json"
        known = json.loads(file.read_text(encoding="utf-8"))["folds"] if file.exists() else {}
        mine = {number: subset for number, subset in known.items() if subset["seed"] in (None, self.args.seed)}
        return {(subset["fold"], str(subset["cases"])): int(number) for number, subset in mine.items()}

    def preparing(self) -> Job:
        """Preparing the unlabelled scans with the labelled data's plans."""
        command = ["nnUNetv2_genesis_prepare", "-i", *(self.args.unlabelled or ()), "-d", UNLABELLED[7:10], "-n",
                   UNLABELLED[11:], "--like", self.id, "-p", self.plans, "-np", str(cores())]  # fmt: skip
        split = self.preprocessed.parent / UNLABELLED / "splits_final.json"
        return Job("prepare unlabelled scans", command, split.exists, statuses=(0, 3))

    def pretraining(self, fold: int, variant: str = VARIANTS[0]) -> Job:
        """Pretraining on the images of a fold's training cases, or on the unlabelled scans."""
        b, trainer = self.budget, named("nnUNetTrainerRestoration", variant)
        dataset, number = self.pretrained_on(fold)
        command = ["nnUNetv2_genesis_pretrain", dataset, CONFIGURATION, "-p", self.plans, "-tr", trainer, "-f",
                   str(number), "-device", self.args.device, "--epochs", str(b.pretraining_epochs), "--iterations",
                   str(b.pretraining_iterations), "--lr", str(b.pretraining_lr), "--seed", str(self.args.seed),
                   "--c"]  # fmt: skip
        command += ["--batch_size", str(b.pretraining_batch_size)] if b.pretraining_batch_size else []
        name, after = (f"fold {fold}", ()) if dataset == self.dataset else ("unlabelled scans", (self.preparing(),))
        done = self.final(trainer, dataset, number).exists
        return Job(f"pretrain {variant}, {name}", command, done, self.on_cpu(), after)

    def pretrained_on(self, fold: int) -> tuple[str, int]:
        """Data set and fold of the pretraining that a fold starts from."""
        return (UNLABELLED, 0) if self.args.unlabelled else (self.dataset, fold)

    def final(self, trainer: str, dataset: str, number: int) -> Path:
        """A trainer's last checkpoint."""
        run = self.out / "nnUNet_results" / dataset / f"{trainer}__{self.plans}__{CONFIGURATION}"
        return run / f"fold_{number}" / "checkpoint_final.pth"

    def fine_tuning(self, fold: int, cases: str, arm: str, pretrained: Job, variant: str = VARIANTS[0]) -> Job:
        """Fine-tuning and validation on a fold or its subset."""
        number, b = self.numbers()[fold, cases], self.budget
        variables = {
            "epochs": b.epochs,
            "iterations": b.iterations,
            "schedule": b.schedule,
            "optimizer": b.optimizer,
            "precision": b.precision,
            "seed": self.args.seed,
        }
        variables |= {"peak_lr": b.lr} if b.lr else {}
        variables |= {} if b.mirroring else {"mirroring": 0}
        if arm != "scratch":
            variables["weights"] = self.final(named("nnUNetTrainerRestoration", variant), *self.pretrained_on(fold))
            variables |= {"unit_variance": b.unit_variance} if b.unit_variance != "auto" else {}
        trainer = ARMS[arm] if arm == "scratch" else named(ARMS[arm], variant)
        command = [*self._train(), self.id, CONFIGURATION, str(number), "-p", self.plans, "-tr", trainer, "-device",
                   self.args.device, "--c"]  # fmt: skip
        environment = {f"nnUNet_genesis_{name}": str(value) for name, value in variables.items()}
        summary = self.final(trainer, self.dataset, number).parent / "validation" / "summary.json"
        name = f"{arm if arm == 'scratch' else f'{arm} after {variant}'}, fold {fold}, {cases} cases"
        after = () if arm == "scratch" else (pretrained,)
        return Job(name, command, summary.exists, self.on_cpu() | environment, after)

    def _train(self) -> list[str]:
        if self.args.device != "cpu":
            return ["nnUNetv2_train"]
        # nnUNetv2_train takes all cores on a CPU, whatever OMP_NUM_THREADS says; parallel jobs must share them.
        code = f"import os; os.cpu_count = lambda: {self.threads}; import nnunetv2.run.run_training as run; "
        code += "run.run_training_entry()"
        return [sys.executable, "-c", code]

    def jobs(self) -> list[Job]:
        """All pretrainings and fine-tunings, fold by fold, with estimated minutes."""
        step, tile, tiles = time_steps(self.preprocessed, self.plans, self.args.device, self.threads)
        splits, b = json.loads((self.preprocessed / "splits_final.json").read_text(encoding="utf-8")), self.budget
        jobs = [self.preparing()] if self.args.unlabelled else []
        for fold, variant in itertools.product(self.args.folds, self.args.variants):
            minutes = b.pretraining_epochs * b.pretraining_iterations * step * 1.1 / 60
            pretrained = replace(self.pretraining(fold, variant), minutes=minutes)
            known = {job.name for job in jobs}
            jobs += [pretrained] if set(self.args.arms) - {"scratch"} and pretrained.name not in known else []
            validation = len(splits[fold]["val"]) * tiles * (8 if b.mirroring else 1) * tile
            minutes = (b.epochs * b.iterations * step * 1.1 + validation) / 60
            for cases, arm in itertools.product(self.args.cases, self.args.arms):
                if arm != "scratch" or variant == self.args.variants[0]:  # scratch needs no pretraining
                    job = self.fine_tuning(fold, cases, arm, pretrained, variant)
                    jobs.append(replace(job, minutes=minutes))
        return jobs

    def report(self) -> Job:
        """The report, made anew every time, and what it is made from, in ``results`` (to be kept: no images, small)."""
        start, page = time.time(), self.out / "report" / "report.html"
        arms, variants = self.args.arms, self.args.variants
        baseline = ARMS["scratch"] if "scratch" in arms else named(ARMS[arms[0]], variants[0])
        command = ["nnUNetv2_genesis_report", "-d", self.id, "-o", str(page.parent), "--baseline", baseline,
                   "--export", str(self.out / "results")]  # fmt: skip
        return Job("report", command, lambda: page.exists() and page.stat().st_mtime >= start)

    def differences(self) -> list[tuple[str, Any, Any]]:
        """How this run differs from the published protocol: (what, published, here)."""
        found = [(f.metadata["what"], f.default, getattr(self.budget, f.name)) for f in fields(Budget)]
        if self.small:
            found += write_small_plans(self.preprocessed, self.plans, SMALL_VOXELS, SMALL_BATCH, self.args.patch)
        found += [("folds", list(range(5)), self.args.folds), ("arms", list(ARMS), self.args.arms)]
        found += [("pretraining", [VARIANTS[0]], self.args.variants), ("target spacing in mm", None, self.args.spacing)]
        found += [("other scans for pretraining", None, self.args.unlabelled)]
        return [row for row in found if row[1] != row[2]]

    def refuse_other_settings(self) -> None:
        """Results under ``-o`` must all be made alike."""
        names = ("budget", "seed", "group_by", "patch", "spacing", "unlabelled")
        settings = {**asdict(self.budget), **{name: getattr(self.args, name) for name in names}, "data": self.dataset}
        refuse_other_settings(self.out / "protocol.json", settings, asdict(Budget()))


def named(trainer: str, variant: str) -> str:
    """The name of a trainer's variant, as trainers/genesis_variants.py has it."""
    return trainer if variant == VARIANTS[0] else f"{trainer}_{variant}"


def _print_plan(protocol: Protocol, jobs: Sequence[Job]) -> None:
    print("\nDifferences from the published protocol:")
    for what, published, here in protocol.differences():
        print(f"  {what}: published {published}, here {here}")
    print("\nEstimated minutes (network and validation; loading comes on top), and state:")
    for job in jobs:
        print(f"  {job.minutes:7.1f}  {'done' if job.done() else 'to do'}  {job.name}")
    total = sum(job.minutes for job in jobs if not job.done()) / 60 / protocol.args.jobs
    print(f"To do: {total:.1f} hours with --jobs {protocol.args.jobs}\n", flush=True)


def _stop(failed: Sequence[str]) -> None:
    if failed:
        sys.exit("ERROR: failed: " + "; ".join(failed) + ". What is finished is kept; run the command again to go on.")


def main(argv: Sequence[str] | None = None) -> None:
    """Set up, print the plan, run it, report."""
    args = arguments(__doc__, argv)
    source = download(args.download, args.o / "download") if args.download else args.data
    protocol = Protocol(args, source.resolve())
    protocol.refuse_other_settings()
    _stop(run_jobs(protocol.set_up(), protocol.out, protocol.environment))
    protocol.differences()  # writes the small plans
    jobs = protocol.jobs()
    _print_plan(protocol, jobs)
    if args.dry_run:
        return
    failed = run_jobs(jobs, protocol.out, protocol.environment, args.jobs)
    _stop(failed + run_jobs([protocol.report()], protocol.out, protocol.environment))


if __name__ == "__main__":
    main()
