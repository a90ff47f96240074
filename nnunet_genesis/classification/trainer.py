"""nnU-Net trainers that classify: scans, regions or candidates."""

import secrets
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from torch import nn

from nnunet_genesis.classification.data import ItemLoader, Items
from nnunet_genesis.classification.labels import (
    FILE,
    PREDICTIONS,
    RAW_FILE,
    SCORE,
    XYZ,
    classes_of,
    match,
    read_labels,
    some,
)
from nnunet_genesis.classification.metrics import auc
from nnunet_genesis.classification.network import Classifier, mean_outputs
from nnunet_genesis.classification.places import starts_of
from nnunet_genesis.classification.splits import make_folds
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path, read_json, write_json
from nnunet_genesis.folders import SPLITS, check_fold, nnunet_folder
from nnunet_genesis.trainer import nnUNetTrainerGenesis
from nnunet_genesis.training.batches import TRAINING, VALIDATION, KeyedBatches
from nnunet_genesis.training.distributed import gather
from nnunet_genesis.training.schedule import PhasedLRScheduler, Schedule, default_warmup

EPOCHS, ITERATIONS = 100, 100
PEAK_LR, PROBE_LR, WEIGHT_DECAY = 1e-4, 1e-2, 1e-2
ROTATION = np.deg2rad(15)  # to each side; nnU-Net: 30, or 180 within the slices of anisotropic images
DROPOUT_STREAM = 2  # second part of a random key, after training's and validation's
_SIDES = ("left", "right")


class nnUNetTrainerGenesisClassifier(nnUNetTrainerGenesis):
    """Classifies with the plan's encoder, started from Genesis weights.

    Labels are read from ``genesis_labels.csv`` of the preprocessed data set (nnUNetv2_genesis_prepare) or from
    ``labelsTr.csv`` of the raw one. Patches have the plan's size and lie on the candidate or the labelled region, or
    cover the body. AdamW, warm-up, cosine; classes are drawn equally often; the best epoch is that of the highest
    moving average of AUC, which nnU-Net logs under the names of its pseudo Dice.

    Raises:
        SystemExit: as :class:`nnunet_genesis.trainer.nnUNetTrainerGenesis`, and where the labels can't be used.
    """

    unused = ("optimizer", "unit_variance", "schedule")
    judged_by = "AUC of validation patches"
    plans_manager: Any
    configuration_manager: Any

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        settings, self.enable_deep_supervision = self.settings, False
        self.set_length(settings.epochs or EPOCHS, settings.iterations or ITERATIONS)
        self.weight_decay = WEIGHT_DECAY
        self.table, self.classes = self._or_stop(self._read_labels)
        self.my_init_kwargs["classification"] = {
            "classes": self.classes,
            "candidates": "x" in self.table,
            "regions": "genesis" not in dataset_json,
            "stage": settings.stage,
        }

    def _choose_schedule(self) -> Schedule:
        return self.early_schedule()

    def early_schedule(self) -> Schedule:
        """Return the schedule that a new run has, too."""
        settings, given = self.settings, self.settings.warmup_epochs
        peak = settings.peak_lr or (PROBE_LR if settings.freeze else PEAK_LR)
        warmup = default_warmup(self.num_epochs) if given is None else given
        return Schedule("cosine", peak, (warmup,), bool(settings.freeze))

    def _read_labels(self) -> tuple[pd.DataFrame, list[str]]:
        if self.is_cascaded:
            raise GenesisError(f"{self.configuration_name}: a cascade can't classify. Use 3d_fullres or 3d_lowres.")
        base, folder = Path(self.preprocessed_dataset_folder_base), Path(self.preprocessed_dataset_folder)
        file = prepared = base / FILE
        if not file.is_file():
            file = nnunet_folder("nnUNet_raw") / base.name / RAW_FILE
        if not file.is_file():
            raise GenesisError(
                f"{type(self).__name__} has no labels: expected {prepared} (nnUNetv2_genesis_prepare --labels or "
                f"--candidates) or {file}, found neither."
            )
        cases: dict[str, tuple[str, ...]] = {path.stem: () for path in folder.glob("*.pkl")}
        if not cases:
            raise GenesisError(f"{folder}: holds no preprocessed case. Prepare {self.configuration_name} first (-c).")
        table, missing = match(read_labels(file), cases, file)
        if missing:
            self.print_to_log_file(f"WARNING: {file}: not preprocessed, left out: {some(missing)}")
        table["group"] = table["group"].where(table["group"] != "", table["case"])
        classes = classes_of(table, file)
        return table.assign(rank=table["label"].map(classes.index)), classes

    def build_network_architecture(self, plans_manager: Any, *args: Any, **kwargs: Any) -> nn.Module:
        """The plan's encoder with a classifier on it."""
        if not isinstance(self, nnUNetTrainerGenesisClassifier):  # nnUNetv2_predict asks the class
            sys.exit("ERROR: this model classifies and doesn't segment: predict with nnUNetv2_genesis_classify.")
        network = super().build_network_architecture(plans_manager, *args, **kwargs)
        return self._or_stop(lambda: Classifier(network, len(self.classes), self.settings.stage))

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Do nothing: there is no decoder."""

    def _set_batch_size_and_oversample(self) -> None:
        """Twice the plan's batch: without a decoder a patch takes less than half of the memory."""
        super()._set_batch_size_and_oversample()
        self.batch_size *= 2

    def _build_loss(self) -> nn.Module:
        return nn.CrossEntropyLoss()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PhasedLRScheduler]:
        """AdamW with warm-up and cosine, of the linear layer alone where the encoder is frozen."""
        if self.schedule.frozen:
            getattr(self.network, "_orig_mod", self.network).encoder.requires_grad_(False)
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PhasedLRScheduler(optimizer, self.schedule, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802 - nnU-Net's name
        """nnU-Net's with a milder rotation, and no mirroring where a class is a side."""
        _, dummy_2d, _, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch, rotation = self.configuration_manager.patch_size, (-ROTATION, ROTATION)
        initial = get_patch_size(patch, rotation, rotation, rotation, (0.85, 1.25))
        if dummy_2d:
            initial[0] = patch[0]
        sided = any(side in name.casefold() for name in self.classes for side in _SIDES)
        axes = () if self.settings.mirroring is None and sided else axes
        self.inference_allowed_mirroring_axes = axes
        return rotation, dummy_2d, initial, axes

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """As the segmentation's, unless the classes have changed since."""
        now = self.my_init_kwargs["classification"]
        super().load_checkpoint(filename_or_checkpoint)
        if (then := self.my_init_kwargs.get("classification")) != now:
            sys.exit(
                f"ERROR: {self.output_folder}: was trained with {then}, now it is {now}. Restore labels and settings."
            )

    def do_split(self) -> tuple[list[str], list[str]]:
        """The fold's labelled cases; folds are made, stratified and by patient, where nobody has made any."""
        cases = set(self.table["case"])
        if self.fold == "all":
            return sorted(cases), sorted(cases)
        file = Path(self.preprocessed_dataset_folder_base) / SPLITS
        if not file.is_file():
            write_json(make_folds(self.table, self.classes), file)
        check_fold(self.fold, file.parent, Path(self.preprocessed_dataset_folder))
        folds = read_json(file)
        train, val = ([case for case in folds[self.fold][part] if case in cases] for part in ("train", "val"))
        group = self.table.set_index("case")["group"].to_dict()
        if both := {group[case] for case in train} & {group[case] for case in val}:
            raise GenesisError(
                f"{file}: fold {self.fold} trains on and validates patient {some(sorted(both))}. Divide anew."
            )
        if not train or not val:
            raise GenesisError(
                f"{file}: fold {self.fold} trains on {len(train)} labelled cases and validates {len(val)}."
            )
        return train, val

    def get_dataloaders(self):  # type: ignore[no-untyped-def]
        """Batches by number; without a seed, of one that is drawn and kept for ``--c``."""
        self.seed = secrets.randbelow(2**31) if self.seed is None else self.seed
        return super().get_dataloaders()

    def _batches(self, seed: int) -> list[Callable[[int], dict]]:
        patch = self.configuration_manager.patch_size
        rotation, dummy_2d, initial, axes = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        masked = self.configuration_manager.use_mask_for_norm
        training = self.get_training_transforms(patch, rotation, None, axes, dummy_2d, use_mask_for_norm=masked)
        how = {TRAINING: (initial, training), VALIDATION: (patch, self.get_validation_transforms(None))}
        batches: list[Callable[[int], dict]] = []
        for dataset, (stream, (size, transforms)) in zip(self.get_tr_and_val_datasets(), how.items(), strict=True):
            table = self.table[self.table["case"].isin(dataset.identifiers)]
            items = Items(dataset, table, self.plans_manager.transpose_forward)
            common = (items, self.batch_size, size, patch, self.label_manager)
            loader = ItemLoader(*common, transforms=transforms, jitter=stream == TRAINING)
            batches.append(KeyedBatches(loader, seed, stream, self.local_rank).batch)
        return batches

    def on_train_epoch_start(self) -> None:
        """As nnU-Net's, and key the dropout, which is all that this process draws, by the seed and the epoch."""
        super().on_train_epoch_start()
        key = (self.seed or 0, DROPOUT_STREAM, self.local_rank, self.current_epoch)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def validation_step(self, batch: dict) -> dict:
        """Loss and probabilities of a batch."""
        self.stop_if_asked()
        data, target = (batch[name].to(self.device, non_blocking=True) for name in ("data", "target"))
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            logits = self.network(data)
            loss = self.loss(logits, target)
        probabilities = logits.float().softmax(1).cpu().numpy()
        return {"loss": float(loss), "probabilities": probabilities, "ranks": target.cpu().numpy()}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log the loss, and the AUC where nnU-Net logs its pseudo Dice."""
        val_outputs = list(chain.from_iterable(gather(val_outputs)))
        ranks, probabilities = (np.concatenate([o[name] for o in val_outputs]) for name in ("ranks", "probabilities"))
        value = auc(ranks, probabilities, np.ones(len(ranks)))
        value = value if np.isfinite(value) else 0.5  # too few batches to meet every class
        self.logger.log("mean_fg_dice", value, self.current_epoch)
        self.logger.log("dice_per_class_or_region", [value], self.current_epoch)
        self.logger.log("val_losses", float(np.mean([output["loss"] for output in val_outputs])), self.current_epoch)

    def print_to_log_file(self, *args: Any, **kwargs: Any) -> None:
        """nnU-Net's; its name of the figure that chooses the best epoch is replaced by ours."""
        for old, new in {"Pseudo dice": self.judged_by, "EMA pseudo Dice": "moving average of AUC"}.items():
            args = tuple(arg.replace(old, new) if isinstance(arg, str) else arg for arg in args)
        super().print_to_log_file(*args, **kwargs)

    def _validate(self, save_probabilities: bool) -> None:
        """Classify the fold's validation cases whole, mirrored too, and write ``validation/classification.csv``."""
        _, val = self.do_split()
        if self.inference_allowed_mirroring_axes is None:
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        found = chain.from_iterable(gather(list(self._predictions(val[self.local_rank :: len(gather(None))]))))
        if self.local_rank != 0:
            return
        rows = pd.concat(found, ignore_index=True).sort_values("case", kind="stable")
        folder = Path(self.output_folder) / "validation"
        folder.mkdir(exist_ok=True)
        with atomic_path(folder / PREDICTIONS) as path:
            rows.to_csv(path, index=False, float_format="%.6g")
        value = auc(rows["rank"].to_numpy(), rows[self._columns()].to_numpy(), np.ones(len(rows)))
        self.print_to_log_file(f"Validation complete: {len(rows)} items, AUC {value:.4f}")

    def _columns(self) -> list[str]:
        return [SCORE + name for name in self.classes]

    def _predictions(self, cases: list[str]) -> Iterator[pd.DataFrame]:
        network, planned = self.bare_network().eval(), self.configuration_manager
        axes, transpose = self.inference_allowed_mirroring_axes or (), self.plans_manager.transpose_forward
        dataset = infer_dataset_class(self.preprocessed_dataset_folder)(self.preprocessed_dataset_folder, cases)
        for case in cases:
            rows = self.table[self.table["case"] == case]
            data, seg, _, properties = dataset.load_case(case)
            points = rows[XYZ].to_numpy(float) if "x" in rows else None
            starts = starts_of(points, data.shape[1:], properties, planned.patch_size, transpose)
            logits = mean_outputs(network, data, starts, planned.patch_size, self.device, axes)
            volume = np.nan
            if points is None:
                logits = logits.mean(0, keepdim=True)
                volume = float((seg[:] > 0).sum() * np.prod(planned.spacing))
            columns = ["case", "group", *(XYZ if "x" in rows else []), "label", "rank"]
            kept = rows[columns].assign(volume=volume, fold=self.fold)
            yield kept.assign(**dict(zip(self._columns(), logits.softmax(1).numpy().T, strict=True)))


class nnUNetTrainerGenesisClassifierScratch(nnUNetTrainerGenesisClassifier):
    """The fair baseline: the same from random weights; ``nnUNet_genesis_weights`` is not looked at."""

    parts = ()
