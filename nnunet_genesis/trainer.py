"""nnU-Net trainers that start from Genesis weights.

The network is nnU-Net's own, built from the plans, so that checkpoints are plain nnU-Net checkpoints and prediction
needs nothing from here but the class name.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch._dynamo import OptimizedModule

from nnunet_genesis.checkpoint import load_weights
from nnunet_genesis.checkpoint_files import newest, replacing
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.formats import choose_formats, forward_in
from nnunet_genesis.interruption import StopSignals
from nnunet_genesis.keyed_loader import (
    TRAINING,
    VALIDATION,
    KeyedBatches,
    end_forked_with_parent,
    no_loader_processes,
    start,
)
from nnunet_genesis.resumable import ResumableTrainer
from nnunet_genesis.schedule import WarmupPolyLRScheduler, default_warmup
from nnunet_genesis.settings import Settings
from nnunet_genesis.stability import MOST_IN_A_ROW, require_finite, skip_unless_finite
from nnunet_genesis.transfer.load import plan_transfer
from nnunet_genesis.transfer.network import target_network
from nnunet_genesis.transfer.operations import apply_moves

PEAK_LR = 1e-3  # ICCV/CVPR 2025 benchmarks: the best fine-tuning warmed up to 1e-3; a frozen encoder never won


class nnUNetTrainerGenesis(ResumableTrainer):
    """Fine-tunes from a Genesis-pretrained encoder; decoder and head start from nnU-Net's initialisation.

    The weights come from the environment variable ``nnUNet_genesis_weights`` or from
    ``plans["genesis"]["weights"]`` and are read once, when a run starts at epoch 0: ``--c``, ``--val`` and prediction
    never need the file. What was loaded is logged and written to ``genesis_load_report.json``.

    The learning rate warms up linearly to its peak and then follows nnU-Net's polynomial decay; see
    :class:`nnunet_genesis.settings.Settings` for the variables that override epochs, iterations, peak and warm-up.

    With a seed, initial weights and batches depend on nothing else, and an interrupted run equals a whole one. The
    validation patches are others in each epoch, as nnU-Net's, and follow from the seed and the epoch.

    Raises:
        SystemExit: with a message for the user, where weights are missing, unreadable or fit too little, a setting is
            wrong, or the configuration is 2D. :class:`nnunet_genesis.interruption.Interrupted` after a signal.
    """

    parts: tuple[str, ...] = ("encoder",)
    precision = "nnU-Net's"  # on a GPU
    remedies = "a lower nnUNet_genesis_peak_lr, nnUNet_genesis_precision=fp32 (CPU)"
    num_epochs: int
    network: Any
    my_init_kwargs: dict[str, Any]

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = self._or_stop(Settings.from_environment)
        if len(self.configuration_manager.patch_size) != 3:
            self._or_stop(self._refuse_2d)
        self.num_epochs = self.settings.epochs or self.num_epochs
        if self.settings.iterations:
            self.num_iterations_per_epoch = self.settings.iterations
            self.num_val_iterations_per_epoch = max(1, self.settings.iterations // 5)
        self.initial_lr = self.settings.peak_lr or PEAK_LR
        warmup = self.settings.warmup_epochs
        self.warmup_epochs = default_warmup(self.num_epochs) if warmup is None else warmup
        self.seed = self.settings.seed
        self.save_every = self.num_epochs + 1  # we save every epoch, and after nnU-Net knows whether it was the best
        self._resumed = False

    def initialize(self) -> None:
        """nnU-Net's, seeded if asked for; on a CPU in the number format that was asked for."""
        if self.seed is not None:
            torch.manual_seed(self.seed)
        super().initialize()
        if self.device.type == "cpu":
            self._compute_in(choose_formats(self.device, self.settings.precision, "contiguous")[0])

    def _compute_in(self, precision: str) -> None:
        self.precision = precision
        forward_in(self._bare_network(), precision)
        self.print_to_log_file(f"Number format: {precision}", also_print_to_console=False)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPolyLRScheduler]:
        """nnU-Net's SGD with our schedule."""
        optimizer, _ = super().configure_optimizers()
        optimizer.register_step_pre_hook(self._skip_unless_finite)
        return optimizer, WarmupPolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, self.warmup_epochs)

    def on_train_start(self) -> None:
        """Load the Genesis weights unless the run goes on from a checkpoint, then start as nnU-Net does."""
        if not self.was_initialized:
            self.initialize()
        if self.parts and not self._resumed:  # before the data loaders start: a stop leaves no process behind
            self._or_stop(self._load_genesis_weights)
        super().on_train_start()

    def get_dataloaders(self):  # type: ignore[no-untyped-def]
        """nnU-Net's; with a seed, their batches by number, from the one that is due on."""
        if self.seed is None:
            end_forked_with_parent(self)
            return super().get_dataloaders()
        workers = get_allowed_n_proc_DA()
        with no_loader_processes():
            loaders = super().get_dataloaders()
        training, validation = (
            KeyedBatches(loader.data_loader, self.seed, stream, self.local_rank).batch
            for loader, stream in zip(loaders, (TRAINING, VALIDATION), strict=True)
        )
        due = self.current_epoch * self.num_val_iterations_per_epoch
        return start(training, self.next_batch, workers), start(validation, due, (workers + 1) // 2)

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's, which changes nothing where loss or gradient is no number; the last one before a stop."""
        self._skipped = False
        output = super().train_step(batch)
        # On a GPU nnU-Net's scaler leaves such steps out, and now and then one whose loss is fine: its way to scale.
        output["skipped"] = np.asarray(self._skipped or not np.isfinite(output["loss"]))
        output = self.finish_step(output)
        latest = [bool(one["skipped"]) for one in self.outputs[-MOST_IN_A_ROW:]]
        if len(latest) == MOST_IN_A_ROW and all(latest):  # known at once: nnU-Net reads every loss
            self.check_skipped(np.array(latest))
        return output

    def _skip_unless_finite(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._skipped = skip_unless_finite(optimizer)

    def on_epoch_end(self) -> None:
        """nnU-Net's, and a checkpoint after every epoch."""
        self.outputs = []
        super().on_epoch_end()
        if self.current_epoch < self.num_epochs:  # the final checkpoint follows at once
            self.save_latest()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's; a signal ends it, to be done again."""
        with StopSignals():
            super().perform_actual_validation(save_probabilities)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """nnU-Net's, remembering that the weights are no longer to be replaced.

        For ``--c`` nnU-Net names the final checkpoint, or else the latest or the best: the newest whole one is taken.
        """
        if self.logger.resume and not self._resumed:
            found = self._or_stop(lambda: newest(Path(self.output_folder), self.print_to_log_file))
            filename_or_checkpoint = str(found or filename_or_checkpoint)
        super().load_checkpoint(filename_or_checkpoint)
        record = self.my_init_kwargs.get("genesis", {})
        self._or_stop(lambda: self._keep_seed(record.get("seed")))
        if self.device.type == "cpu" and record.get("precision", self.precision) != self.precision:
            self._compute_in(record["precision"])  # not what a new measurement says
        self.go_on(record.get("so_far"))
        self._resumed = True

    def _keep_seed(self, seed: int | None) -> None:
        if None not in (seed, self.seed) and seed != self.seed:
            raise GenesisError(
                f"nnUNet_genesis_seed={self.seed}: the run in {self.output_folder} was started with {seed}. Set it to "
                f"{seed} or unset it to go on, or move the folder away to start anew."
            )
        self.seed = seed if self.seed is None else self.seed

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's, written so that the previous file stays whole until the new one is."""
        self._or_stop(lambda: require_finite(self._bare_network(), filename, self.advice()))
        record = {"seed": self.seed, "precision": self.precision, "so_far": self.so_far}
        self.my_init_kwargs = {**self.my_init_kwargs, "genesis": record}  # of what nnU-Net saves, the place for it
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with replacing(filename) as temporary:
            super().save_checkpoint(temporary)

    def _load_genesis_weights(self) -> None:
        weights, network = load_weights(self._weights_path()), self._bare_network()
        shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
        target = target_network(self.plans_manager.plans, self.configuration_name, self.dataset_json, shapes)
        report = plan_transfer(weights, target, self.parts, bool(self.settings.partial_widths))
        report.require(self.settings.min_coverage)
        apply_moves(report.moves, weights.network_weights, network)
        self.print_to_log_file(report.to_text())
        if self.local_rank == 0:
            save_json(report.to_dict(), os.path.join(self.output_folder, "genesis_load_report.json"), sort_keys=False)

    def _weights_path(self) -> Path:
        planned = self.plans_manager.plans.get("genesis", {}).get("weights")
        path = self.settings.weights or planned
        if not path:
            raise GenesisError(
                f"{type(self).__name__} has no weights to start from. Expected the environment variable "
                'nnUNet_genesis_weights or plans["genesis"]["weights"]; found neither. Set '
                "nnUNet_genesis_weights=/path/to/checkpoint_final.pth (from nnUNetv2_genesis_pretrain), or train "
                "from random weights with -tr nnUNetTrainerGenesisScratch."
            )
        return Path(path).expanduser()

    def _bare_network(self) -> torch.nn.Module:
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def _refuse_2d(self) -> None:
        raise GenesisError(
            f"{type(self).__name__}: configuration {self.configuration_name!r} is 2D; Genesis weights are 3D. Use "
            "3d_fullres, 3d_lowres or 3d_cascade_fullres, or nnU-Net's own trainer for 2d."
        )

    def run_training(self) -> None:
        """nnU-Net's; what the user can mend ends it with a message."""
        self._or_stop(super().run_training)

    def _or_stop(self, step):  # type: ignore[no-untyped-def]
        """Run ``step``; a :class:`GenesisError` goes to the log and ends the process without a traceback."""
        try:
            return step()
        except GenesisError as error:
            self.print_to_log_file(f"ERROR: {error}", also_print_to_console=False)
            sys.exit(f"ERROR: {error}")


class nnUNetTrainerGenesisFull(nnUNetTrainerGenesis):
    """As :class:`nnUNetTrainerGenesis`, with the pretrained decoder as well."""

    parts = ("encoder", "decoder")


class nnUNetTrainerGenesisScratch(nnUNetTrainerGenesis):
    """The fair baseline: the same schedule from random weights; ``nnUNet_genesis_weights`` is not looked at."""

    parts = ()
