"""A trained model's fold, or a file of pretrained weights; and raw scans, as its plans preprocess them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.architecture import own_words
from nnunet_genesis.classification.labels import XYZ
from nnunet_genesis.classification.network import Classifier, mean_outputs
from nnunet_genesis.classification.places import inside, starts_of
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import read_json
from nnunet_genesis.folders import channel_names
from pretraining.classification.labelling import names_of
from pretraining.preparation.pool import attempt
from pretraining.preparation.preprocess import ScanPlans
from pretraining.scans.find import find_scans
from pretraining.scans.image_files import read_image_file
from pretraining.scans.itk_files import itk_image
from pretraining.scans.reading import ScanReader
from pretraining.scans.scan import LeftOut, Scan, ScanError

Forward = Callable[[torch.Tensor], torch.Tensor]
# Of plans; those of foreign networks lack them.
_PREPROCESSING = ("transpose_forward", "spacing", "preprocessor_name", "resampling_fn_data", "resampling_fn_seg")
_BODY = {"labels": {"background": 0, "body": 1}}


@dataclasses.dataclass(frozen=True)
class Model:
    """A network in evaluation mode, and what its input must be.

    Attributes:
        record: of a classifier: classes, candidates, regions (see the trainer's ``init_args``); else empty.
        mirror_axes: that training mirrored, 0 to 2.
    """

    network: Classifier
    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    record: dict[str, Any]
    mirror_axes: tuple[int, ...] = ()

    def find_scans(self, inputs: Sequence[Path]) -> tuple[list[Scan], list[LeftOut]]:
        """Find scans with the model's number of channels, at least one, and what is left out.

        Raises:
            GenesisError: there is none.
        """
        scans, left_out = find_scans(inputs, len(channel_names(self.dataset_json)))
        if not scans:
            raise GenesisError(f"{', '.join(map(str, inputs))}: no usable scan; {len(left_out)} files can't be used.")
        return scans, left_out

    def outputs(
        self,
        scans: Sequence[Scan],
        forwards: Sequence[tuple[Forward, Sequence[int]]],
        device: torch.device,
        left_out: list[LeftOut],
        candidates: pd.DataFrame | None = None,
        masks: Mapping[str, Path] | None = None,
    ) -> Iterator[tuple[Scan, pd.DataFrame | None, list[torch.Tensor]]]:
        """Give each scan, its candidates, and what each of ``forwards`` says of windows over it, or of each candidate.

        Args:
            forwards: (B, C, Z, Y, X) → (B, F), with the axes to mirror.
            left_out: gets the scans that can't be used, and candidates outside their scan.
            candidates: columns case, x, y, z, line; ``None``: windows.
            masks: of the scans' regions, by case; ``None``: the body.
        """
        channels = len(channel_names(self.dataset_json))
        reader = ScanReader(channels=channels) if masks is None else MaskReader(channels, masks)
        manager = ScanPlans(self.plans, reader)
        configuration, transpose = manager.get_configuration(self.configuration), manager.transpose_forward
        patch, preprocessor = configuration.patch_size, configuration.preprocessor_class(verbose=False)

        def of_scan(scan: Scan) -> tuple[pd.DataFrame | None, list[torch.Tensor]] | None:
            rows = points = None
            if candidates is not None and (rows := candidates[candidates["case"] == scan.case]).empty:
                return None
            image, _, properties = preprocessor.run_case(scan, scan, manager, configuration, dict(_BODY))
            if rows is not None:
                within = inside(rows[XYZ].to_numpy(float), properties, transpose)
                outside = rows["line"][~within]
                left_out.extend(LeftOut(f"{scan.source}, line {n}", "a candidate outside its scan") for n in outside)
                rows = rows[within]
                points = rows[XYZ].to_numpy(float)
            if not (starts := starts_of(points, image.shape[1:], properties, patch, transpose)):
                return None
            return rows, [mean_outputs(forward, image, starts, patch, device, axes) for forward, axes in forwards]

        for scan in scans:
            result = attempt(of_scan, scan)
            if isinstance(result, LeftOut):
                left_out.append(result)
            elif result:
                yield scan, *result


def trained_model(fold: Path, device: torch.device) -> Model:
    """The model of ``…/TRAINER__PLANS__CONFIG/fold_X``: a classifier, or a segmentation's encoder.

    Raises:
        GenesisError: there is no finished training, or its files don't fit each other.
    """
    content = checkpoint.load(fold / "checkpoint_final.pth")
    plans, dataset_json = read_json(fold.parent / "plans.json"), read_json(fold.parent / "dataset.json")
    init, axes = content.get("init_args", {}), tuple(content.get("inference_allowed_mirroring_axes") or ())
    record, configuration = init.get("classification", {}), str(init.get("configuration"))
    network = _network(plans, configuration, dataset_json, record, content["network_weights"], fold)
    return Model(network.to(device).eval(), plans, configuration, dataset_json, record, axes)


def pretrained_model(file: Path, device: torch.device) -> Model:
    """The encoder of a Genesis checkpoint.

    Raises:
        GenesisError: it isn't one, its record doesn't describe its tensors, or not how scans are preprocessed.
    """
    weights = checkpoint.load_weights(file)
    plans, configuration = weights.record.plans, weights.record.configuration
    channels = {"channel_names": (weights.record.data or {}).get("channel_names", {"0": "CT"})}
    network = _network(plans, configuration, channels, {}, weights.network_weights, file)
    planned = plans | PlansManager(plans).get_configuration(configuration).configuration
    if not all(planned.get(key) for key in _PREPROCESSING):
        raise GenesisError(
            f"{file}: these weights were imported and don't say how scans are preprocessed. Plan and train with them "
            "(nnUNetv2_genesis_plan --for), or give a trained model's folder."
        )
    return Model(network.to(device).eval(), plans, configuration, channels, {})


def _network(
    plans: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    record: dict[str, Any],
    weights: dict[str, torch.Tensor],
    where: Path,
) -> Classifier:
    try:
        planned = PlansManager(plans).get_configuration(configuration)
        # nnU-Net imports what plans name: only what we know.
        known = own_words(planned.network_arch_class_name, planned.network_arch_init_kwargs, where)
        network = get_network_from_plans(
            *known.values(), len(channel_names(dataset_json)), 2, allow_init=False, deep_supervision=False
        )
        classifier = Classifier(network, len(record.get("classes", [])) or 1, record.get("stage"))
        mine = classifier.state_dict()
        kept = {name: value for name, value in weights.items() if name in mine}
        head = {} if record else {name: value for name, value in mine.items() if name.startswith(("head.", "norm."))}
        classifier.load_state_dict({**head, **kept})
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise GenesisError(f"{where}: its weights don't fit its plans ({error}). Train or fetch it anew.") from error
    return classifier


class MaskReader(ScanReader):
    """Reads scans with a region's mask, by the scan's case, in the place of the body's."""

    def __init__(self, channels: int, masks: Mapping[str, Path]):
        super().__init__(channels=channels)
        self.masks = masks

    def read_seg(self, seg_fname: Scan) -> tuple[np.ndarray, dict]:
        """The region's mask, int8 (1, Z, Y, X), on the grid of the image read last: the nearest voxel in space."""
        if seg_fname.case not in self.masks:
            raise ScanError("no mask of its region is there (--masks)")
        voxels, properties = read_image_file(self.masks[seg_fname.case])
        mask, grid = itk_image((voxels[0] > 0).astype(np.int8), properties["sitk_stuff"]), self.properties["sitk_stuff"]
        mask = SimpleITK.Resample(
            mask, self.image.shape[:0:-1], SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, grid["origin"],
            grid["spacing"], grid["direction"],
        )  # fmt: skip
        found = SimpleITK.GetArrayFromImage(mask)
        if not found.any():
            raise ScanError("no voxel of its mask lies in the scan: their origins, spacings or directions differ")
        return found[None], self.properties


def find_masks(folder: Path, scans: Sequence[Scan]) -> dict[str, Path]:
    """Masks in a folder, by case: named as the scans, without nnU-Net's channel number."""
    if not folder.is_dir():
        raise GenesisError(f"--masks {folder}: expected a folder. Correct the command.")
    files = {name: file for file in folder.iterdir() if file.is_file() for name in names_of(file.name, file.name)}
    found = ((scan.case, names_of(scan.case, scan.source) & files.keys()) for scan in scans)
    return {case: files[min(names, key=len)] for case, names in found if names}
