"""nnU-Net trainers that start from Genesis weights.

The network is nnU-Net's own, built from the plans, so that checkpoints are plain nnU-Net checkpoints and prediction
needs nothing from here but the class name.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunet_genesis.checkpoint import load_weights
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.settings import Settings, weights_file
from nnunet_genesis.training.fine_tuning import FineTuningTrainer
from nnunet_genesis.training.schedule import (
    EARLY_LR,
    LONG_RUN,
    SHORT_RUN,
    STOCK_LR,
    PhasedLRScheduler,
    Schedule,
    default_warmup,
    number_of,
)
from nnunet_genesis.transfer.plan import load_into
from nnunet_genesis.transfer.report import LoadReport
from nnunet_genesis.transfer.unit_variance import scale_to_unit_variance

ADAMW_WEIGHT_DECAY = 1e-2  # torch's own default, with which all published figures were made; SGD has nnU-Net's 3e-5


class nnUNetTrainerGenesis(FineTuningTrainer):
    """Fine-tunes from a Genesis-pretrained encoder; decoder and head start from nnU-Net's initialisation.

    The weights come from the environment variable ``nnUNet_genesis_weights`` or from
    ``plans["genesis"]["weights"]`` (see :mod:`nnunet_genesis.settings`) and are read once, when a run begins:
    ``--c``, ``--val`` and prediction never need the file. What was loaded is logged and written to
    ``genesis_load_report.json``.

    The learning rate follows ``nnUNet_genesis_schedule`` (:mod:`nnunet_genesis.training.schedule`), with a peak and a
    warm-up that follow from the run's length; :class:`nnunet_genesis.settings.Settings` has the variables. What was
    chosen is in the checkpoint.

    Raises:
        SystemExit: with a message for the user, where weights are missing, unreadable or fit too little, a setting is
            wrong, or the configuration is 2D. :class:`nnunet_genesis.training.signals.Interrupted` after a signal.
    """

    parts: tuple[str, ...] = ("encoder",)
    unused: tuple[str, ...] = ("stage",)  # settings of other trainers
    remedies = "a lower nnUNet_genesis_peak_lr, or nnUNet_genesis_precision=fp32 in a new run (CPU)"
    num_epochs: int
    num_iterations_per_epoch: int
    inference_allowed_mirroring_axes: tuple[int, ...] | None
    loaded: Collection[str] = ()
    schedule: Any = None  # chosen in initialize()

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
        self._or_stop(lambda: self.settings.refuse(self.unused, type(self).__name__))
        if len(self.configuration_manager.patch_size) != 3:
            self._or_stop(self._refuse_2d)
        self.set_length(self.settings.epochs, self.settings.iterations)
        self.seed, self.precision = self.settings.seed, self.settings.precision

    def initialize(self) -> None:
        """Choose the schedule, unless a checkpoint did; by now a subclass has set length and peak, as nnU-Net's do."""
        if self.schedule is None:
            if self.settings.peak_lr is None and self.initial_lr != STOCK_LR:
                self.settings = dataclasses.replace(self.settings, peak_lr=self.initial_lr)
            self.use(self._or_stop(self._choose_schedule))
        super().initialize()

    def set_length(self, epochs: int | None, iterations: int | None) -> None:
        """Train so many epochs of so many iterations, of which validation takes a fifth; ``None``: as before."""
        self.num_epochs = epochs or self.num_epochs
        if iterations and iterations != self.num_iterations_per_epoch:
            self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = iterations, max(1, iterations // 5)

    def _choose_schedule(self) -> Schedule:
        settings = self.settings
        return Schedule.chosen(
            settings.schedule or "warmup",
            epochs=self.num_epochs,
            patches_an_epoch=self.num_iterations_per_epoch * self.configuration_manager.batch_size,
            optimizer=settings.optimizer or "sgd",
            peak_lr=settings.peak_lr,
            warmup=settings.warmup_epochs,
            frozen=bool(settings.freeze),
        )

    def early_schedule(self) -> Schedule:
        """Return the schedule of runs whose checkpoints don't name theirs."""
        given = self.settings.warmup_epochs
        warmup = default_warmup(self.num_epochs) if given is None else given
        return Schedule("warmup", self.settings.peak_lr or EARLY_LR, (warmup,))

    def recorded(self) -> dict[str, Any]:
        """Return schedule and length, for the checkpoint."""
        length = {"epochs": self.num_epochs, "iterations": self.num_iterations_per_epoch}
        return {"schedule": self.schedule.to_plain(), **length}

    def keep(self, record: dict[str, Any]) -> None:
        """Follow the checkpoint's schedule and optimiser, mirror as it did, and train as long unless told otherwise.

        Raises:
            GenesisError: the run is to go on, and a variable asks for something else than that many epochs.
        """
        stored, settings, seed = record.get("schedule"), self.settings, record.get("seed")
        epochs, iterations = (record.get(name) for name in ("epochs", "iterations"))  # None: of an early version
        schedule = Schedule.from_plain(stored) if stored else self.early_schedule()
        if self.logger.resume:
            warmup = schedule.lengths[0] if len(schedule.lengths) == 1 else None
            asked = {
                "schedule": (settings.schedule, schedule.kind),
                "peak_lr": (settings.peak_lr, schedule.peak_lr),
                "warmup_epochs": (settings.warmup_epochs, warmup),
                "freeze": (settings.freeze, "encoder" if schedule.frozen else None),
                "mirroring": (settings.mirroring, record["mirroring"]),
                "optimizer": (settings.optimizer, record["optimizer"]),
                "seed": (settings.seed, settings.seed if seed is None else seed),
                "iterations": (settings.iterations, iterations or settings.iterations),
            }
            for name, (now, then) in asked.items():
                if now is not None and now != then:
                    raise GenesisError(
                        f"nnUNet_genesis_{name}={now}: the run in {self.output_folder} was started with {then}. "
                        "Unset it to go on, or move the folder away to start anew."
                    )
        self.settings = dataclasses.replace(settings, mirroring=record["mirroring"], optimizer=record["optimizer"])
        self.set_length(settings.epochs or epochs, iterations)
        if epochs and epochs != self.num_epochs:
            self.print_to_log_file(f"Epochs: {self.num_epochs}, before this {epochs}")
        self.seed = self.seed if seed is None else seed
        self.use(schedule)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802 - nnU-Net's name
        """Return nnU-Net's, without mirroring, in prediction too, where ``nnUNet_genesis_mirroring=0``."""
        *others, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if self.settings.mirroring == 0:
            axes = self.inference_allowed_mirroring_axes = None
        return *others, axes

    def use(self, schedule: Schedule) -> None:
        """Follow this schedule."""
        self.schedule, self.initial_lr = schedule, schedule.peak_lr
        if self.was_initialized and isinstance(self.lr_scheduler, PhasedLRScheduler):  # not a subclass' own
            self.lr_scheduler = PhasedLRScheduler(self.optimizer, schedule, self.num_epochs)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PhasedLRScheduler]:
        """Return nnU-Net's SGD, or AdamW, with our schedule."""
        optimizer, _ = super().configure_optimizers()
        if self.settings.optimizer == "adamw":
            self.weight_decay = ADAMW_WEIGHT_DECAY  # for log and trackers too
            optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PhasedLRScheduler(optimizer, self.schedule, self.num_epochs)

    def on_train_start(self) -> None:
        """Load the Genesis weights unless the run goes on from a checkpoint, then start as nnU-Net does."""
        if not self.was_initialized:
            self.initialize()
        if self.parts and not self.resumed:  # before the data loaders start: a stop leaves no process behind
            report = self._or_stop(self._load_genesis_weights)
            self.loaded = {move.target for move in report.moves if move.placed}
        super().on_train_start()
        self.print_to_log_file(self._schedule_in_words())

    def _schedule_in_words(self) -> str:
        settings, schedule = self.settings, self.schedule
        patches = self.num_epochs * self.num_iterations_per_epoch * self.configuration_manager.batch_size
        how = (
            f"for the run's {patches:,} patches; 1e-2 up to {SHORT_RUN:,}, 1e-3 from {LONG_RUN:,} on, docs/schedules.md"
        )
        if settings.peak_lr or self.resumed:
            how = "as set" if settings.peak_lr else "the checkpoint's"
        elif schedule.kind in ("poly", "cosine") or settings.optimizer == "adamw":
            how = "stock nnU-Net's" if schedule.kind == "poly" else "the default"
        lines = [f"Schedule {schedule.kind}, peak learning rate {schedule.peak_lr:g} ({how})", *map(str, self.phases)]
        if not self.parts and any(phase.frozen for phase in self.phases):
            lines.append("WARNING: the encoder is frozen, and nothing was loaded into it")
        return "\n  ".join(lines)

    def on_train_epoch_start(self) -> None:
        """Train what the epoch's phase of the schedule trains."""
        if self.phases:
            number = number_of(self.phases, self.current_epoch)
            phase, before = self.phases[number], self.phases[max(0, number - 1)]
            self._freeze_encoder(phase.frozen)
            if self.current_epoch == phase.start and phase.frozen != before.frozen:
                self.optimizer.state.clear()  # as published: momentum begins anew with the whole network
        super().on_train_epoch_start()

    def _freeze_encoder(self, frozen: bool) -> None:
        encoder: Any = self.bare_network().encoder
        if next(encoder.parameters()).requires_grad != frozen:
            return
        encoder.requires_grad_(not frozen)
        if self.is_ddp:  # it waits for the gradients that it knew of when it was made
            wrapped, devices = self.network.module, self.network.device_ids
            del self.network
            self.network = DistributedDataParallel(wrapped, device_ids=devices)

    def begin(self) -> None:
        """Scale what was loaded, so that the run's first checkpoint holds the network that the first step changes."""
        if self.loaded and "unit_variance" not in self.unused and self.settings.scales_loaded():
            self._scale_to_unit_variance(self.loaded)
        super().begin()

    def _load_genesis_weights(self) -> LoadReport:
        file = weights_file(self.settings, self.plans_manager.plans, type(self).__name__)
        weights = load_weights(file)
        report = load_into(self, weights, self.parts, self.settings, needed=self.parts)
        self.origin = weights.record.as_parent(file, weights.sha256)
        self.print_to_log_file(report.to_text())
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
    """The fair baseline: the same from random weights, which no ``nnUNet_genesis_weights`` changes.

    With ``nnUNet_genesis_schedule=poly`` it has stock nnU-Net's own optimiser and schedule.
    """

    parts = ()
