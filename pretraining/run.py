"""Run a pretraining: one process, or several on one machine."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.run.run_training import find_free_network_port

from nnunet_genesis import checkpoint
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import dataset_name, nnunet_folder
from pretraining.options import RestorationOptions
from pretraining.trainer import nnUNetTrainerRestoration


def pretrain(
    dataset: str,
    configuration: str,
    plans_name: str = "nnUNetPlans",
    fold: int | str = 0,
    device: torch.device = torch.device("cuda"),  # noqa: B008 - as nnU-Net's
    num_gpus: int = 1,
    continue_training: bool = False,
    **options: Any,
) -> Path:
    """Pretrain on a preprocessed data set, labelled or not.

    Args:
        dataset: name or id of a data set in nnUNet_preprocessed.
        configuration: ``3d_fullres`` or ``3d_lowres``.
        plans_name: the plans to use.
        fold: which split of ``splits_final.json``; only its training cases are trained on. ``"all"`` uses all.
        device: where to train.
        num_gpus: processes on this machine; more than one on a CPU uses gloo.
        continue_training: go on from the last checkpoint, with the options it was started with.
        options: fields of :class:`RestorationOptions` that differ from the defaults (or from the checkpoint's).

    Returns:
        The final checkpoint.

    Raises:
        GenesisError: an option is wrong; the data set, plans, configuration or device isn't there; or a result would
            be overwritten.
    """
    RestorationOptions(**options)  # refuses wrong values before anything is written
    arguments = (dataset, configuration, plans_name, fold, device, continue_training, options)
    _check(dataset, configuration, plans_name, device, num_gpus)
    if num_gpus == 1:
        return _run(*arguments)
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", str(find_free_network_port()))
    mp.spawn(_run_rank, args=(num_gpus, *arguments), nprocs=num_gpus, join=True)
    return _final_checkpoint(dataset, configuration, plans_name, fold)


def _run_rank(rank: int, world_size: int, *arguments: Any) -> None:
    device: torch.device = arguments[4]
    if device.type == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // world_size))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world_size)
    try:
        _run(*arguments)
    finally:
        dist.destroy_process_group()


def _run(
    dataset: str,
    configuration: str,
    plans_name: str,
    fold: int | str,
    device: torch.device,
    continue_training: bool,
    options: dict[str, Any],
) -> Path:
    base = _base_folder(dataset)
    plans = load_json(str(base / f"{plans_name}.json"))
    plans["continue_training"] = continue_training
    trainer = nnUNetTrainerRestoration(plans, configuration, fold, load_json(str(base / "dataset.json")), device)
    found = _latest_checkpoint(Path(trainer.output_folder))
    if found and not continue_training:
        raise GenesisError(
            f"{found}: exists already; a new run would overwrite it. Go on from it with --c, or move the folder away."
        )
    if found:
        content = checkpoint.load(found, trainer.device)
        trainer.use(RestorationOptions(**{**content["genesis"]["options"], **options}))
        trainer.load_checkpoint(content)
        trainer.print_to_log_file(f"Going on from {found}, epoch {trainer.current_epoch} of {trainer.num_epochs}")
    else:
        if continue_training:
            trainer.print_to_log_file(f"WARNING: no checkpoint in {trainer.output_folder}; starting a new run")
        trainer.use(RestorationOptions(**options))
    if not found or trainer.current_epoch < trainer.num_epochs:
        trainer.run_training()
    return Path(trainer.output_folder) / "checkpoint_final.pth"


def _latest_checkpoint(folder: Path) -> Path | None:
    names = ("checkpoint_final.pth", "checkpoint_latest.pth")
    found = [folder / name for name in names if (folder / name).is_file()]
    # An extended run has both: the later one counts.
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


def _final_checkpoint(dataset: str, configuration: str, plans_name: str, fold: int | str) -> Path:
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    folder = get_output_folder(dataset, nnUNetTrainerRestoration.__name__, plans_name, configuration, fold)
    return Path(folder) / "checkpoint_final.pth"


def _base_folder(dataset: str) -> Path:
    return nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset, f"Data set {dataset!r}")


def _check(dataset: str, configuration: str, plans_name: str, device: torch.device, num_gpus: int) -> None:
    base = _base_folder(dataset)
    plans_file = base / f"{plans_name}.json"
    if not plans_file.is_file():
        known = sorted(file.stem for file in base.glob("*.json") if "configurations" in file.read_text())
        raise GenesisError(
            f"{plans_file}: no such plans; found {', '.join(known) or 'none'}. Choose with -p, or prepare the data "
            "set with nnUNetv2_genesis_prepare."
        )
    configurations = load_json(str(plans_file))["configurations"]
    if configuration not in configurations:
        raise GenesisError(
            f"{plans_file}: no configuration {configuration!r}; found {', '.join(configurations)}. Choose one of them."
        )
    if device.type == "cuda" and torch.cuda.device_count() < num_gpus:
        raise GenesisError(
            f"-device cuda -num_gpus {num_gpus}: found {torch.cuda.device_count()} GPU(s). Use -device cpu, or fewer."
        )
