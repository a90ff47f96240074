"""``nnUNetv2_genesis_classify`` and ``nnUNetv2_genesis_features``. Help never imports torch."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_genesis.cli import LEFT_OUT_STATUS, number_or_all, parse, run

if TYPE_CHECKING:
    from pretraining.scans.scan import LeftOut

_EPILOG = (
    f"Exit status: 0 all scans done; {LEFT_OUT_STATUS} some were left out, and named; 1 nothing done, with a message."
)


def classify() -> None:
    """``nnUNetv2_genesis_classify``: probabilities of raw scans, or of candidates in them."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_classify",
        description="Classifies raw scans (DICOM series, NIfTI, MetaImage, NRRD), or candidates in them, with what "
        "nnUNetTrainerGenesisClassifier trained: a row a scan or candidate, a column a class.",
        epilog=_EPILOG,
    )
    parser.add_argument("-i", type=Path, nargs="+", required=True, help="folder(s) of scans, or single files")
    parser.add_argument("-o", type=Path, required=True, help="the CSV to write")
    parser.add_argument("-d", required=True, metavar="DATASET", help="id or name of the data set it was trained on")
    parser.add_argument("-c", required=True, metavar="CONFIG", help="configuration, e.g. 3d_fullres")
    parser.add_argument("-p", default="nnUNetPlans", help="plans [default: nnUNetPlans]")
    parser.add_argument("-f", nargs="+", type=number_or_all, default=[0, 1, 2, 3, 4],
                        help="folds, averaged [default: 0 1 2 3 4]")  # fmt: skip
    parser.add_argument("-tr", default="nnUNetTrainerGenesisClassifier", metavar="TRAINER",
                        help="[default: nnUNetTrainerGenesisClassifier]")  # fmt: skip
    parser.add_argument("-device", choices=["cuda", "cpu", "mps"], default="cuda", help="[default: cuda]")
    parser.add_argument(
        "--candidates", type=Path, help="CSV of places in mm (ITK's LPS), e.g. LUNA16's candidates_V2.csv"
    )
    parser.add_argument("--ras", action="store_true", help="the candidates' coordinates are NIfTI's")
    parser.add_argument("--masks", type=Path, help="folder of the regions' masks, for a model trained on regions")
    args = parse(parser)

    def command() -> int:
        import torch

        from pretraining.classification.classify import classify as run_classify
        from pretraining.classification.classify import load_folds, writable

        device = torch.device(args.device)
        models = load_folds(args.d, args.c, args.p, args.f, args.tr, device)
        with writable(args.o):
            left_out = run_classify(args.i, args.o, models, device, args.candidates, args.ras, args.masks)
        return _named(left_out, args.o)

    run(command)


def features() -> None:
    """``nnUNetv2_genesis_features``: pooled vectors of an encoder."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_features",
        description="Writes a vector a scan: an encoder's outputs, averaged over the body. Beside it a picture of the "
        "first two principal components.",
        epilog=_EPILOG,
    )
    parser.add_argument("weights", type=Path, help="a Genesis checkpoint, or a trained model's folder")
    parser.add_argument("-i", type=Path, nargs="+", required=True, help="folder(s) of scans, or single files")
    parser.add_argument("-o", type=Path, required=True, help="NAME.csv, or NAME.npz")
    parser.add_argument("-f", type=number_or_all, default=0, help="fold of a trained model [default: 0]")
    parser.add_argument("-device", choices=["cuda", "cpu", "mps"], default="cuda", help="[default: cuda]")
    parser.add_argument("--stages", type=int, nargs="+", help="stages of the encoder, from 0 [default: the last]")
    parser.add_argument("--labels", type=Path, help="label file (case,label) that colours the picture")
    args = parse(parser)

    def command() -> int:
        import torch

        from pretraining.classification.classify import writable
        from pretraining.classification.features import extract, load

        device = torch.device(args.device)
        model = load(args.weights, str(args.f), device)
        with writable(args.o):
            left_out = extract(args.i, args.o, model, device, args.stages, args.labels)
        return _named(left_out, args.o)

    run(command)


def _named(left_out: "Sequence[LeftOut]", written: Path) -> int:
    print(f"Written: {written}")
    for item in left_out:
        print(f"  left out: {item.source}: {item.reason}")
    return 0 if all(item.expected for item in left_out) else LEFT_OUT_STATUS
