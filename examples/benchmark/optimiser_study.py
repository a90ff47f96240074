"""Compare optimisers for restoration pretraining on a prepared data set: R² after the same number of steps.

    python examples/benchmark/optimiser_study.py 4 --patch 32 40 32 --batch 4 -o optimiser_hippocampus.csv

The network is the plan's, with narrower stages so that it runs on a CPU. One line a variant is appended to the CSV.
docs/pretraining.md has what it gave.
"""

import argparse
import csv
from pathlib import Path

import torch

from nnunet_genesis.folders import planned_dataset
from nnunet_genesis.training.schedule import PhasedLRScheduler, Schedule
from pretraining.options import RestorationOptions
from pretraining.trainer import nnUNetTrainerRestoration

# name: optimiser, momentum, peak learning rate, share of warm-up, largest gradient norm
VARIANTS = {
    "SGD 0.01, momentum 0.99 (nnU-Net)": ("SGD", 0.99, 1e-2, 0.0, 12.0),
    "SGD 0.1, momentum 0.9 (published, nnU-Net v1)": ("SGD", 0.9, 0.1, 0.0, 12.0),
    "SGD 1, momentum 0.9 (published, U-Net)": ("SGD", 0.9, 1.0, 0.0, 12.0),
    "AdamW 1e-4": ("AdamW", 0.9, 1e-4, 0.1, 1.0),
    "AdamW 3e-4": ("AdamW", 0.9, 3e-4, 0.1, 1.0),
    "AdamW 1e-3": ("AdamW", 0.9, 1e-3, 0.1, 1.0),
    "AdamW 3e-3": ("AdamW", 0.9, 3e-3, 0.1, 1.0),
    "AdamW 1e-3, no warm-up": ("AdamW", 0.9, 1e-3, 0.0, 1.0),
    "AdamW 1e-3, clip 12": ("AdamW", 0.9, 1e-3, 0.1, 12.0),
}


class StudyTrainer(nnUNetTrainerRestoration):
    """The restoration trainer with an optimiser of :data:`VARIANTS`."""

    variant = "AdamW 1e-3"

    def configure_optimizers(self):
        kind, momentum, lr, warmup, _ = VARIANTS[self.variant]
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        if kind == "SGD":
            optimizer = torch.optim.SGD(parameters, lr, momentum=momentum, nesterov=True, fused=True)
        else:
            optimizer = torch.optim.AdamW(parameters, lr, weight_decay=self.weight_decay, fused=True)
        schedule = Schedule("warmup", lr, (round(warmup * self.num_epochs),))
        return optimizer, PhasedLRScheduler(optimizer, schedule, self.num_epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--patch", type=int, nargs=3, required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--features", type=int, default=8, help="of the first stage")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("-o", type=Path, required=True)
    args = parser.parse_args()

    dataset = planned_dataset(args.dataset, "nnUNetPlans", "3d_fullres")
    plans = dataset.plans
    configuration = plans["configurations"]["3d_fullres"]
    kwargs = configuration["architecture"]["arch_kwargs"]
    configuration.update(patch_size=args.patch, batch_size=args.batch)
    kwargs["features_per_stage"] = [min(args.features * 2**i, 10 * args.features) for i in range(kwargs["n_stages"])]
    plans.update(plans_name="optimiserStudyPlans", continue_training=False)
    for variant in args.variants:
        for seed in args.seeds:
            trainer = StudyTrainer(dict(plans), "3d_fullres", 0, dataset.dataset_json, torch.device("cpu"))
            trainer.variant, trainer.disable_checkpointing = variant, True
            trainer.use(RestorationOptions(args.epochs, args.iterations, gradient_clip=VARIANTS[variant][4], seed=seed))
            trainer.run_training()
            log = trainer.logger.get_checkpoint()
            row = [args.dataset, variant, seed, args.epochs * args.iterations, *(round(r, 3) for r in log["r2"])]
            args.o.parent.mkdir(parents=True, exist_ok=True)
            with args.o.open("a", newline="") as file:
                csv.writer(file).writerow(row)


if __name__ == "__main__":
    main()
