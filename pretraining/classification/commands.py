"""``nnUNetv2_genesis_classify`` and ``nnUNetv2_genesis_features``. Help never imports torch."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_genesis.cli import LEFT_OUT_STATUS, number_or_all, parse, run
from nnunet_genesis.errors import GenesisError

if TYPE_CHECKING:
    from pretraining.scans.scan import LeftOut


def classify() -> None:
    """``nnUNetv2_genesis_classify``: probabilities of raw scans, or of candidates in them."""
    parser = _parser(
        "nnUNetv2_genesis_classify",
        "Classifies raw scans (DICOM series, NIfTI, MetaImage, NRRD), or candidates in them, with what "
        "nnUNetTrainerGenesisClassifier trained: a row a scan or candidate, a column a class.",
        "the CSV to write",
    )
    add = parser.add_argument
    add("-d", required=True, metavar="DATASET", help="id or name of the data set it was trained on")
    add("-c", required=True, metavar="CONFIG", help="configuration, e.g. 3d_fullres")
    add("-p", default="nnUNetPlans", help="plans [default: nnUNetPlans]")
    folds = [0, 1, 2, 3, 4]
    add("-f", nargs="+", type=number_or_all, default=folds, help="folds, averaged [default: 0 1 2 3 4]")
    trainer = "nnUNetTrainerGenesisClassifier"
    add("-tr", default=trainer, metavar="TRAINER", help=f"[default: {trainer}]")
    add("--candidates", type=Path, help="CSV of places in mm (ITK's LPS), e.g. LUNA16's candidates_V2.csv")
    add("--ras", action="store_true", help="the candidates' coordinates are NIfTI's")
    add("--masks", type=Path, help="folder of the regions' masks, for a model trained on regions")
    args = parse(parser)

    def work(device: Any) -> "list[LeftOut]":
        from pretraining.classification.classify import classify, load_folds

        models = load_folds(args.d, args.c, args.p, args.f, args.tr, device)
        return classify(args.i, args.o, models, device, args.candidates, args.ras, args.masks)

    _run(args, work)


def features() -> None:
    """``nnUNetv2_genesis_features``: pooled vectors of an encoder."""
    parser = _parser(
        "nnUNetv2_genesis_features",
        "Writes a vector a scan: an encoder's outputs, averaged over the body. Beside it a picture of the first two "
        "principal components.",
        "NAME.csv, or NAME.npz",
    )
    add = parser.add_argument
    add("weights", type=Path, help="a Genesis checkpoint, or a trained model's folder")
    add("-f", type=number_or_all, default=0, help="fold of a trained model [default: 0]")
    add("--stages", type=int, nargs="+", help="stages of the encoder, from 0 [default: the last]")
    add("--labels", type=Path, help="label file (case,label) that colours the picture")
    args = parse(parser)

    def work(device: Any) -> "list[LeftOut]":
        from pretraining.classification.features import extract, load

        model = load(args.weights, str(args.f), device)
        return extract(args.i, args.o, model, device, args.stages, args.labels)

    _run(args, work)


def _parser(name: str, description: str, output: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=f"Exit status: 0 all scans done; {LEFT_OUT_STATUS} some were left out, and named; 1 an error, with a "
        "message (nothing done, or genesis_errors.log beside the output says which scans it concerns).",
    )
    parser.add_argument("-i", type=Path, nargs="+", required=True, help="folder(s) of scans, or single files")
    parser.add_argument("-o", type=Path, required=True, help=output)
    parser.add_argument("-device", choices=["cuda", "cpu", "mps"], default="cuda", help="[default: cuda]")
    return parser


def _run(args: argparse.Namespace, work: "Callable[[Any], list[LeftOut]]") -> None:
    """Do the work on the device, and name what it leaves out."""

    def command() -> int:
        import torch

        from nnunet_genesis.files import disk_in_words
        from nnunet_genesis.training.distributed import check_gpus
        from pretraining.preparation.manifest import log_errors

        if os.path.isdir(args.o):
            raise GenesisError(f"-o {args.o}: expected a file to write, found a folder. Name a file in it.")
        check_gpus(torch.device(args.device))
        with disk_in_words(args.o, "run the same command again."):
            args.o.parent.mkdir(parents=True, exist_ok=True)
            left_out = work(torch.device(args.device))
            log_errors(args.o.parent, left_out)
        print(f"Written: {args.o}")
        for item in left_out:
            print(f"  left out: {item.source}: {item.reason}")
        if any(item.trace for item in left_out):
            return 1
        return 0 if all(item.expected for item in left_out) else LEFT_OUT_STATUS

    run(command)
