"""The trainer of pretraining: nnU-Net's trainer with another loader, loss and validation."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch.nn.parallel import DistributedDataParallel

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.writing import BEST
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.settings import Settings
from nnunet_genesis.training.batches import TRAINING, VALIDATION, Batches
from nnunet_genesis.training.distributed import run_on_rank_0
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
from pretraining.base import PretrainingTrainer
from pretraining.dataloader import RestorationDataLoader, ValidationDataLoader
from pretraining.intensity_range import load_ranges, to_unit
from pretraining.options import RestorationOptions
from pretraining.restoration import CORRUPTIONS, RestorationTransform


class nnUNetTrainerRestoration(PretrainingTrainer):
    """Pretrains the plan's network by restoring corrupted patches (Models Genesis); the base of all objectives.

    The network has no deep supervision and one output per input channel; its output passes a sigmoid and the loss is
    the mean squared error to the clean patch in [0, 1]. Input: (B, C, Z, Y, X) in nnU-Net's normalised intensities.
    """

    method = checkpoint.record.RESTORATION
    citations: Sequence[str] = checkpoint.CITATIONS
    alone: Sequence[str] = CORRUPTIONS
    hidden_only = False  # whether loss, R² and pictures count nothing but what the corruption hid
    remedies = "a lower --lr, a longer --warmup or --precision fp32 in a new run, with this folder moved away"

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

    def _build_restoration_network(self) -> torch.nn.Module:
        planned, channels = (self.plans_manager, self.configuration_manager), self.num_input_channels
        network = self.build_network_architecture(*planned, channels, channels, enable_deep_supervision=False)
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
        seed, period = self.options.seed, self.num_val_iterations_per_epoch
        kinds = {"all": self.corruption(), **{name: RestorationTransform.only(name) for name in self.alone}}
        sizes = configuration.batch_size, configuration.patch_size
        common = (*sizes, self.label_manager, self.oversample_foreground_percent, self.ranges, kinds["all"])
        self.train_loader = RestorationDataLoader(training, *common, (seed, TRAINING), self.positions)
        self.val_loader = ValidationDataLoader(
            validation, *common, (seed, VALIDATION), self.positions, kinds=kinds, period=period
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
