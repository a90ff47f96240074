"""Commands of the fine-tuning side, one function each. Help never imports torch."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from nnunet_genesis.errors import GenesisError


def run(command: Callable[[], int | None]) -> None:
    """Run a command; a :class:`GenesisError` becomes one message on stderr and exit status 1, Ctrl-C status 130."""
    try:
        sys.exit(command() or 0)
    except GenesisError as error:
        sys.exit(f"ERROR: {error}")
    except KeyboardInterrupt:
        print("Interrupted. What is finished is kept; run the command again to go on (pretrain: with --c).")
        sys.exit(130)


def trainers_folder() -> Path:
    """The folder that ``nnUNet_extTrainer`` must name."""
    return Path(__file__).resolve().parent / "trainers"


def trainers() -> None:
    """``nnUNetv2_genesis_trainers``: print the folder of the trainer shim."""
    argparse.ArgumentParser(
        prog="nnUNetv2_genesis_trainers",
        description="Prints the folder that nnU-Net must search for the Genesis trainers. Use it as: "
        'export nnUNet_extTrainer="$(nnUNetv2_genesis_trainers)"',
    ).parse_args()
    print(trainers_folder())


def export() -> None:
    """``nnUNetv2_genesis_export``: make a fine-tuned model usable without this package."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_export",
        description="Copies a fine-tuned model so that stock nnU-Net, without nnunet-genesis, predicts with it.",
    )
    parser.add_argument("model_folder", type=Path, help="TRAINER__PLANS__CONFIG folder in nnUNet_results")
    parser.add_argument("--stock", action="store_true", required=True, help="rewrite trainer_name to nnUNetTrainer")
    parser.add_argument("-o", type=Path, default=None, help="output folder [default: beside the original]")
    args = parser.parse_args()

    def command() -> None:
        from nnunet_genesis.sharing import export_stock

        print(export_stock(args.model_folder, args.o))

    run(command)
