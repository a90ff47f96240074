"""Make a fine-tuned model folder usable without this package."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.writing import BEST, FINAL
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import disk_in_words, read_json, whole_folder

STOCK_TRAINER = "nnUNetTrainer"


def export_stock(model_folder: Path, output: Path | None = None) -> Path:
    """Copy ``TRAINER__PLANS__CONFIG`` with ``trainer_name`` rewritten to nnU-Net's own trainer.

    The fine-tuned network is nnU-Net's own, so stock ``nnUNetv2_predict`` gives identical output from the copy.
    Folds that are not finished are left out, and named on stderr; nothing but checkpoints is taken of a fold.
    Returns the copy's folder, by default ``nnUNetTrainer__PLANS__CONFIG`` beside the original.

    Raises:
        GenesisError: the folder isn't a model, its network isn't nnU-Net's own or doesn't segment; or the output
            exists.
    """
    folds = sorted(model_folder.glob("fold_*"))
    finished = [fold for fold in folds if (fold / FINAL).is_file()]
    checkpoints = [file for fold in finished for name in (BEST, FINAL) if (file := fold / name).is_file()]
    needed = [model_folder / name for name in ("plans.json", "dataset.json")]
    missing = [path.name for path in needed if not path.is_file()]
    missing += [] if checkpoints else [f"fold_X/{FINAL}"]
    if missing:
        raise GenesisError(
            f"{model_folder}: expected a trained model (TRAINER__PLANS__CONFIG), missing {', '.join(missing)}. Give "
            "the folder in nnUNet_results that nnUNetv2_train wrote."
        )
    _refuse_our_networks(model_folder / "plans.json")
    output = output or _stock_folder(model_folder)
    if output.exists():
        raise GenesisError(f"{output}: exists already. Move it away, or choose another folder with -o.")
    with disk_in_words(output, "run the same command again."), whole_folder(output) as partial:
        for path in [*needed, *model_folder.glob("dataset_fingerprint.json")]:
            shutil.copyfile(path, partial / path.name)
        for path in checkpoints:
            content = checkpoint.load(path)
            _refuse_other_tasks(content, path)
            (partial / path.parent.name).mkdir(exist_ok=True)
            checkpoint.save(content | {"trainer_name": STOCK_TRAINER}, partial / path.relative_to(model_folder))
    for fold in (fold for fold in folds if fold not in finished):
        print(f"WARNING: {fold}: no {FINAL}, left out. Finish its training, and export again.", file=sys.stderr)
    return output


def _refuse_other_tasks(content: dict[str, Any], path: Path) -> None:
    classifies = "classification" in (content.get("init_args") or ())
    if "genesis" in content or classifies:
        raise GenesisError(
            f"{path}: expected a network that segments, found a {'classifier' if classifies else 'pretraining'}, with "
            "which stock nnU-Net can't predict. Share a pretraining with --hub, a classifier as its folder."
        )


def _refuse_our_networks(plans_file: Path) -> None:
    if ours := re.search(r'"network_class_name": "(nnunet_genesis\.[^"]*)"', json.dumps(read_json(plans_file))):
        raise GenesisError(
            f"{plans_file}: its network is {ours[1]}, expected one of nnU-Net's own: stock nnU-Net can't build it. "
            "Share the folder as it is; who predicts with it needs nnunet-genesis (pip install nnunet-genesis)."
        )


def _stock_folder(model_folder: Path) -> Path:
    _, separator, rest = model_folder.resolve().name.partition("__")
    if not separator:
        raise GenesisError(f"{model_folder}: the name isn't TRAINER__PLANS__CONFIG. Name the copy's folder with -o.")
    return model_folder.resolve().parent / f"{STOCK_TRAINER}__{rest}"
