"""Commands of the fine-tuning side, one function each. Help never imports torch."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from nnunet_genesis.errors import GenesisError

LEFT_OUT_STATUS = 3  # of commands that read raw scans
# The same as nnunet_genesis.importers.FORMATS, which needs torch.
WEIGHT_FORMATS = ("nnunet_v1", "genesis_unet3d", "keras", "nnssl", "nnunet_v2", "genesis")


def run(command: Callable[[], int | None]) -> None:
    """Run a command; a :class:`GenesisError` becomes one message on stderr and exit status 1, Ctrl-C status 130."""
    try:
        sys.exit(command() or 0)
    except GenesisError as error:
        sys.exit(f"ERROR: {error}")
    except KeyboardInterrupt:
        print("Interrupted. What is finished is kept; run the command again (pretrain: with --c).")
        sys.exit(130)


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; where a shell asks, complete it (``pip install "nnunet-genesis[completion]"``)."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser.parse_args()


def trainers_folder() -> Path:
    """Return the folder of the trainer shim, one of those that ``nnUNet_extTrainer`` must name."""
    return Path(__file__).resolve().parent / "trainers"


def trainers() -> None:
    """``nnUNetv2_genesis_trainers``: print what ``nnUNet_extTrainer`` must be: our folder, then those it has now."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_trainers",
        description="Prints the folders that nnU-Net must search for trainers: that of the Genesis trainers, and those "
        'that nnUNet_extTrainer names already. Use it as: export nnUNet_extTrainer="$(nnUNetv2_genesis_trainers)"',
    )
    parse(parser)
    named = os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)  # as nnU-Net does
    print(os.pathsep.join(dict.fromkeys([str(trainers_folder()), *filter(str.strip, named)])))


def export() -> None:
    """``nnUNetv2_genesis_export``: give a model away."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_export",
        description="Copies a fine-tuned model so that stock nnU-Net, without nnunet-genesis, predicts with it "
        "(--stock), or writes a checkpoint as a repository for a model hub (--hub). Nothing is uploaded.",
    )
    parser.add_argument("model", type=Path, help="--stock: TRAINER__PLANS__CONFIG folder in nnUNet_results; --hub: a "
                        "checkpoint of a pretraining or fine-tuning, or imported weights")  # fmt: skip
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--stock", action="store_true", help="rewrite trainer_name to nnUNetTrainer")
    what.add_argument("--hub", type=Path, metavar="FOLDER", help="write checkpoint, adaptation plan, config and model "
                      "card into this new folder, without patients' data and paths")  # fmt: skip
    parser.add_argument("-o", type=Path, default=None, help="--stock: output folder [default: beside the original]")
    parser.add_argument("--licence", help="--hub: of the weights [default: what they say, or the strictest of theirs]")
    parser.add_argument("--panels", action="store_true",
                        help="--hub: also the run's last picture of restored slices. They are a patient's")  # fmt: skip
    args = parse(parser)
    if args.hub and args.o:
        parser.error("-o: not with --hub, which names the folder")
    if args.stock and (args.licence or args.panels):
        parser.error("--licence, --panels: with --hub only")

    def command() -> None:
        if args.stock:
            from nnunet_genesis.sharing.stock_export import export_stock

            print(export_stock(args.model, args.o))
        else:
            from nnunet_genesis.sharing.hub_export import export_hub, to_text

            card = export_hub(args.model, args.hub, licence=args.licence, panels=args.panels)
            print(to_text(card, args.hub, args.panels))

    run(command)


def plan() -> None:
    """``nnUNetv2_genesis_plan``: plans for a network that nnU-Net's own planners don't know."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_plan",
        description="Plans a data set for a network that is given: that of any weights (--for), or the original Models "
        "Genesis 3D U-Net (--architecture), so that they fit whole. Normalisation, resampling, spacing and the rules "
        "for patch and batch size are nnU-Net's. A missing fingerprint is extracted first.",
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="id or name of a data set in nnUNet_raw")
    parser.add_argument("--for", dest="weights_for", type=Path, metavar="WEIGHTS",
                        help="Genesis checkpoint whose network is planned, and which the plans name")  # fmt: skip
    parser.add_argument("--patch", type=int, nargs=3, metavar="VOXELS", help="--for: z y x [default: nnU-Net's rule]")
    parser.add_argument("--batch_size", type=int, help="--for: patches [default: nnU-Net's rule]")
    parser.add_argument("--spacing", choices=["dataset", "pretrained"], default="dataset",
                        help="--for: the data set's spacing, or the weights' [default: dataset]")  # fmt: skip
    parser.add_argument("--architecture", choices=["genesis_unet3d"], help="[default, without --for: genesis_unet3d]")
    parser.add_argument("--weights", type=Path, help="without --for: Genesis checkpoint to be named in the plans")
    parser.add_argument("-gpu_memory_target", type=float, default=8, metavar="GB", help="GPU memory [default: 8]")
    parser.add_argument("-overwrite_target_spacing", type=float, nargs=3, default=None, metavar="MM",
                        help="without --for: spacing of 3d_fullres, z y x, not the data set's median")  # fmt: skip
    parser.add_argument("-overwrite_plans_name", metavar="NAME",
                        help="[default: nnUNetGenesisUNet3DPlans, with --for nnUNetGenesisPlans]")  # fmt: skip
    args = parse(parser)
    for_weights = {"--patch": args.patch, "--batch_size": args.batch_size, "--spacing": args.spacing != "dataset"}
    others = {"--architecture": args.architecture, "--weights": args.weights,
              "-overwrite_target_spacing": args.overwrite_target_spacing}  # fmt: skip
    wrong = [name for name, value in (others if args.weights_for else for_weights).items() if value]
    if wrong:
        parser.error(f"{', '.join(wrong)}: not {'with' if args.weights_for else 'without'} --for")

    def command() -> None:
        from nnunet_genesis.architectures import planning

        file = planning.plan_network(
            args.d,
            args.weights_for or args.weights,
            whole=bool(args.weights_for),
            patch_size=args.patch,
            batch_size=args.batch_size,
            spacing=args.overwrite_target_spacing,
            pretrained_spacing=args.spacing == "pretrained",
            gpu_memory_target=args.gpu_memory_target,
            plans_name=args.overwrite_plans_name,
        )
        print(planning.summary(file))

    run(command)


def import_() -> None:
    """``nnUNetv2_genesis_import``: released weights as a Genesis checkpoint."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_import",
        description="Makes a Genesis checkpoint of released weights: the Models Genesis authors' files, nnssl / "
        "OpenMind checkpoints, and checkpoints of supervised nnU-Net training. Nothing in the file is run.",
    )
    parser.add_argument("weights", help="the file of weights; a repository's folder, whose README names licence and "
                        "citations; or hf:ORG/NAME[@REVISION], which is fetched from the Hugging Face hub")  # fmt: skip
    parser.add_argument("-o", type=Path, required=True, help="the new checkpoint: .pth, or .safetensors for sharing")
    parser.add_argument("--format", default=None, choices=WEIGHT_FORMATS, help="[default: told from the content]")
    parser.add_argument("--keep_axes", action="store_true", help="leave the axes of the authors' files as (x, y, z) "
                        "[default: reversed, to nnU-Net's (z, y, x)]")  # fmt: skip
    parser.add_argument("--licence", help="of the weights [default: the README's, else the file's]")
    parser.add_argument("--source", help="where they come from, for the record, e.g. a DOI")
    args = parse(parser)

    def command() -> None:
        from nnunet_genesis import checkpoint, importers
        from nnunet_genesis.files import disk_in_words
        from nnunet_genesis.importers import hub
        from nnunet_genesis.inspection import import_text

        if args.o.exists():
            raise GenesisError(f"{args.o}: exists already. Move it away, or choose another file with -o.")
        if not args.o.resolve().parent.is_dir():
            raise GenesisError(f"{args.o}: expected an existing folder for it, found none. Make it first.")
        weights, fetched = hub.fetch(args.weights) if args.weights.startswith(hub.PREFIX) else (args.weights, None)
        imported = importers.convert(weights, args.format, args.keep_axes, args.licence, args.source or fetched)
        text = import_text(imported, args.o)
        with disk_in_words(args.o, "run the same command again."):
            checkpoint.save(imported.checkpoint, args.o)
        print(text)

    run(command)


def inspect() -> None:
    """``nnUNetv2_genesis_inspect``: what weights are, and what a data set's network would take of them."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_inspect",
        description="Says what weights are: network, data, spacing, normalisation, training, licence, citation. With a "
        "data set, also what nnUNetTrainerGenesis would transfer, stage by stage, and the command to run. Trains and "
        "changes nothing. Exit status: 0 the trainer would take them, 1 it would not (or they can't be read).",
    )
    parser.add_argument("weights", type=Path, help="Genesis checkpoint, or released weights (as for import)")
    parser.add_argument("-d", metavar="DATASET", default=None, help="id or name of a planned data set")
    parser.add_argument("-c", metavar="CONFIG", default="3d_fullres", help="configuration [default: 3d_fullres]")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="plans [default: nnUNetPlans]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parse(parser)

    def command() -> int:
        from nnunet_genesis.inspection import inspect_weights

        text, refused = inspect_weights(args.weights, args.d, args.c, args.p, as_json=args.json)
        print(text)
        return int(refused)

    run(command)


def number_or_all(text: str) -> int | str:
    """Parse an argument that is a number or ``all``."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number or 'all', found {text!r}")
    return text if text == "all" else int(text)


def split() -> None:
    """``nnUNetv2_genesis_split``: nested label subsets as extra folds."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_split",
        description="Adds nested subsets of each fold's training cases to splits_final.json as extra folds, for a "
        "label-efficiency curve. Validation cases stay the fold's. Existing folds keep their numbers; running it again "
        "changes nothing. What each number stands for is printed, and stored in genesis_splits.json.",
    )
    parser.add_argument("-d", nargs="+", required=True, metavar="DATASET", help="id(s) or name(s), preprocessed")
    parser.add_argument("--cases", nargs="+", type=number_or_all, required=True, metavar="N",
                        help="training cases (patients, with --group_by), e.g. 4 8 16 32 all")  # fmt: skip
    parser.add_argument("--folds", type=int, default=5, help="subset the first N folds [default: 5]")
    parser.add_argument("--seed", type=int, default=0, help="which cases come first [default: 0]")
    parser.add_argument("--group_by", default=None, metavar="REGEX",
                        help=r"what names the patient at the start of a case's name, e.g. 'patient\d+': subsets, "
                        "and folds made here, are then by patient")  # fmt: skip
    args = parse(parser)

    def command() -> None:
        from nnunet_genesis.comparison.subsets import add_subsets, to_text
        from nnunet_genesis.files import disk_in_words
        from nnunet_genesis.folders import dataset_name, nnunet_folder

        base = nnunet_folder("nnUNet_preprocessed")
        for name in map(dataset_name, args.d):
            with disk_in_words(base / name, "run the command again."):
                subsets = add_subsets(base / name, args.cases, folds=args.folds, seed=args.seed, group_by=args.group_by)
            print(name, to_text(subsets), sep="\n")

    run(command)


def report() -> None:
    """``nnUNetv2_genesis_report``: statistics and figures of nnU-Net's results."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_report",
        description="Compares the validation results of all trainers of a data set: Dice and NSD per class with "
        "intervals over cases and training runs, one test a question with Holm's correction, label-efficiency and "
        "training curves, overlays. Writes report.html (one file, needs no network), report.csv and the figures.",
    )
    parser.add_argument("-d", nargs="+", default=[], metavar="DATASET",
                        help="id or name of data set(s); may be left out with --results")  # fmt: skip
    parser.add_argument("-o", type=Path, required=True, help="folder of the report; or NAME.html, for the page alone")
    parser.add_argument("--results", type=Path, nargs="+", default=None, metavar="FOLDER",
                        help="with DatasetXXX_NAME folders, e.g. an --export; of several, the further ones hold the "
                        "same arms trained again, e.g. with another seed [default: nnUNet_results]")  # fmt: skip
    parser.add_argument("--baseline", default="nnUNetTrainerGenesisScratch", metavar="TRAINER",
                        help="what the others are tested against [default: nnUNetTrainerGenesisScratch; classifiers: "
                        "nnUNetTrainerGenesisClassifierScratch]")  # fmt: skip
    parser.add_argument("--nsd_tolerance", type=float, default=None, metavar="MM",
                        help="0 or more [default: as exported, or the median edge of the planned voxels]")  # fmt: skip
    parser.add_argument("--export", type=Path, default=None, metavar="FOLDER",
                        help="also write what it is made from: small tables, without images")  # fmt: skip
    args = parse(parser)
    if not args.d and args.results is None:
        parser.error("give -d, or --results")

    def command() -> None:
        from nnunet_genesis.comparison.report import write_report
        from nnunet_genesis.files import disk_in_words

        options = {"baseline": args.baseline, "tolerance": args.nsd_tolerance, "export": args.export}
        with disk_in_words(args.o, "run the command again."):
            print(write_report(args.d, args.o, args.results, **options))

    run(command)
