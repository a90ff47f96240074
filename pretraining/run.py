"""Run a pretraining: one process, several on one machine, or those that torchrun or srun started."""

import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from nnunetv2.run.run_training import find_free_network_port
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.reading import fitting
from nnunet_genesis.checkpoint.writing import FINAL, newest
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file
from nnunet_genesis.folders import PlannedDataset, check_fold, planned_dataset
from nnunet_genesis.training.distributed import (
    check_gpus,
    gather,
    local_gpu,
    process_group,
    rank_0_speaks,
    run_on_rank_0,
    together,
    use_srun,
    world_size,
)
from nnunet_genesis.training.signals import RESUME_STATUS, Interrupted, StopSignals, pass_signals_on
from pretraining.continuing import check_same, start_from
from pretraining.masking import nnUNetTrainerMasking
from pretraining.options import RestorationOptions
from pretraining.preparation.lock import refuse_while_prepared
from pretraining.restoration.corruption import MIN_AXIS
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
    trainer: str = nnUNetTrainerRestoration.__name__,
    init: Path | None = None,
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
        trainer: a subclass of :class:`nnUNetTrainerRestoration`, see :func:`find_trainer`.
        init: Genesis checkpoint to begin with; of a run that is continued, the one that it began with.
        options: fields of :class:`RestorationOptions` that differ from the defaults (or from the checkpoint's).

    Returns:
        The final checkpoint.

    Raises:
        GenesisError: an option is wrong; the data set, plans, configuration or device isn't there; or a result would
            be overwritten.
        Interrupted: a signal or a closed output asked for a stop (in the main thread).
    """
    use_srun()
    if num_gpus > 1 and world_size() > 1:
        raise GenesisError(
            f"-num_gpus {num_gpus}: {world_size()} processes were started by torchrun or srun already. Leave -num_gpus "
            "out; torchrun's --nproc-per-node and srun's --ntasks-per-node say how many there are."
        )
    asked = _Asked(dataset, configuration, plans_name, fold, device, continue_training, trainer, init, options)
    if num_gpus == 1:
        with StopSignals(), process_group(device):
            return _run(asked)
    _check(asked, num_gpus, asked.continue_training)
    _spawn(num_gpus, asked)
    folder = get_output_folder(dataset, trainer, plans_name, configuration, fold)
    return Path(folder) / FINAL


@dataclass(frozen=True)
class _Asked:
    """What :func:`pretrain` was asked for, as all processes get it."""

    dataset: str
    configuration: str
    plans_name: str
    fold: int | str
    device: torch.device
    continue_training: bool
    trainer: str
    init: Path | None
    options: dict[str, Any]


def _spawn(processes: int, asked: _Asked) -> None:
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", str(find_free_network_port()))
    errors = mp.get_context("spawn").SimpleQueue()
    try:
        args = (processes, errors, asked, mp.get_start_method())
        context = mp.spawn(_run_rank, args=args, nprocs=processes, join=False)
        with pass_signals_on(context.pids()):
            while not context.join():
                pass
    except mp.ProcessExitedException as ended:
        if ended.exit_code == RESUME_STATUS:
            raise Interrupted from None
        if errors.empty():
            raise
        raise GenesisError(errors.get()) from None


def _run_rank(number: int, processes: int, errors: Any, asked: _Asked, start_method: str) -> None:
    mp.set_start_method(start_method, force=True)  # a spawned process would spawn its loaders, each importing torch
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(processes))
    if asked.device.type != "cuda":
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        with StopSignals(), rank_0_speaks(), process_group(asked.device):
            _run(asked)
    except GenesisError as error:
        errors.put(str(error))  # without the traceback that an exception would bring
        sys.exit(1)


def _run(asked: _Asked) -> Path:
    restarted = any(gather(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"))
    going_on = asked.continue_training or restarted
    prepared = together(lambda: _check(asked, 1 + local_gpu(), going_on))
    plans = prepared.plans
    plans["continue_training"] = going_on
    kind, dataset_json = find_trainer(asked.trainer), prepared.dataset_json
    trainer = together(lambda: kind(plans, asked.configuration, asked.fold, dataset_json, asked.device))
    folder = Path(trainer.output_folder)
    found = run_on_rank_0(lambda: _begin(trainer, asked.continue_training, restarted))
    if found:
        _load(found, trainer, asked.options)
        if init := asked.init:
            together(lambda: check_same(init, trainer.origin, found))
        trainer.print_to_log_file(f"Going on from {found}, epoch {trainer.current_epoch} of {trainer.num_epochs}")
    else:
        if asked.continue_training:
            trainer.print_to_log_file(f"WARNING: no checkpoint in {trainer.output_folder}; starting a new run")
        trainer.use(RestorationOptions(**asked.options))
        if asked.init:
            start_from(trainer, asked.init)
    if not found or trainer.current_epoch < trainer.num_epochs or found.name != FINAL:
        trainer.run_training()
    run_on_rank_0(lambda: (folder / BEGUN).unlink(missing_ok=True))
    return folder / FINAL


def _load(file: Path, trainer: nnUNetTrainerRestoration, changes: dict[str, Any]) -> None:
    """Go on from a checkpoint, of whose weights no second copy stays on the device."""
    content = together(lambda: checkpoint.load(file, trainer.device))
    trainer.use(together(lambda: RestorationOptions.continued(content["genesis"], changes)))
    with fitting(file):
        trainer.load_checkpoint(content)


def _begin(trainer: nnUNetTrainerRestoration, continue_training: bool, restarted: bool) -> Path | None:
    """Find the checkpoint to go on from. A mark tells torchrun's restart of this run from that of a refused one."""
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


def _check(asked: _Asked, gpus: int, going_on: bool) -> PlannedDataset:
    """Refuse what can't work before anything is written; returns the preprocessed data set."""
    options, kind = RestorationOptions(**asked.options), find_trainer(asked.trainer)
    if asked.init and not going_on:  # a run that goes on doesn't need the file
        regular_file(asked.init)
    found = planned_dataset(asked.dataset, asked.plans_name, asked.configuration)
    refuse_while_prepared(found.folder)
    configuration = PlansManager(found.plans).get_configuration(asked.configuration)
    _check_configuration(configuration, asked)
    kind.check(options, configuration.patch_size)
    _check_fold(found.folder, configuration, asked)
    check_gpus(asked.device, gpus)
    if asked.device.type == "mps" and (processes := max(gpus, world_size())) > 1:
        raise GenesisError(f"-device mps: expected one process, found {processes}. Leave -num_gpus (or torchrun) out.")
    return found


def _check_configuration(configuration: ConfigurationManager, asked: _Asked) -> None:
    patch = list(configuration.patch_size)
    if len(patch) != 3 or configuration.previous_stage_name is not None:
        raise GenesisError(
            f"Configuration {asked.configuration!r} can't be pretrained: expected a 3D one without a previous stage. "
            "Use 3d_fullres or 3d_lowres (their weights also start a 3d_cascade_fullres)."
        )
    if min(patch) < MIN_AXIS:
        raise GenesisError(
            f"Plans {asked.plans_name!r}: patch size {patch} can't be corrupted; expected at least {MIN_AXIS} voxels "
            "an axis. Plan with a larger patch."
        )


def _check_fold(base: Path, configuration: ConfigurationManager, asked: _Asked) -> None:
    """Refuse a fold that isn't there, and a configuration without cases."""
    folder = base / configuration.data_identifier
    if not folder.is_dir():
        raise GenesisError(
            f"{folder}: no such folder; expected preprocessed cases. Run nnUNetv2_preprocess -d {asked.dataset} -c "
            f"{asked.configuration}, or nnUNetv2_genesis_prepare for scans without labels."
        )
    check_fold(asked.fold, base, folder)


def find_trainer(name: str) -> type[nnUNetTrainerRestoration]:
    """Find a pretraining trainer: one of ours, or one in the folders that ``nnUNet_extTrainer`` names.

    Raises:
        GenesisError: there is none of this name, a file there can't be imported, or it is no
            :class:`nnUNetTrainerRestoration`.
    """
    ours = {kind.__name__: kind for kind in (nnUNetTrainerRestoration, nnUNetTrainerMasking)}
    try:
        found = ours.get(name) or recursive_find_trainer_class_by_name(name)
    except (RuntimeError, AssertionError) as error:
        raise GenesisError(f"-tr {name}: {error}") from error
    except Exception as error:  # whatever a file in those folders raises when it is imported
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise GenesisError(
            f"-tr {name}: {place.filename}, line {place.lineno}, which nnUNet_extTrainer names, can't be imported: "
            f"{type(error).__name__}: {error}. Correct it, or take its folder out of nnUNet_extTrainer."
        ) from error
    if not issubclass(found, nnUNetTrainerRestoration):
        raise GenesisError(f"-tr {name}: expected a subclass of nnUNetTrainerRestoration, found {found}.")
    return found
