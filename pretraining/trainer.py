"""The trainer of pretraining: nnU-Net's trainer with another loader, loss and validation."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.citations import nnssl_citations
from nnunet_genesis.checkpoint.lineage import Origin
from nnunet_genesis.checkpoint.writing import BEST, GO_ON, replacing
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import disk_in_words, read_json
from nnunet_genesis.folders import SPLITS, channel_names
from nnunet_genesis.settings import Settings
from nnunet_genesis.training.base import ResumableTrainer, require_finite
from nnunet_genesis.training.batches import TRAINING, VALIDATION, Batches
from nnunet_genesis.training.distributed import gather, run_on_rank_0
from nnunet_genesis.training.precision import (
    autocast,
    choose_precision,
    in_words,
    keep_small_maps_in_fp32,
    move,
    torch_format,
)
from nnunet_genesis.training.schedule import PhasedLRScheduler, Schedule, default_warmup
from pretraining import monitoring
from pretraining.dataloader import RestorationDataLoader, ValidationDataLoader
from pretraining.intensity_range import load_ranges, to_unit
from pretraining.options import RestorationOptions
from pretraining.restoration import CORRUPTIONS, RestorationTransform


class nnUNetTrainerRestoration(ResumableTrainer):
    """Pretrains the plan's network by restoring corrupted patches (Models Genesis); the base of all objectives.

    The network has no deep supervision and one output per input channel; its output passes a sigmoid and the loss is
    the mean squared error to the clean patch in [0, 1]. Input: (B, C, Z, Y, X) in nnU-Net's normalised intensities.
    """

    network: Any
    dataset_class: Any
    was_initialized: bool
    origin = Origin()  # of the weights that the run began with
    method = checkpoint.record.RESTORATION
    citations: Sequence[str] = checkpoint.CITATIONS
    alone: Sequence[str] = CORRUPTIONS  # what validation also shows each by itself
    hidden_only = False  # whether loss, R² and pictures count nothing but what the corruption hid
    remedies = "a lower --lr, a longer --warmup or --precision fp32 in a new run, with this folder moved away"

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

    def _register_curves(self) -> None:
        """Make nnU-Net's log take our keys; those that an early checkpoint lacks have been NaN."""
        log = self.logger.get_checkpoint()
        for key in ("r2", "r2_hidden", "psnr", "ssim", *(f"r2_{name}" for name in self.alone)):
            log.setdefault(key, [float("nan")] * self.current_epoch)

    @classmethod
    def check(cls, options: RestorationOptions, patch: Sequence[int]) -> None:
        """Refuse options that don't go with the trainer and the patch, (z, y, x) voxels.

        Raises:
            GenesisError: they don't.
        """
        for name in ("mask_ratio", "mask_block"):
            if getattr(options, name) is not None:
                raise GenesisError(
                    f"--{name}: {cls.__name__} masks nothing. Leave it out, or -tr nnUNetTrainerMasking."
                )

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

    def initialize(self) -> None:
        """Build the plan's network with a restoration head, its optimiser, and what distributed training needs."""
        if self.was_initialized:
            raise RuntimeError("initialize() was called twice")
        if self.options.batch_size:
            self.configuration_manager.configuration["batch_size"] = self.options.batch_size
        self._set_batch_size_and_oversample()
        self.num_input_channels = determine_num_input_channels(
            self.plans_manager, self.configuration_manager, self.dataset_json
        )
        torch.manual_seed(self.options.seed)
        torch.backends.cudnn.benchmark = self.device.type == "cuda"  # as nnUNetv2_train
        self.precision = run_on_rank_0(lambda: choose_precision(self.device, self.precision))
        network = self._build_restoration_network()
        move(network, self.device, self.memory_format)
        half_on_cpu = self.device.type == "cpu" and self.precision != "fp32"
        inputs = (self.batch_size, self.num_input_channels, *self.configuration_manager.patch_size)
        kept = keep_small_maps_in_fp32(network, inputs) if half_on_cpu else []
        self.print_to_log_file(in_words(self.precision, kept))
        if self.precision != "fp16":
            self.grad_scaler = None
        self.network = torch.compile(network) if self._do_i_compile() else network
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        if self.is_ddp:
            self.network = DistributedDataParallel(
                self.network, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
        self.loss = torch.nn.MSELoss()
        self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        self.was_initialized = True

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

    def _build_restoration_network(self) -> torch.nn.Module:
        configuration = self.configuration_manager
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            self.num_input_channels,
            self.num_input_channels,
            deep_supervision=False,
        )
        for head in network.decoder.seg_layers[:-1]:
            head.requires_grad_(False)  # unused without deep supervision; DDP would wait for their gradients
        return network

    def _do_i_compile(self) -> bool:
        return self.options.compile and self.device.type != "mps"

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PhasedLRScheduler]:
        """Return AdamW with linear warm-up and nnU-Net's polynomial decay."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        # Fused: the only one that leaves a step out without asking the device (found_inf).
        optimizer = torch.optim.AdamW(parameters, self.initial_lr, weight_decay=self.weight_decay, fused=True)
        warmup = default_warmup(self.num_epochs) if self.options.warmup_epochs is None else self.options.warmup_epochs
        return optimizer, PhasedLRScheduler(optimizer, Schedule("warmup", self.initial_lr, (warmup,)), self.num_epochs)

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
        if self.fold != "all" and file.is_file():
            split = read_json(file)[int(self.fold)]
            return split["train"], split["val"]
        return self._on_rank_0(super().do_split)

    def _on_rank_0(self, work: Callable[[], Any]) -> Any:
        """Do ``work``, which writes to the preprocessed data, on rank 0; its result, or what the disk says, on all."""

        def in_words() -> Any:
            with disk_in_words(self.preprocessed_dataset_folder_base, GO_ON):
                return work()

        return run_on_rank_0(in_words)

    def corruption(self) -> BasicTransform:
        """Return what corrupts patches; it draws from numpy's global state. See docs/objectives.md."""
        return RestorationTransform()

    def get_dataloaders(self) -> tuple[Batches, Batches]:
        """Start training's batches, from the current epoch's first one on, and the fixed validation batches."""
        training, validation = self.get_tr_and_val_datasets()
        cases = sorted({*training.identifiers, *validation.identifiers})
        folder, plans, configuration = self.preprocessed_dataset_folder, self.plans_manager, self.configuration_manager
        self.ranges = self._on_rank_0(lambda: load_ranges(Path(folder), cases, plans, configuration))
        self.number_of_cases = {"training": len(training.identifiers), "validation": len(validation.identifiers)}
        common = (configuration.batch_size, configuration.patch_size, self.label_manager)
        oversample, seed = self.oversample_foreground_percent, self.options.seed
        kinds = {"all": self.corruption(), **{name: RestorationTransform.only(name) for name in self.alone}}
        self.train_loader = RestorationDataLoader(
            training, *common, oversample, self.ranges, kinds["all"], (seed, TRAINING), self.positions
        )
        self.val_loader = ValidationDataLoader(
            validation,
            *common,
            oversample,
            self.ranges,
            kinds["all"],
            (seed, VALIDATION),
            self.positions,
            kinds=kinds,
            period=self.num_val_iterations_per_epoch,
        )
        workers = get_allowed_n_proc_DA()
        pin = self.device.type == "cuda"
        return self.train_loader.start(self.next_batch, workers, pin), self.val_loader.start(0, min(workers, 1), pin)

    def train_step(self, batch: dict) -> dict:
        """Do one optimiser step, which changes nothing where loss or gradient is not finite.

        The loss, which stays on the device, is this rank's share of the global batch's. Whether the step is skipped is
        decided by the gradients' norm, which is the same on all ranks: they share the mean gradient.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(*self._restore(batch), batch["hidden"]) * self.batch_weight
        scaler = self.grad_scaler
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.options.gradient_clip)
        skipped = ~torch.isfinite(norm)  # then a scaler leaves the step out by itself
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
            self.optimizer.step()
        self.stop_if_asked()
        return {"loss": loss.detach(), "skipped": skipped}

    def _loss(self, restored: torch.Tensor, target: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        if not self.hidden_only:
            return self.loss(restored, target)
        # The mean over patches of each patch's mean: the same for any division of the batch over processes.
        hidden = hidden.to(self.device, non_blocking=True).expand_as(target)
        errors = ((restored - target).square() * hidden).flatten(1).sum(1)
        return (errors / hidden.flatten(1).sum(1)).mean()

    def _shown(self, restored: torch.Tensor, target: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Return the restored patches; where only hidden voxels count, within what was visible."""
        return torch.where(hidden.to(self.device), restored, target) if self.hidden_only else restored

    def _restore(self, batch: dict, network: torch.nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        data = batch["data"].to(self.device, non_blocking=True, memory_format=torch_format(self.memory_format))
        target = batch["target"].to(self.device, non_blocking=True)
        with autocast(self.device, self.precision):
            output = (network or self.network)(data)
        return torch.sigmoid(output.float()), target

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the mean training loss over ranks and the iterations that were not skipped."""
        loss, skipped = (torch.stack([output[name] for output in train_outputs]) for name in ("loss", "skipped"))
        kept = ~self.check_skipped(skipped.cpu().numpy().astype(bool))
        losses = self._gather(loss)[:, kept] if kept.any() else np.array(np.nan)
        self.logger.log("train_losses", float(losses.mean()), self.current_epoch)

    def validation_step(self, batch: dict) -> dict:
        """Return this rank's share of the sums for R², and SSIM of its first patch where all corruptions apply."""
        self.stop_if_asked()
        (restored, target), hidden = self._restore(batch), batch["hidden"].to(self.device, non_blocking=True)
        similarity = np.nan
        if batch["kind"] == "all":
            shown = self._shown(restored, target, hidden)
            similarity = monitoring.ssim(shown[0, 0].cpu().numpy(), target[0, 0].cpu().numpy())
        of_hidden = monitoring.batch_sums(restored, target, hidden)
        counted = of_hidden if self.hidden_only else monitoring.batch_sums(restored, target)
        sums = torch.cat([counted, of_hidden]) * self.batch_weight
        return {"kind": batch["kind"], "sums": sums, "ssim": similarity}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log MSE, PSNR, SSIM and R² for all corruptions together, of hidden voxels too, and R² for each alone."""
        sums = self._gather(torch.stack([output["sums"] for output in val_outputs]))  # (ranks, batches, 2 · 4)
        kinds = np.array([output["kind"] for output in val_outputs])
        per_kind = {kind: sums[:, kinds == kind].reshape(-1, 8) for kind in ("all", *self.alone)}
        counted, of_hidden = np.split(per_kind["all"], 2, axis=1)
        mse, epoch = float(monitoring.means(counted)[0]), self.current_epoch
        self.logger.log("val_losses", mse, epoch)
        self.logger.log("psnr", monitoring.psnr(mse), epoch)
        self.logger.log("ssim", float(np.nanmean([output["ssim"] for output in val_outputs])), epoch)
        self.logger.log("r2", monitoring.r_squared(counted), epoch)
        self.logger.log("r2_hidden", monitoring.r_squared(of_hidden), epoch)
        for name in self.alone:
            self.logger.log(f"r2_{name}", monitoring.r_squared(per_kind[name][:, :4]), epoch)

    def _gather(self, values: torch.Tensor) -> np.ndarray:
        """Stack the values of all ranks along a new first axis."""
        return np.stack(gather(values.detach().float().cpu().numpy()))

    def on_epoch_end(self) -> None:
        """Print, warn of collapse, save, plot."""
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        log = {key: values[-1] for key, values in self.logger.get_checkpoint().items() if values}
        single = ", ".join(f"{name} {log[f'r2_{name}']:.3f}" for name in self.alone)
        self.print_to_log_file(
            f"train_loss {log['train_losses']:.5f}  val_loss {log['val_losses']:.5f}  PSNR {log['psnr']:.2f} dB  "
            f"SSIM {log['ssim']:.3f}  R² {log['r2']:.3f}  of hidden voxels {log['r2_hidden']:.3f}"
            + (f"  (alone: {single})" if single else "")
        )
        self.print_to_log_file(f"Epoch time: {log['epoch_end_timestamps'] - log['epoch_start_timestamps']:.2f} s")
        iterations = self.num_iterations_per_epoch
        if monitoring.is_collapsed(log["r2"], (self.current_epoch + 1) * iterations, self.num_epochs * iterations):
            self.print_to_log_file(monitoring.COLLAPSE_ADVICE.format(r2=log["r2"]))
        self._save_best_and_pictures(log["r2"])
        self.current_epoch += 1
        if self.current_epoch < self.num_epochs:  # the final checkpoint follows at once
            self.save_latest()

    def described(self) -> dict[str, Any]:
        """Return what trackers are told of the run; the options, too."""
        return super().described() | {"method": self.method, "options": dataclasses.asdict(self.options)}

    def _save_best_and_pictures(self, r2: float) -> None:
        folder, last = Path(self.output_folder), self.current_epoch == self.num_epochs - 1
        if r2 > self.best_r2:
            self.best_r2 = r2
            self.save_checkpoint(str(folder / BEST))
        if self.local_rank == 0:
            monitoring.plot_progress(self.logger.get_checkpoint(), folder / "progress.png")
            if last or self.current_epoch % max(1, self.num_epochs // 10) == 0:
                self._plot_panel(file := folder / f"restoration_epoch{self.current_epoch:04d}.png")
                if Settings.from_environment().panels:
                    self.show(file)

    @torch.no_grad()
    def _plot_panel(self, file: Path) -> None:
        batch = self.val_loader.batch(0)
        restored, target = self._restore(batch, self.bare_network().eval())
        restored = self._shown(restored, target, batch["hidden"])
        corrupted = to_unit(batch["data"][0], self.ranges[batch["keys"][0]])
        monitoring.plot_panel(
            target[0, 0].cpu().numpy(),
            corrupted[0].numpy(),
            restored[0, 0].cpu().numpy(),
            file,
            f"epoch {self.current_epoch}",  # without the case: pictures are shown around
        )

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
        if self.grad_scaler and content["grad_scaler_state"]:
            self.grad_scaler.load_state_dict(content["grad_scaler_state"])
        self.logger.load_checkpoint(content["logging"])
        self.best_r2 = content["_best_ema"]
        self.origin = Origin.of(content["genesis"])
        self.current_epoch = content["current_epoch"]
        self._register_curves()
        self.resume(unfinished=content.get("so_far") is not None)
