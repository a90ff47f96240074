"""What all fine-tuning trainers share: reproducible with a seed, resumable, safe from NaN and from code in files."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_genesis.checkpoint.lineage import Origin
from nnunet_genesis.checkpoint.reading import fitting, restricted
from nnunet_genesis.checkpoint.reading import load as read
from nnunet_genesis.checkpoint.writing import newest, replacing
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import disk_in_words, regular_file
from nnunet_genesis.folders import check_fold, check_plans, environment
from nnunet_genesis.training.base import MOST_IN_A_ROW, ResumableTrainer, require_finite, skip_unless_finite
from nnunet_genesis.training.batches import TRAINING, VALIDATION, KeyedBatches, end_forked_with_parent, start
from nnunet_genesis.training.plotting import progress_figure
from nnunet_genesis.training.precision import choose_precision, forward_in, in_words, keep_small_maps_in_fp32
from nnunet_genesis.training.signals import StopValidation


class FineTuningTrainer(ResumableTrainer):
    """Trains as nnU-Net does, and writes a checkpoint after every epoch.

    With a seed, initial weights and batches depend on nothing else, and an interrupted run equals a whole one on a CPU.
    The patches of the validation are others in each epoch, as nnU-Net's, and follow from the seed and the epoch.
    Subclasses have ``recorded``, which returns the plain types that they keep in a checkpoint, and ``keep``, which
    takes them back before it is loaded; beside them it gets ``seed``, ``optimizer`` and ``mirroring``.

    Attributes:
        seed: fixes initial weights and batches; ``None``: nnU-Net's loaders draw as they do.
        precision: on a CPU ``fp32``, ``bf16`` or ``auto``, by its hardware; on a GPU nnU-Net decides.
    """

    seed: int | None = None
    _in_a_row = 0
    precision = "fp32"
    origin = Origin()  # of the weights that the run began with
    network: Any
    my_init_kwargs: dict[str, Any]
    judged_by = "pseudo Dice"

    def __init__(self, plans: dict, configuration: str, *args: Any, **kwargs: Any):
        try:
            check_plans(plans, f"{type(self).__name__}'s plans", configuration)
            super().__init__(plans, configuration, *args, **kwargs)
        except GenesisError as error:  # there is no log yet, and none in a folder that may not be written to
            sys.exit(f"ERROR: {error}")
        self.logger.plot_progress_png = self.plot_progress

    def plot_progress(self, folder: str) -> None:
        """Write ``progress.png`` to ``folder``, with the phases of the schedule, in place of nnU-Net's."""
        log = self.logger.get_checkpoint()
        times = zip(log["epoch_end_timestamps"], log["epoch_start_timestamps"], strict=True)
        rows = {
            "loss": {"training": log["train_losses"], "validation": log["val_losses"]},
            self.judged_by: {"epoch's": log["mean_fg_dice"], "moving average": log["ema_fg_dice"]},
            "seconds an epoch": {"": [end - begin for end, begin in times]},
            "learning rate": {"": log["lrs"]},
        }
        progress_figure(rows, self.phases)[0].savefig(Path(folder) / "progress.png", dpi=80)

    def initialize(self) -> None:
        """Build the network, seeded if asked for; on a CPU in the number format that was asked for."""
        if self.seed is not None:
            torch.manual_seed(self.seed)
        super().initialize()
        self.optimizer.register_step_pre_hook(self._skip_unless_finite)
        if self.device.type == "cpu":
            self._compute_in(self.precision)

    def _compute_in(self, precision: str) -> None:
        self.precision, network = choose_precision(self.device, precision), self.bare_network()
        forward_in(network, self.precision)
        inputs = (self.batch_size, self.num_input_channels, *self.configuration_manager.patch_size)
        kept = keep_small_maps_in_fp32(network, inputs) if self.precision != "fp32" else []
        self.print_to_log_file(in_words(self.precision, kept), also_print_to_console=False)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return nnU-Net's split.

        Raises:
            GenesisError: there is no such fold.
        """
        check_fold(self.fold, Path(self.preprocessed_dataset_folder_base), Path(self.preprocessed_dataset_folder))
        train, val = super().do_split()
        return train, val

    def get_dataloaders(self):  # type: ignore[no-untyped-def]
        """Start nnU-Net's loaders; with a seed, give their batches by number, from the one that is due on."""
        if self.seed is None:
            end_forked_with_parent(self)
            return super().get_dataloaders()
        workers = get_allowed_n_proc_DA()
        training, validation = self._batches(self.seed)
        due = self.current_epoch * self.num_val_iterations_per_epoch
        pin = self.device.type == "cuda"
        return start(training, self.next_batch, workers, pin), start(validation, due, (workers + 1) // 2, pin)

    def first_inputs(self, number: int) -> Iterator[torch.Tensor]:
        """Yield inputs of ``number`` training batches, (batch, channels, z, y, x), on the device; none is used up."""
        training, _ = self._batches(self.seed or 0)
        for k in range(number):
            yield training(k)["data"].to(self.device)

    def _batches(self, seed: int) -> list[Callable[[int], dict]]:
        """Return training's and validation's batches by number, made in this process."""
        with environment(nnUNet_n_proc_DA="0"):
            loaders = super().get_dataloaders()
        return [
            KeyedBatches(loader.data_loader, seed, stream, self.local_rank).batch
            for loader, stream in zip(loaders, (TRAINING, VALIDATION), strict=True)
        ]

    def train_step(self, batch: dict) -> dict:
        """Do nnU-Net's step, which changes nothing where loss or gradient is not finite; the last one before a stop.

        On a GPU nnU-Net's scaler leaves such a step out and lowers its scale, on all ranks: they share the gradient.
        """
        self._skipped, scaler = False, self.grad_scaler
        scale = scaler.get_scale() if scaler else 0
        output = super().train_step(batch)
        output["skipped"] = np.asarray(scaler.get_scale() < scale if scaler else self._skipped)
        self._in_a_row = self._in_a_row + 1 if output["skipped"] else 0
        if self._in_a_row == MOST_IN_A_ROW:  # known at once: nnU-Net reads every loss
            self.check_skipped(np.ones(MOST_IN_A_ROW, bool))
        self.stop_if_asked()
        return output

    def _skip_unless_finite(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._skipped = skip_unless_finite(optimizer)

    def on_epoch_end(self) -> None:
        """End the epoch as nnU-Net does, and write a checkpoint."""
        self.save_every = self.num_epochs + 1  # nnU-Net would save before it knows whether the epoch was the best
        super().on_epoch_end()
        if self.current_epoch < self.num_epochs:  # the final checkpoint follows at once
            self.save_latest()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate as nnU-Net does; a signal ends the process, and the validation is to be done again."""
        again = disk_in_words(self.output_folder, "validate again, with --val in place of --c.")
        with StopValidation():
            self._or_stop(lambda: again(self._validate)(save_probabilities))

    def _validate(self, save_probabilities: bool) -> None:
        super().perform_actual_validation(save_probabilities)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Read a checkpoint without running code in it; from then on no Genesis weights are to be loaded.

        For ``--c`` nnU-Net names the final checkpoint, or else the latest or the best: the newest whole one is taken.
        """
        file = Path(str(filename_or_checkpoint))  # nnU-Net's own fails on a dict
        if self.logger.resume and not self.was_initialized:  # not for --val_best, which comes after a training
            file = self._or_stop(lambda: newest(Path(self.output_folder), self.print_to_log_file)) or file
        record = self._or_stop(lambda: _kept(read(file)))
        self._or_stop(lambda: self.keep(record))  # before the optimiser is built, whose state is read then
        load = super().load_checkpoint
        self._or_stop(lambda: _load_restricted(load, file))
        self.origin = Origin.of(record)
        if self.device.type == "cpu":
            self._compute_in(record.get("precision", self.precision))  # not this machine's
        self.resume(unfinished=record.get("so_far") is not None)

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint, so that the previous file stays whole until the new one is.

        Raises:
            GenesisError: it can't be written, or the weights are not finite.
        """
        require_finite(self.bare_network(), filename, self.advice())
        record = {"seed": self.seed, "precision": self.precision, **self.recorded(), **self.origin.to_plain()}
        self.my_init_kwargs = {**self.my_init_kwargs, "genesis": record}  # of what nnU-Net saves, the place for it
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with replacing(filename) as temporary:
            super().save_checkpoint(temporary)

    def run_training(self) -> None:
        """Train; what the user can correct ends it with a message."""
        self._or_stop(super().run_training)

    def _or_stop(self, step):  # type: ignore[no-untyped-def]
        """Run ``step``; a :class:`GenesisError` goes to the log and ends the process without a traceback."""
        try:
            return step()
        except GenesisError as error:
            self.print_to_log_file(f"ERROR: {error}", also_print_to_console=False)
            sys.exit(f"ERROR: {error}")


def _kept(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says of its run; its optimiser is told from the state, which early versions have too."""
    adam = "betas" in content["optimizer_state"]["param_groups"][0]
    mirrored = bool(content.get("inference_allowed_mirroring_axes"))
    record = content["init_args"].get("genesis", {})
    return record | {"optimizer": "adamw" if adam else "sgd", "mirroring": int(mirrored)}


def _load_restricted(load: Callable[[str], None], file: Path) -> None:
    with restricted(regular_file(file)), fitting(file):
        load(str(file))
