"""``python -m pretraining``, watched: only rank 0 may write; rank 1 ends, asks for a stop or meets NaN if told to."""

import os
import signal
import sys
from typing import Any

from pretraining.__main__ import pretrain


def only_rank_0_writes(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    folders = tuple(os.environ[f"nnUNet_{name}"] for name in ("preprocessed", "results"))
    if writes and _rank() != "0" and str(arguments[0]).startswith(folders):
        raise RuntimeError(f"rank {_rank()} writes {arguments[0]}")


def _rank() -> str:
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))


def kill_rank_1_in_its_second_epoch() -> None:
    from pretraining.trainer import nnUNetTrainerRestoration as Trainer

    go_on = Trainer.on_train_epoch_end

    def on_train_epoch_end(trainer: Trainer, train_outputs: list[dict]) -> None:
        if trainer.current_epoch == 1 and trainer.local_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        go_on(trainer, train_outputs)

    Trainer.on_train_epoch_end = on_train_epoch_end


def stop_rank_1_in_its_second_epoch() -> None:
    from pretraining.trainer import nnUNetTrainerRestoration as Trainer

    train_step = Trainer.train_step

    def stop_in_train_step(trainer: Trainer, batch: dict) -> dict:
        if trainer.current_epoch == 1 and trainer.local_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(trainer, batch)

    Trainer.train_step = stop_in_train_step


def feed_rank_1_nan_in_each_epochs_second_step() -> None:
    """With a gradient scaler, as in fp16 on GPUs."""
    import torch

    from pretraining.trainer import nnUNetTrainerRestoration as Trainer

    initialize, step = Trainer.initialize, Trainer.train_step

    def initialize_with_a_scaler(trainer: Trainer) -> None:
        initialize(trainer)
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=4)

    def train_step(trainer: Trainer, batch: dict) -> dict:
        trainer.steps = getattr(trainer, "steps", 0) + 1
        if trainer.local_rank == 1 and trainer.steps % trainer.num_iterations_per_epoch == 2:
            batch["data"].fill_(torch.nan)
        return step(trainer, batch)

    Trainer.initialize, Trainer.train_step = initialize_with_a_scaler, train_step


def watched() -> None:
    """The command, with what the environment asks for."""
    sys.addaudithook(only_rank_0_writes)
    if os.environ.get("GENESIS_TEST_KILL") and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        kill_rank_1_in_its_second_epoch()
    if os.environ.get("GENESIS_TEST_NAN"):
        feed_rank_1_nan_in_each_epochs_second_step()
    if os.environ.get("GENESIS_TEST_STOP"):
        stop_rank_1_in_its_second_epoch()
    pretrain()


if __name__ == "__main__":
    watched()
