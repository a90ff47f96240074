"""Small runs of pretraining and fine-tuning in processes that can be killed, and what they leave."""

import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from nnunet_genesis.cli import trainers_folder
from tests.integration.warm_processes import warm_context

SAME_LOGS = ("train_losses", "val_losses", "lrs", "r2", "ssim", "mean_fg_dice", "ema_fg_dice")
processes = warm_context()


@dataclass(frozen=True)
class Run:
    """A training that can be started again and again until it is done."""

    name: str
    work: Callable[..., None]
    trainer: str
    environment: dict[str, str]
    options: dict[str, Any]

    def folder(self) -> Path:
        """Where its checkpoints are."""
        results = Path(self.environment["nnUNet_results"]) / "Dataset701_One"
        return results / f"{self.trainer}__nnUNetPlans__3d_fullres" / "fold_0"

    def start(self, **environment: str) -> Any:
        """Begin or go on, in a process of its own."""
        process = processes.Process(target=_run, args=(self.work, self.environment | environment, self.options))
        process.start()
        return process

    def finish(self, **environment: str) -> dict[str, Any]:
        """Run to the end; the final checkpoint."""
        process = self.start(**environment)
        process.join()
        assert process.exitcode == 0, (process.exitcode, self.output()[-2000:])
        return self.checkpoint("final")

    def fail(self, **environment: str) -> str:
        """Run until it stops with exit status 1; what it printed."""
        process = self.start(**environment)
        process.join()
        assert process.exitcode == 1, (process.exitcode, self.output()[-2000:])
        return self.output()

    def kill(self, epoch: int) -> None:
        """Run to the start of this epoch."""
        process = self.start(GENESIS_TEST_KILL=str(epoch))
        process.join()
        assert process.exitcode == -signal.SIGKILL, (process.exitcode, self.output()[-2000:])

    def output(self) -> str:
        """All that its processes printed."""
        return Path(self.environment["GENESIS_TEST_OUTPUT"]).read_text()

    def checkpoint(self, kind: str) -> dict[str, Any]:
        """``latest``, ``best`` or ``final``."""
        return torch.load(self.folder() / f"checkpoint_{kind}.pth", weights_only=False)

    def clear(self) -> None:
        """Forget what was done."""
        shutil.rmtree(self.folder(), ignore_errors=True)

    def log(self) -> str:
        """All that its processes logged."""
        return "".join(file.read_text() for file in sorted(self.folder().glob("training_log_*.txt")))


def _run(work: Callable[..., None], environment: dict[str, str], options: dict[str, Any]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a program of its own
    os.environ.update(environment)
    if epoch := environment.get("GENESIS_TEST_KILL"):
        _kill_in(int(epoch))
    if limit := environment.get("GENESIS_TEST_FILE_SIZE"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    with Path(environment["GENESIS_TEST_OUTPUT"]).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    Figure.savefig = lambda figure, file, **_: Path(file).touch()  # nobody looks at these runs' pictures
    work(**options)


def _kill_in(epoch: int) -> None:
    from nnunet_genesis.training.base import ResumableTrainer

    begin = ResumableTrainer.on_epoch_start

    def on_epoch_start(trainer: ResumableTrainer) -> None:
        if trainer.current_epoch == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(trainer)

    ResumableTrainer.on_epoch_start = on_epoch_start


def pretraining(**options: Any) -> None:
    """What nnUNetv2_genesis_pretrain does."""
    from nnunet_genesis.cli import run
    from pretraining.run import pretrain

    device = torch.device("cpu")
    run(lambda: pretrain("701", "3d_fullres", device=device, continue_training=True, **options) and 0)


def fine_tuning() -> None:
    """What nnUNetv2_train does, without the final validation."""
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    trainer = get_trainer_from_args(
        "701", "3d_fullres", 0, "nnUNetTrainerGenesisScratch", continue_training=True,
        device=torch.device(os.environ.get("GENESIS_TEST_DEVICE", "cpu")),
    )  # fmt: skip
    maybe_load_checkpoint(trainer, True, False)
    trainer.run_training()


def runs(folders: dict[str, Path], epochs: int, iterations: int, output: Path | None = None) -> dict[str, Run]:
    """A pretraining and a fine-tuning of the same length; what they print goes to ``output``."""
    environment = {name: str(folder) for name, folder in folders.items()}
    environment |= {"nnUNet_extTrainer": str(trainers_folder()), "nnUNet_n_proc_DA": "0"}
    environment["GENESIS_TEST_OUTPUT"] = str(output or Path(folders["nnUNet_results"]) / "output.txt")
    length = {"epochs": epochs, "iterations": iterations, "seed": 3}
    ours = {f"nnUNet_genesis_{name}": str(value) for name, value in length.items()}
    formats = {"precision": "fp32", "memory_format": "contiguous"}
    return {
        "pretraining": Run("pretraining", pretraining, "nnUNetTrainerRestoration", environment, length | formats),
        "fine-tuning": Run("fine-tuning", fine_tuning, "nnUNetTrainerGenesisScratch", environment | ours, {}),
    }


def assert_equal_runs(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same curves and weights and the same state of the optimiser, bit by bit."""
    for key in SAME_LOGS:
        assert one["logging"].get(key) == other["logging"].get(key), key
    assert one["current_epoch"] == other["current_epoch"]
    for name, value in one["network_weights"].items():
        assert torch.equal(value, other["network_weights"][name]), name
    states = (run["optimizer_state"]["state"] for run in (one, other))
    for state, expected in zip(*(s.values() for s in states), strict=True):
        for name, value in state.items():
            assert value is expected[name] is None or torch.equal(value, expected[name]), name
