"""Run a pretraining: one process, several on one machine, or those that torchrun or srun started."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from nnunetv2.run.run_training import find_free_network_port

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.writing import FINAL, newest
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import PlannedDataset, planned_dataset
from nnunet_genesis.training.distributed import (
    from_rank_0,
    gather,
    local_gpu,
    process_group,
    rank,
    rank_0_speaks,
    together,
    use_srun,
    world_size,
)
from nnunet_genesis.training.signals import RESUME_STATUS, Interrupted, StopSignals, pass_signals_on
from pretraining.options import RestorationOptions
from pretraining.preparation.lock import refuse_while_prepared
from pretraining.trainer import nnUNetTrainerRestoration

BEGUN = "genesis_begun"  # in the results folder of a run that hasn't ended


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
        num_gpus: processes to start on this machine; more than one on a CPU uses gloo.
        continue_training: go on from the last checkpoint, with the options it was started with. What torchrun
            restarts goes on by itself.
        options: fields of :class:`RestorationOptions` that differ from the defaults (or from the checkpoint's).

    Returns:
        The final checkpoint.

    Raises:
        GenesisError: an option is wrong; the data set, plans, configuration or device isn't there; or a result would
            be overwritten.
        Interrupted: SIGTERM, SIGINT or SIGUSR1 asked for a stop (in the main thread).
    """
    use_srun()
    if num_gpus > 1 and world_size() > 1:
        raise GenesisError(
            f"-num_gpus {num_gpus}: {world_size()} processes were started by torchrun or srun already. Leave -num_gpus "
            "out; torchrun's --nproc-per-node and srun's --ntasks-per-node say how many there are."
        )
    arguments = (dataset, configuration, plans_name, fold, device, continue_training, options)
    if num_gpus == 1:
        with StopSignals(), process_group(device):
            return _run(*arguments)
    _check(dataset, configuration, plans_name, device, num_gpus, options)
    _spawn(num_gpus, *arguments)
    return _final_checkpoint(dataset, configuration, plans_name, fold)


def _spawn(processes: int, *arguments: Any) -> None:
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", str(find_free_network_port()))
    errors = mp.get_context("spawn").SimpleQueue()
    try:
        context = mp.spawn(_run_rank, args=(processes, errors, *arguments), nprocs=processes, join=False)
        with pass_signals_on(context.pids()):
            while not context.join():
                pass
    except mp.ProcessExitedException as ended:
        if ended.exit_code == RESUME_STATUS:
            raise Interrupted from None
        if errors.empty():
            raise
        raise GenesisError(errors.get()) from None


def _run_rank(number: int, processes: int, errors: Any, *arguments: Any) -> None:
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(processes))
    device: torch.device = arguments[4]
    if device.type != "cuda":
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        with StopSignals(), rank_0_speaks(), process_group(device):
            _run(*arguments)
    except GenesisError as error:
        errors.put(str(error))  # without the traceback that an exception would bring
        sys.exit(1)


def _run(
    dataset: str,
    configuration: str,
    plans_name: str,
    fold: int | str,
    device: torch.device,
    continue_training: bool,
    options: dict[str, Any],
) -> Path:
    prepared = together(lambda: _check(dataset, configuration, plans_name, device, 1 + local_gpu(), options))
    plans = prepared.plans
    restarted = any(gather(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"))
    plans["continue_training"] = continue_training or restarted
    if rank() > 0:
        os.environ["nnUNet_wandb_enabled"] = "0"  # nnU-Net's logger would write on every rank
    dataset_json = prepared.dataset_json
    trainer = together(lambda: nnUNetTrainerRestoration(plans, configuration, fold, dataset_json, device))
    folder = Path(trainer.output_folder)
    found = from_rank_0(lambda: _begin(trainer, continue_training, restarted))
    if found:
        content = together(lambda: checkpoint.load(found, trainer.device))
        trainer.use(together(lambda: RestorationOptions.continued(content["genesis"], options)))
        trainer.load_checkpoint(content)
        trainer.print_to_log_file(f"Going on from {found}, epoch {trainer.current_epoch} of {trainer.num_epochs}")
    else:
        if continue_training:
            trainer.print_to_log_file(f"WARNING: no checkpoint in {trainer.output_folder}; starting a new run")
        trainer.use(RestorationOptions(**options))
    if not found or trainer.current_epoch < trainer.num_epochs or found.name != FINAL:
        trainer.run_training()
    from_rank_0(lambda: (folder / BEGUN).unlink(missing_ok=True))
    return folder / "checkpoint_final.pth"


def _begin(trainer: nnUNetTrainerRestoration, continue_training: bool, restarted: bool) -> Path | None:
    """The checkpoint to go on from. A mark tells torchrun's restart of this run from that of one that was refused."""
    folder = Path(trainer.output_folder)
    found, mark = newest(folder, trainer.print_to_log_file), folder / BEGUN
    if not (continue_training or (restarted and mark.is_file())):
        mark.unlink(missing_ok=True)
        if found:
            raise GenesisError(
                f"{found}: exists already; a new run would overwrite it. Go on from it with --c, or move the folder "
                "away."
            )
    mark.touch()
    return found


def _final_checkpoint(dataset: str, configuration: str, plans_name: str, fold: int | str) -> Path:
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    folder = get_output_folder(dataset, nnUNetTrainerRestoration.__name__, plans_name, configuration, fold)
    return Path(folder) / "checkpoint_final.pth"


def _check(
    dataset: str, configuration: str, plans_name: str, device: torch.device, gpus: int, options: dict[str, Any]
) -> PlannedDataset:
    """Refuse what can't work before anything is written; returns the preprocessed data set."""
    RestorationOptions(**options)
    found = planned_dataset(dataset, plans_name, configuration)
    refuse_while_prepared(found.folder)
    if device.type == "cuda" and torch.cuda.device_count() < gpus:
        raise GenesisError(
            f"-device cuda: {platform.node()} would need {gpus} GPU(s), found {torch.cuda.device_count()} GPU(s). Use "
            "-device cpu, or fewer processes (-num_gpus, torchrun's --nproc-per-node)."
        )
    return found
