"""nnU-Net's trainer, made to stop after any iteration, to go on at its epoch's start, and to skip steps not finite."""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2 import paths
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.file_path_utilities import get_output_folder
from torch import distributed as dist
from torch._dynamo import OptimizedModule

from nnunet_genesis.checkpoint.writing import BEST, FINAL, GO_ON, LATEST, PREVIOUS, set_aside
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import check_writable, disk_in_words, remove_unfinished
from nnunet_genesis.folders import environment
from nnunet_genesis.training import tracking
from nnunet_genesis.training.batches import finish
from nnunet_genesis.training.schedule import Phase, number_of
from nnunet_genesis.training.signals import Interrupted, StopSignals, name_of

MOST_IN_A_ROW = 10  # steps that are skipped before a training counts as diverged


class ResumableTrainer(nnUNetTrainer):
    """nnU-Net's training loop, which a signal or a closed output ends with exit status 75, and which goes on exactly.

    ``checkpoint_latest.pth`` is written before the first iteration and after every epoch; a continued run begins the
    epoch that it had not finished anew. Subclasses call :meth:`stop_if_asked` after every training step, whose output
    says whether it was ``skipped`` (loss or gradient not finite), :meth:`save_latest` when an epoch has ended, and
    :meth:`resume` when they have read a checkpoint.

    Attributes:
        resumed: whether a checkpoint was read.
    """

    current_epoch: int
    remedies: str  # what to try where a training diverges, in the subclass' own options
    lr_scheduler: Any
    precision: str  # number format, see training.precision
    resumed = False

    def __init__(self, plans: dict, configuration: str, fold: int | str, *args: Any, **kwargs: Any):
        self.skipped_last: list[bool] = []  # of the steps before this epoch's
        self.signals = StopSignals()
        if paths.nnUNet_results.is_set() and not (dist.is_initialized() and dist.get_rank()):
            names = plans["dataset_name"], type(self).__name__, plans["plans_name"], configuration, fold
            folder = Path(get_output_folder(*names))
            with disk_in_words(folder, "run the same command again."):
                check_writable(folder)
        with environment(**{tracking.WANDB: "0"}):  # nnU-Net would begin a run of W&B here, on every rank
            super().__init__(plans, configuration, fold, *args, **kwargs)

    @property
    def phases(self) -> list[Phase]:
        """The schedule's; of a scheduler of the user's own there are none."""
        return getattr(self.lr_scheduler, "phases", [])

    @property
    def next_batch(self) -> int:
        """Number of the epoch's first training batch, counted over all epochs."""
        return self.current_epoch * self.num_iterations_per_epoch

    def bare_network(self) -> torch.nn.Module:
        """Return the network without what DDP and torch.compile put around it."""
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def run_training(self) -> None:
        """Train as nnU-Net does, and leave no loader process behind, however it ends.

        Raises:
            Interrupted: a signal asked for a stop.
            GenesisError: the disk is full or read-only.
        """
        with StopSignals() as self.signals:
            try:
                with disk_in_words(self.output_folder, GO_ON):
                    super().run_training()
            finally:
                finish(self.dataloader_train, self.dataloader_val)
        if self.signals.received:
            raise Interrupted  # too late for training; what comes after it is left

    def on_train_start(self) -> None:
        """Start as nnU-Net does; from then on a signal waits for the iteration to end."""
        loggers = tracking.asked(self.logger)
        super().on_train_start()
        if self.local_rank == 0:
            self._track(loggers)
            remove_unfinished(Path(self.output_folder))
        if not self.resumed:
            self.begin()
        self.signals.wait()

    def _track(self, loggers: dict[str, Callable[[Path, int], Any]]) -> None:
        """Add W&B and TensorBoard to nnU-Net's loggers; after the loaders' processes have started."""
        for name, make in loggers.items():
            begin = functools.partial(make, Path(self.output_folder), self.current_epoch)
            self.logger.loggers.append(tracking.Guarded(name, begin, self.print_to_log_file))
        self.logger.update_config(self.described())

    def described(self) -> dict[str, Any]:
        """Return what trackers are told of the run, under nnU-Net's names."""
        names = ("initial_lr", "weight_decay", "num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")
        numbers = {name: getattr(self, name) for name in names}
        return {
            "plans": self.plans_manager.plans,
            "configuration": self.configuration_name,
            "fold": self.fold,
            "dataset": self.dataset_json,
            "hparas": numbers | {"batch_size": self.configuration_manager.batch_size},
            "phases": [str(phase) for phase in self.phases],
        }

    def show(self, file: Path) -> None:
        """Give a picture, a PNG, to the trackers."""
        for logger in self.logger.loggers:
            if isinstance(logger, tracking.Guarded):  # others take none
                logger.picture("restoration", file, self.current_epoch)

    def on_train_epoch_start(self) -> None:
        """Set the learning rate as nnU-Net does, and say which phase of the schedule it belongs to."""
        super().on_train_epoch_start()
        phases, number = self.phases, number_of(self.phases, self.current_epoch)
        if phases and phases[number].start == self.current_epoch:
            self.print_to_log_file(f"Phase {number + 1} of {len(phases)}, {phases[number]}")
        for logger in self.logger.loggers:
            logger.log("phase", number + 1, self.current_epoch)

    def begin(self) -> None:
        """Set an earlier run's checkpoints aside, and write the first one of this run."""
        writes = self.local_rank == 0 and not self.disable_checkpointing
        if writes and (kept := set_aside(Path(self.output_folder))):
            names = ", ".join(file.name for file in kept)
            self.print_to_log_file(f"WARNING: a new run; an earlier run's checkpoints are kept as {names}")
        self.save_latest()

    def on_train_end(self) -> None:
        """Write the final checkpoint and remove the latest, as nnU-Net does, and the previous one.

        Without checkpointing they are an earlier run's, and stay.
        """
        if self.disable_checkpointing:  # nnU-Net's would remove the latest; run_training ends the loaders
            self.print_to_log_file("Training done.")
            return
        super().on_train_end()
        if self.local_rank == 0:
            (Path(self.output_folder) / PREVIOUS).unlink(missing_ok=True)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the mean loss of the steps that were not skipped, as nnU-Net does."""
        skipped = self.check_skipped(np.array([bool(output["skipped"]) for output in train_outputs]))
        kept = [output for output, left_out in zip(train_outputs, skipped, strict=True) if not left_out]
        super().on_train_epoch_end(kept or train_outputs)

    def check_skipped(self, skipped: np.ndarray) -> np.ndarray:
        """Log how many of an epoch's steps were skipped; returns ``skipped``.

        Raises:
            GenesisError: 10 or more were skipped in a row, or all; with a gradient scaler, which skips the first steps
                to find its scale, 10 in a row, over epochs.
        """
        if skipped.any():
            self.print_to_log_file(
                f"WARNING: {skipped.sum()} of {len(skipped)} steps skipped: loss or gradient was NaN or infinite"
            )
        flags = [*self.skipped_last, *skipped.tolist()] if self.grad_scaler else skipped.tolist()
        self.skipped_last = flags[-MOST_IN_A_ROW:]
        allowed = MOST_IN_A_ROW if self.grad_scaler else min(MOST_IN_A_ROW, self.num_iterations_per_epoch)
        if (longest := longest_run(flags)) >= allowed:
            raise GenesisError(
                f"Epoch {self.current_epoch}: {longest} steps in a row had a NaN or infinite loss or gradient. The "
                f"training has diverged, or images hold NaN{self._suspect()}. {self.advice()}"
            )
        return skipped

    def _suspect(self) -> str:
        half_on_cpu = self.device.type == "cpu" and self.precision != "fp32"
        return f", or torch computes {self.precision} wrongly on this CPU (docs/speed.md)" if half_on_cpu else ""

    def advice(self) -> str:
        """Say what to do where a training has diverged."""
        kept = [Path(self.output_folder) / name for name in (LATEST, FINAL, BEST)]
        good = next((f"{file} is the last good checkpoint" for file in kept if file.is_file()), "None was saved before")
        return f"{good}. Look for NaN in the images and go on with --c, or try {self.remedies}."

    def validation_step(self, batch: dict) -> dict:
        """Validate on a batch as nnU-Net does, unless asked to stop."""
        self.stop_if_asked()
        return super().validation_step(batch)

    def stop_if_asked(self) -> None:
        """Stop, all ranks after the same iteration, where a signal has come to any of them.

        Raises:
            Interrupted: it has.
        """
        number = self.signals.received
        if self.is_ddp:  # nnU-Net's own processes have nothing but NCCL, which needs the GPU
            asked = torch.tensor(number, device=self.device if dist.get_backend() == "nccl" else "cpu")
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            number = int(asked)
        if not number:
            return
        self.print_to_log_file(
            f"{name_of(number)}: stopped in epoch {self.current_epoch}. Go on with the same command and --c, which "
            "begins this epoch anew: nothing before it is lost."
        )
        if self.is_ddp:
            dist.barrier()  # a launcher ends the others where one has ended: rank 0 must have said why
            time.sleep(0 if self.local_rank == 0 else 1)
        raise Interrupted

    def save_latest(self) -> None:
        """Write the start of the current epoch to ``checkpoint_latest.pth``."""
        self.current_epoch -= 1  # nnU-Net writes the next epoch's number
        self.save_checkpoint(str(Path(self.output_folder) / LATEST))
        self.current_epoch += 1

    def resume(self, unfinished: bool) -> None:
        """Go on at the start of the epoch that the checkpoint, which was just read, names.

        Args:
            unfinished: it was written within that epoch, as early versions did.
        """
        self.resumed = True
        for values in self.logger.get_checkpoint().values():
            del values[self.current_epoch :]  # what an unfinished epoch has logged will be logged again
        if unfinished:
            self.print_to_log_file(
                f"WARNING: the checkpoint was written within epoch {self.current_epoch}, by an early version. Its "
                "weights are kept, and all of the epoch's iterations are done again on top of them."
            )


def longest_run(flags: Sequence[bool]) -> int:
    """Return the length of the longest run of ``True``."""
    return max((len(list(run)) for flag, run in itertools.groupby(flags) if flag), default=0)


def skip_unless_finite(optimizer: torch.optim.Optimizer) -> bool:
    """Drop gradients that hold NaN or infinity, so that a step changes nothing; say whether there were any."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients or torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
        return False
    optimizer.zero_grad(set_to_none=True)
    return True


def require_finite(network: torch.nn.Module, checkpoint: str, advice: str) -> None:
    """Refuse to save a network with NaN or infinity in it.

    Raises:
        GenesisError: it has.
    """
    tensors = [*network.parameters(), *network.buffers()]
    if not torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all():
        raise GenesisError(
            f"{checkpoint}: not written: weights have become NaN or infinite. The training has diverged. {advice}"
        )
