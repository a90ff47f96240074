"""nnU-Net trainers that start from Genesis weights.

The network is nnU-Net's own, built from the plans, so that checkpoints are plain nnU-Net checkpoints and prediction
needs nothing from here but the class name.
"""

import os
import sys
from collections.abc import Collection

import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from torch import distributed as dist

from nnunet_genesis.checkpoint import load_weights
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.folders import check_plans
from nnunet_genesis.settings import Settings, weights_file
from nnunet_genesis.training.fine_tuning import FineTuningTrainer
from nnunet_genesis.training.schedule import WarmupPolyLRScheduler, default_warmup
from nnunet_genesis.transfer.moves import apply_moves
from nnunet_genesis.transfer.network import target_network
from nnunet_genesis.transfer.plan import plan_transfer
from nnunet_genesis.transfer.report import LoadReport
from nnunet_genesis.transfer.unit_variance import scale_to_unit_variance

ADAMW_WEIGHT_DECAY = 1e-2  # torch's own default, with which all published figures were made; SGD has nnU-Net's 3e-5
PEAK_LR = 1e-3  # ICCV/CVPR 2025 benchmarks: the best fine-tuning warmed up to 1e-3; a frozen encoder never won


class nnUNetTrainerGenesis(FineTuningTrainer):
    """Fine-tunes from a Genesis-pretrained encoder; decoder and head start from nnU-Net's initialisation.

    The weights come from the environment variable ``nnUNet_genesis_weights`` or from
    ``plans["genesis"]["weights"]`` (see :mod:`nnunet_genesis.settings`) and are read once, when a run begins:
    ``--c``, ``--val`` and prediction never need the file. What was loaded is logged and written to
    ``genesis_load_report.json``.

    The learning rate warms up linearly to its peak and then follows nnU-Net's polynomial decay; see
    :class:`nnunet_genesis.settings.Settings` for the variables that override epochs, iterations, peak and warm-up.

    Raises:
        SystemExit: with a message for the user, where weights are missing, unreadable or fit too little, a setting is
            wrong, or the configuration is 2D. :class:`nnunet_genesis.training.signals.Interrupted` after a signal.
    """

    parts: tuple[str, ...] = ("encoder",)
    unused: tuple[str, ...] = ("freeze", "stage", "mirroring")  # settings of other trainers
    remedies = "a lower nnUNet_genesis_peak_lr, or nnUNet_genesis_precision=fp32 in a new run (CPU)"
    num_epochs: int
    loaded: Collection[str] = ()

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        try:
            check_plans(plans, f"{type(self).__name__}'s plans", configuration)
        except GenesisError as error:  # before there is a log
            sys.exit(f"ERROR: {error}")
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = self._or_stop(Settings.from_environment)
        self._or_stop(lambda: self.settings.refuse(self.unused, type(self).__name__))
        if len(self.configuration_manager.patch_size) != 3:
            self._or_stop(self._refuse_2d)
        self.num_epochs = self.settings.epochs or self.num_epochs
        if self.settings.iterations:
            self.num_iterations_per_epoch = self.settings.iterations
            self.num_val_iterations_per_epoch = max(1, self.settings.iterations // 5)
        self.initial_lr = self.settings.peak_lr or PEAK_LR
        warmup = self.settings.warmup_epochs
        self.warmup_epochs = default_warmup(self.num_epochs) if warmup is None else warmup
        self.seed, self.precision = self.settings.seed, self.settings.precision

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPolyLRScheduler]:
        """Return nnU-Net's SGD, or AdamW, with our schedule."""
        optimizer, _ = super().configure_optimizers()
        if self.settings.optimizer == "adamw":
            optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=ADAMW_WEIGHT_DECAY)
        return optimizer, WarmupPolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, self.warmup_epochs)

    def on_train_start(self) -> None:
        """Load the Genesis weights unless the run goes on from a checkpoint, then start as nnU-Net does."""
        if not self.was_initialized:
            self.initialize()
        if self.parts and not self.resumed:  # before the data loaders start: a stop leaves no process behind
            report = self._or_stop(self._load_genesis_weights)
            self.loaded = {move.target for move in report.moves if move.placed}
        super().on_train_start()

    def begin(self) -> None:
        """Scale what was loaded, so that the run's first checkpoint holds the network that the first step changes."""
        if self.loaded and "unit_variance" not in self.unused and self.settings.scales_loaded():
            self._scale_to_unit_variance(self.loaded)
        super().begin()

    def _load_genesis_weights(self) -> LoadReport:
        file = weights_file(self.settings, self.plans_manager.plans, type(self).__name__)
        weights, network = load_weights(file), self.bare_network()
        shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
        target = target_network(self.plans_manager.plans, self.configuration_name, self.dataset_json, shapes)
        report = plan_transfer(weights, target, self.parts, bool(self.settings.partial_widths))
        report.require(self.settings.min_coverage)
        apply_moves(report.moves, weights.network_weights, network)
        self.print_to_log_file(report.to_text())
        if self.local_rank == 0:
            save_json(report.to_dict(), os.path.join(self.output_folder, "genesis_load_report.json"), sort_keys=False)
        return report

    def _scale_to_unit_variance(self, loaded: Collection[str]) -> None:
        network = self.bare_network()
        number = scale_to_unit_variance(network, loaded, self.first_inputs(4))
        if self.is_ddp:  # each rank saw other batches
            for parameter in network.parameters():
                dist.broadcast(parameter.data, 0)
        self.print_to_log_file(f"Scaled {number} loaded convolutions to outputs of unit variance")

    def _refuse_2d(self) -> None:
        raise GenesisError(
            f"{type(self).__name__}: configuration {self.configuration_name!r} is 2D; Genesis weights are 3D. Use "
            "3d_fullres, 3d_lowres or 3d_cascade_fullres, or nnU-Net's own trainer for 2d."
        )


class nnUNetTrainerGenesisFull(nnUNetTrainerGenesis):
    """As :class:`nnUNetTrainerGenesis`, with the pretrained decoder as well."""

    parts = ("encoder", "decoder")


class nnUNetTrainerGenesisScratch(nnUNetTrainerGenesis):
    """The fair baseline: the same schedule from random weights; ``nnUNet_genesis_weights`` is not looked at."""

    parts = ()
