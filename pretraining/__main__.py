"""Commands of the pretraining side. ``python -m pretraining`` is ``nnUNetv2_genesis_pretrain``."""

import argparse
import dataclasses
import multiprocessing
import os
from pathlib import Path

from nnunet_genesis.cli import LEFT_OUT_STATUS, number_or_all, parse, run


def prepare() -> None:
    """``nnUNetv2_genesis_prepare``: raw scans to a preprocessed, unlabelled data set."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_prepare",
        description="Prepares raw scans (DICOM series, NIfTI, MetaImage, NRRD; found recursively, read where they lie) "
        "as an unlabelled data set in nnUNet_preprocessed. Run it again to go on after an interruption or to add "
        "scans: finished ones are kept.",
        epilog=f"Exit status: 0 all scans prepared; {LEFT_OUT_STATUS} some were left out (see genesis_manifest.csv; "
        "label maps, localizers and copies alone don't count); "
        "1 an error, with a message (nothing done, or genesis_errors.log says which scans it concerns); 2 wrong usage.",
    )
    add = parser.add_argument
    add("-i", dest="inputs", type=Path, nargs="+", required=True, help="folder(s) of scans, or single files")
    add("-d", dest="dataset_id", type=int, required=True, help="id of the new data set, e.g. 701")
    add("-n", dest="name", required=True, help="name of the new data set, e.g. ChestCT")
    add("-c", dest="configurations", nargs="+", default=["3d_fullres"], help="configuration(s) [default: 3d_fullres]")
    add("-pl", dest="planner", help="planner, e.g. nnUNetPlannerResEncM [default: ExperimentPlanner]")
    add("-gpu_memory_target", type=float, help="GB the planner may plan for")
    add("--like", metavar="DATASET", help="use this data set's plans instead of planning")
    add("-p", dest="plans_name", default="nnUNetPlans", help="with --like: name of its plans [default: nnUNetPlans]")
    add("--modality", default="auto",
        help="CT, MR, PET or any name; all but CT are z-scored [default: auto, and says so]")  # fmt: skip
    add("--include_labels", action="store_true", help="prepare label maps too [default: left out]")
    add("--hu_window", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="CT: clip to these HU, not the body's percentiles; -1000 1000 as published")  # fmt: skip
    numbered = parser.add_mutually_exclusive_group()
    numbered.add_argument("--channels", type=int, nargs="?", const=True, metavar="N",
                          help="X_0000, X_0001 ... are channels of a case [default: as their folder says]; "
                          "with N also the N volumes of a 4D file")  # fmt: skip
    numbered.add_argument("--no_channels", dest="channels", action="store_const", const=False,
                          help="each file is a scan, however it is numbered")  # fmt: skip
    add("--val_fraction", type=float, default=0.1, help="share of patients held out [default: 0.1]; labels make folds")
    add("--labels", type=Path, help="CSV of the scans' classes, for classification: case,label[,group]")
    add("--candidates", type=Path, help="CSV of places in mm and their classes: case,x,y,z,label, or as LUNA16's")
    add("--ras", action="store_true", help="the candidates' coordinates are NIfTI's, not ITK's (LPS)")
    add("-np", dest="processes", type=int, default=min(8, multiprocessing.cpu_count()),
        help="processes [default: as many as cores, at most 8]")  # fmt: skip
    add("-num_parts", type=int, default=1, help="calls that share the scans [default: 1]")
    add("-part_id", type=int, metavar="ID", help="which of them this one is, from 0; the call without it merges")
    add("--no_pp", action="store_true", help="plan, and preprocess nothing")
    add("--exact", action="store_true", help="resample with nnU-Net's own functions, bit by bit")
    args = parse(parser)

    def command() -> int:
        from pretraining.preparation.options import PrepareOptions
        from pretraining.preparation.pipeline import prepare_dataset

        left_out = prepare_dataset(PrepareOptions(**vars(args)))
        if any(item.trace for item in left_out):
            return 1
        return 0 if all(item.expected for item in left_out) else LEFT_OUT_STATUS

    run(command)


def pretrain() -> None:
    """``nnUNetv2_genesis_pretrain``: pretraining on a prepared data set."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_pretrain",
        description="Pretrains the plan's network by restoring corrupted or masked patches. Works on a data set from "
        "nnUNetv2_genesis_prepare, and on any data set that nnU-Net has preprocessed.",
    )
    parser.add_argument("dataset_name_or_id", help="e.g. 701 or Dataset701_ChestCT")
    parser.add_argument("configuration", help="3d_fullres or 3d_lowres")
    parser.add_argument("-p", default="nnUNetPlans", help="plans [default: nnUNetPlans]")
    parser.add_argument(
        "-tr",
        default="nnUNetTrainerRestoration",
        metavar="TRAINER",
        help="nnUNetTrainerRestoration [default], nnUNetTrainerMasking, or a trainer of your own in a folder that "
        "nnUNet_extTrainer names (docs/objectives.md)",
    )
    parser.add_argument(
        "-f", type=number_or_all, default=0, help="fold: only its training cases are used; or all [default: 0]"
    )
    parser.add_argument("-device", choices=["cuda", "cpu", "mps"], default="cuda", help="[default: cuda]")
    parser.add_argument("-num_gpus", type=int, default=1,
                        help="processes on this machine; not with torchrun or srun [default: 1]")  # fmt: skip
    parser.add_argument("--epochs", type=int, help="[default: 1000]")
    parser.add_argument("--iterations", type=int, help="training iterations an epoch [default: 250]")
    parser.add_argument("--batch_size", type=int, help="patches a step, over all processes [default: the plans']")
    parser.add_argument("--lr", type=float, dest="peak_lr", help="peak learning rate of AdamW [default: 1e-3]")
    parser.add_argument("--warmup", type=int, dest="warmup_epochs",
                        help="epochs of warm-up [default: 50, or a tenth of a shorter run]")  # fmt: skip
    parser.add_argument(
        "--mask_ratio", type=float, help="nnUNetTrainerMasking: share of blocks to hide [default: 0.75]"
    )
    parser.add_argument("--mask_block", type=int, nargs="+", metavar="N",
                        help="their edges in voxels [default: 16, at most a fourth of the patch]")  # fmt: skip
    parser.add_argument("--seed", type=int, help="initial weights, patches and corruptions [default: 0]")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], help="[default: auto]")
    parser.add_argument("--memory_format", choices=["auto", "contiguous", "channels_last"], help="[default: auto]")
    parser.add_argument("--compile", action="store_const", const=True, help="use torch.compile")
    parser.add_argument("--init", type=Path, metavar="WEIGHTS",
                        help="begin with these weights (Genesis checkpoint): encoder and decoder")  # fmt: skip
    parser.add_argument("--licence", help="licence of the weights, recorded in the checkpoint [default: not stated; "
                        "with --init the strictest of those that they come from]")  # fmt: skip
    parser.add_argument("--c", action="store_true", help="continue from the last checkpoint, with its options")
    args = parse(parser)
    if args.num_gpus < 1:
        parser.error(f"-num_gpus {args.num_gpus}: expected at least 1")

    def command() -> None:
        if args.device == "cpu":
            # Before torch starts its threads: spinning, they would take the cores from the loader's workers.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch

        from nnunet_genesis.training.distributed import rank, rank_0_speaks
        from pretraining.options import RestorationOptions
        from pretraining.run import pretrain as run_pretraining

        if args.mask_block and len(args.mask_block) == 1:
            args.mask_block *= 3
        names = [field.name for field in dataclasses.fields(RestorationOptions)]
        options = {name: value for name in names if (value := getattr(args, name, None)) is not None}
        if args.device == "cuda":
            torch.set_num_threads(1)  # as nnUNetv2_train: more threads don't help a GPU
        with rank_0_speaks():
            final = run_pretraining(
                args.dataset_name_or_id,
                args.configuration,
                plans_name=args.p,
                fold=args.f,
                device=torch.device(args.device),
                num_gpus=args.num_gpus,
                continue_training=args.c,
                trainer=args.tr,
                init=args.init,
                **options,
            )
        if rank() == 0:
            plans = f" -p {args.p}" * (args.p != "nnUNetPlans")
            print(f'\nFine-tune from it:\n  export nnUNet_genesis_weights="{final}"\n'
                  f"  nnUNetv2_train DATASET 3d_fullres FOLD{plans} -tr nnUNetTrainerGenesis")  # fmt: skip

    run(command)


if __name__ == "__main__":
    pretrain()
