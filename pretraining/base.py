"""A pretraining's run, whatever its objective: its split, its log, its processes and its checkpoints."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.lineage import Origin, nnssl_citations
from nnunet_genesis.checkpoint.writing import GO_ON, replacing
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import disk_in_words, read_json
from nnunet_genesis.folders import SPLITS, channel_names
from nnunet_genesis.training.base import ResumableTrainer, require_finite
from nnunet_genesis.training.distributed import gather, run_on_rank_0
from nnunet_genesis.training.precision import lay_as_weights
from pretraining.options import RestorationOptions


class PretrainingTrainer(ResumableTrainer):
    """nnU-Net's trainer without a segmentation task; on a CPU too, and on several machines."""

    network: Any
    dataset_class: Any
    was_initialized: bool
    origin = Origin()  # of the weights that the run began with
    method: str
    citations: Sequence[str]
    alone: Sequence[str] = ()  # what validation also shows each by itself
    train_loader: Any
    number_of_cases: dict[str, int]
    num_input_channels: int

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int | str,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        if device.type == "cpu":  # nnU-Net takes it for granted that distributed means CUDA
            self.device, self.grad_scaler = device, None
        elif self.is_ddp:  # and that the rank is the number of the GPU, which holds on the first machine only
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.enable_deep_supervision = False
        if "genesis" in dataset_json:  # prepared by us: the label is the body, and air is trivial to restore
            self.oversample_foreground_percent = 1.0
        self.use(RestorationOptions())
        self.best_r2 = -np.inf
        self._register_curves()

    def use(self, options: RestorationOptions) -> None:
        """Set the options; before :meth:`initialize`."""
        self.options = options
        self.num_epochs, self.num_iterations_per_epoch = options.epochs, options.iterations
        # Whole rounds of "all corruptions, then each alone".
        rounds = max(1, round(options.iterations / 5 / (1 + len(self.alone))))
        self.num_val_iterations_per_epoch = rounds * (1 + len(self.alone))
        self.initial_lr, self.weight_decay = options.peak_lr, options.weight_decay
        self.precision = options.precision
        self.memory_format = options.memory_format.replace("auto", "contiguous")

    def _register_curves(self) -> None:
        """Make nnU-Net's log take our keys; those that an early checkpoint lacks have been NaN."""
        log = self.logger.get_checkpoint()
        for key in ("r2", "r2_hidden", "psnr", "ssim", *(f"r2_{name}" for name in self.alone)):
            log.setdefault(key, [float("nan")] * self.current_epoch)

    def on_train_start(self) -> None:
        """Start as nnU-Net does on rank 0, which writes copies of plans; the others only need their loaders."""
        if not self.was_initialized:
            self.initialize()
        if self.local_rank == 0:
            super().on_train_start()
        else:
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()
            dist.barrier()
            self.signals.wait()

    def print_to_log_file(self, *args: Any, **kwargs: Any) -> None:
        """Log as nnU-Net does, on rank 0 only."""
        if self.local_rank == 0:
            super().print_to_log_file(*args, **kwargs)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Read or make nnU-Net's split; rank 0 writes it where there is none.

        nnU-Net looks for each training case among the validation cases: 20 s of 100,000 cases.
        """
        file = Path(self.preprocessed_dataset_folder_base) / SPLITS
        if self.fold != "all" and run_on_rank_0(file.is_file):  # all ranks alike, or some would wait for ever
            split = read_json(file)[int(self.fold)]
            return split["train"], split["val"]
        return self._on_rank_0(super().do_split)

    def _set_batch_size_and_oversample(self) -> None:
        """Choose this process' positions in the global batch, as many as nnU-Net gives it, and their weight."""
        ranks, size = len(gather(None)), self.configuration_manager.batch_size
        if size < ranks:
            raise GenesisError(
                f"Batch size {size}: can't be divided over {ranks} processes, each needs a patch. Use fewer processes, "
                f"or --batch_size {ranks} or more."
            )
        self.positions = np.array_split(np.arange(size), ranks)[self.local_rank].tolist()
        self.batch_size = len(self.positions)
        self.batch_weight = self.batch_size * ranks / size  # shares may differ by one patch; DDP averages over ranks

    def _on_rank_0(self, work: Callable[[], Any]) -> Any:
        """Do ``work``, which writes to the preprocessed data, on rank 0; its result, or what the disk says, on all."""
        return run_on_rank_0(disk_in_words(self.preprocessed_dataset_folder_base, GO_ON)(work))

    def _gather(self, values: torch.Tensor) -> np.ndarray:
        """Stack the values of all ranks along a new first axis."""
        return np.stack(gather(values.detach().float().cpu().numpy()))

    def described(self) -> dict[str, Any]:
        """Return what trackers are told of the run; the options, too."""
        return super().described() | {"method": self.method, "options": dataclasses.asdict(self.options)}

    def save_checkpoint(self, filename: str) -> None:
        """Write a Genesis checkpoint (rank 0): plain types and tensors only.

        Raises:
            GenesisError: it can't be written, or the weights are not finite.
        """
        require_finite(self.bare_network(), filename, self.advice())
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        content: dict[str, Any] = {
            "network_weights": self.bare_network().state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler else None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": float(self.best_r2),
            "current_epoch": self.current_epoch + 1,
            "init_args": {key: value for key, value in self.my_init_kwargs.items() if key != "device"},
            "trainer_name": type(self).__name__,
            "inference_allowed_mirroring_axes": None,
            "genesis": (record := self._record()).to_plain(),
            "nnssl_adaptation_plan": record.adaptation_plan(self.num_input_channels),
            "citations": nnssl_citations(record.citations),
        }
        with replacing(filename) as temporary:
            torch.save(content, temporary)

    def _record(self) -> checkpoint.Record:
        """What the checkpoint says of itself (DESIGN, rule 5)."""
        options = {"precision": self.precision, "memory_format": self.memory_format}
        return checkpoint.Record.of(
            self.plans_manager.plans,
            self.configuration_name,
            corruption={name: float(p) for name, p in vars(self.train_loader.corrupt).items() if name.startswith("p_")},
            options=dataclasses.asdict(self.options) | options,
            training={
                "epochs": self.current_epoch + 1,
                "batch_size": self.configuration_manager.batch_size,
                "best_r2": float(self.best_r2) if np.isfinite(self.best_r2) else None,
                "r2_hidden": next(iter(self.logger.get_value("r2_hidden", None)[-1:]), None),
            },
            data={
                "channel_names": channel_names(self.dataset_json),
                "number_of_cases": dict(self.number_of_cases),
                "fold": self.fold,
            },
            licence=self.options.licence,
            parents=self.origin,
            method=self.method,
            citations=self.citations,
        )

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Go on from a checkpoint of this trainer (a path, or what :func:`nnunet_genesis.checkpoint.load` gave)."""
        content = filename_or_checkpoint
        if not isinstance(content, dict):
            content = checkpoint.load(content, self.device)
        if not self.was_initialized:
            self.initialize()
        self.bare_network().load_state_dict(content["network_weights"])
        for group in content["optimizer_state"]["param_groups"]:
            group["fused"] = True  # not so in checkpoints of early versions
        self.optimizer.load_state_dict(content["optimizer_state"])
        lay_as_weights(self.optimizer)
        if self.grad_scaler and content["grad_scaler_state"]:
            self.grad_scaler.load_state_dict(content["grad_scaler_state"])
        self.logger.load_checkpoint(content["logging"])
        self.best_r2 = content["_best_ema"]
        self.origin = Origin.of(content["genesis"])
        self.current_epoch = content["current_epoch"]
        self._register_curves()
        self.resume(unfinished=content.get("so_far") is not None)
