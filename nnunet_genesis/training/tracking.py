"""W&B and TensorBoard beside nnU-Net's own log, on rank 0: asked for by variables, and never able to stop a run."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matplotlib.image import imread
from nnunetv2.training.logging import nnunet_logger

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.settings import Settings

WANDB = "nnUNet_wandb_enabled"


class WandbLogger(nnunet_logger.WandbLogger):
    """nnU-Net's, which also takes pictures; what can't be resumed is begun anew."""

    def __init__(self, folder: Path, epoch: int):
        super().__init__(folder, bool(epoch) and any((folder / "wandb" / "latest-run").glob("*.wandb")))

    def picture(self, key: str, file: Path, step: int) -> None:
        """Send a PNG."""
        self.run.log({key: nnunet_logger.wandb.Image(str(file))}, step=step)


class TensorBoardLogger:
    """What nnU-Net asks of a logger, for TensorBoard: scalars by epoch, and the configuration as text.

    Args:
        folder: of the run; events go to ``tensorboard`` in it.
        epoch: the first one to come; what is there of it and later ones is forgotten.
    """

    def __init__(self, folder: Path, epoch: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch)

    def update_config(self, config: dict[str, Any]) -> None:
        """Keep the configuration, but for plans and data set."""
        short = {name: value for name, value in config.items() if name not in ("plans", "dataset")}
        self.writer.add_text("config", f"```json\n{json.dumps(short, indent=2, default=str)}\n```")

    def log(self, key: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def log_summary(self, key: str, value: float) -> None:
        """Add a figure of the whole run."""
        self.log(key, value, 0)

    def picture(self, key: str, file: Path, step: int) -> None:
        """Add a PNG."""
        self.writer.add_image(key, imread(file)[..., :3], step, dataformats="HWC")


class Guarded:
    """Passes all calls on to a logger; one that fails, a dead server's, is reported once and left."""

    def __init__(self, name: str, make: Callable[[], Any], warn: Callable[[str], None]):
        self.name, self.warn, self.logger = name, warn, None
        self.logger = self._try(make)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.logger and self._try(lambda: getattr(self.logger, method)(*args, **kwargs))

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # whatever its libraries raise
            self.logger = None
            self.warn(f"WARNING: {self.name}: {type(error).__name__}: {error}. The run goes on without it.")


def asked(meta: Any) -> dict[str, Callable[[Path, int], Any]]:
    """Find which loggers the environment asks for: makers of them by name.

    Args:
        meta: nnU-Net's ``MetaLogger``, which knows its own variables.

    Raises:
        GenesisError: a variable is wrong, or a package isn't installed.
    """
    try:
        wandb = meta._is_logger_enabled(WANDB)
    except RuntimeError as error:
        raise GenesisError(f"{WANDB}: {error} Correct or unset it.") from error
    found: dict[str, Callable[[Path, int], Any]] = {}
    if wandb and nnunet_logger.wandb is None:
        raise GenesisError(f"{WANDB}=1: W&B isn't installed. Run 'pip install wandb', or unset it.")
    if wandb:
        found["W&B"] = WandbLogger
    if Settings.from_environment().tensorboard:
        if find_spec("tensorboard") is None:
            raise GenesisError(
                "nnUNet_genesis_tensorboard=1: TensorBoard isn't installed. Run 'pip install "
                "nnunet-genesis[tensorboard]', or unset it."
            )
        found["TensorBoard"] = TensorBoardLogger
    return found
