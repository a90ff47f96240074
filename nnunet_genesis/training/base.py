"""nnU-Net's trainer, made to stop after any iteration and to go on there, and to leave out steps without numbers."""

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch._dynamo import OptimizedModule

from nnunet_genesis.checkpoint.writing import FINAL, GO_ON, LATEST, PREVIOUS, set_aside
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import disk_in_words, remove_unfinished
from nnunet_genesis.stability import MOST_IN_A_ROW, longest_run
from nnunet_genesis.training.batches import finish
from nnunet_genesis.training.signals import Interrupted, StopSignals


class ResumableTrainer(nnUNetTrainer):
    """nnU-Net's training loop, stopped by SIGTERM, SIGINT or SIGUSR1 with a checkpoint and exit status 75.

    ``checkpoint_latest.pth`` then holds what the epoch has given so far, and a continued run does the rest of it.
    Subclasses hand every training step's output (``loss``, and ``skipped``: loss or gradient was no number) to
    :meth:`finish_step`, call :meth:`save_latest` when an epoch has ended, write :attr:`so_far` to checkpoints and give
    it to :meth:`go_on` when they have read one.

    Attributes:
        outputs: of this epoch's training steps, those before an interruption too.
        so_far: ``{name: (iterations,)}`` of ``outputs``, means over ranks, while an unfinished epoch is saved.
    """

    current_epoch: int
    remedies: str  # what to try where a training diverges, in the subclass' own options
    precision: str  # number format, see training.precision

    def __init__(self, *args: Any, **kwargs: Any):
        self.outputs: list[dict] = []
        self.skipped_last: list[bool] = []  # of the steps before this epoch's
        self.so_far: dict[str, torch.Tensor] | None = None
        self.signals = StopSignals()
        super().__init__(*args, **kwargs)

    @property
    def num_iterations_per_epoch(self) -> int:
        """Those that the epoch has left: nnU-Net's loop asks at its start."""
        return self.iterations - len(self.outputs)

    @num_iterations_per_epoch.setter
    def num_iterations_per_epoch(self, iterations: int) -> None:
        self.iterations = iterations

    @property
    def next_batch(self) -> int:
        """Number of the next training batch, counted over all epochs."""
        return self.current_epoch * self.iterations + len(self.outputs)

    def bare_network(self) -> torch.nn.Module:
        """The network without what DDP and torch.compile put around it."""
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def run_training(self) -> None:
        """nnU-Net's, which leaves no loader process behind, however it ends.

        Raises:
            Interrupted: a signal asked for a stop.
            GenesisError: the disk is full.
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
        """nnU-Net's; from then on a signal waits for the iteration to end."""
        super().on_train_start()
        if self.local_rank == 0:
            remove_unfinished(Path(self.output_folder))
            if self.next_batch == 0 and (kept := set_aside(Path(self.output_folder))):
                self.print_to_log_file(f"WARNING: a new run; the checkpoint of an earlier one is kept as {kept.name}")
        self.signals.wait()

    def on_train_end(self) -> None:
        """nnU-Net's, which writes the final checkpoint and removes the latest, and the previous one."""
        super().on_train_end()
        if self.local_rank == 0:
            (Path(self.output_folder) / PREVIOUS).unlink(missing_ok=True)

    def finish_step(self, output: dict) -> dict:
        """Keep the output of a training step, and stop here if asked to."""
        self.outputs.append(output)
        self.stop_if_asked()
        return output

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """nnU-Net's, of the iterations before an interruption too, and of those that were not skipped."""
        skipped = self.check_skipped(np.array([bool(output["skipped"]) for output in self.outputs]))
        kept = [output for output, left_out in zip(self.outputs, skipped, strict=True) if not left_out]
        super().on_train_epoch_end(kept or self.outputs)

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
        allowed = MOST_IN_A_ROW if self.grad_scaler else min(MOST_IN_A_ROW, self.iterations)
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
        """What to do where a training has diverged."""
        kept = [Path(self.output_folder) / name for name in (LATEST, FINAL, "checkpoint_best.pth")]
        good = next((f"{file} is the last good checkpoint" for file in kept if file.is_file()), "None was saved before")
        return f"{good}. Try {self.remedies}, and look for NaN in the images; then go on with --c."

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's, unless asked to stop; a validation is done again as a whole."""
        self.stop_if_asked()
        return super().validation_step(batch)

    def stop_if_asked(self) -> None:
        """Stop, all ranks after the same iteration, where a signal has come to any of them.

        Raises:
            Interrupted: after the checkpoint was written.
        """
        number = self.signals.received
        if self.is_ddp:  # nnU-Net's own processes have nothing but NCCL, which needs the GPU
            asked = torch.tensor(number, device=self.device if dist.get_backend() == "nccl" else "cpu")
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            number = int(asked)
        if not number:
            return
        self.save_latest()
        self.print_to_log_file(
            f"{signal.Signals(number).name}: stopped in epoch {self.current_epoch} after {len(self.outputs)} of "
            f"{self.iterations} iterations. Go on with the same command and --c."
        )
        if self.is_ddp:
            dist.barrier()  # a launcher ends the others where one has ended: rank 0 must have written
            time.sleep(0 if self.local_rank == 0 else 1)
        raise Interrupted

    def save_latest(self) -> None:
        """Write where this run is to ``checkpoint_latest.pth``; on all ranks."""
        self.so_far = self._stack_outputs() if self.outputs else None
        self.current_epoch -= 1  # nnU-Net writes the next epoch's number
        self.save_checkpoint(str(Path(self.output_folder) / LATEST))
        self.current_epoch += 1
        self.so_far = None

    def _stack_outputs(self) -> dict[str, torch.Tensor]:
        mine = {
            name: torch.stack([torch.as_tensor(output[name]) for output in self.outputs]).cpu()
            for name in self.outputs[0]
        }
        if not self.is_ddp:
            return mine
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
        return {
            name: torch.stack([rank[name] for rank in ranks]).double().mean(0).to(mine[name].dtype) for name in mine
        }

    def go_on(self, so_far: dict[str, torch.Tensor] | None) -> None:
        """Begin where the checkpoint that was just read ends."""
        for values in self.logger.get_checkpoint().values():
            del values[self.current_epoch :]  # what an unfinished epoch has logged will be logged again
        rows = zip(*so_far.values(), strict=True) if so_far else []
        self.outputs = [
            {name: self.as_output(value) for name, value in zip(so_far or {}, row, strict=True)} for row in rows
        ]

    def as_output(self, value: torch.Tensor) -> Any:
        """A saved output as a training step gives it: nnU-Net's are numpy arrays."""
        return value.cpu().numpy()  # nnU-Net reads a checkpoint to the device it trains on
