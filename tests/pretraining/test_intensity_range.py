"""The map to [0, 1] and back, against nnU-Net's own normalisation."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization, ZScoreNormalization
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_genesis.errors import GenesisError
from pretraining.intensity_range import (
    from_unit,
    load_ranges,
    measured_range,
    planned_range,
    save_ranges,
    stored_ranges,
    to_unit,
)

CT = {"mean": 40.0, "std": 250.0, "percentile_00_5": -950.0, "percentile_99_5": 1200.0}


def plan(*schemes: str, **properties: float) -> tuple[PlansManager, ConfigurationManager]:
    """nnU-Net's managers for channels normalised by ``schemes``."""
    masks = [False] * len(schemes)
    configuration = {"normalization_schemes": list(schemes), "use_mask_for_norm": masks, "architecture": {}}
    channels = {str(index): {**CT, **properties} for index in range(len(schemes))}
    manager = PlansManager(
        {
            "plans_name": "nnUNetPlans",
            "configurations": {"3d_fullres": configuration},
            "foreground_intensity_properties_per_channel": channels,
        }
    )
    return manager, manager.get_configuration("3d_fullres")


def volume(channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, 10, 12, 14)).astype(np.float32)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two preprocessed cases, a and b, as nnU-Net stores them."""
    folder = tmp_path / "Dataset701_X" / "nnUNetPlans_3d_fullres"
    folder.mkdir(parents=True)
    for seed, case in enumerate("ab"):
        image, shape = volume(2, seed), (1, 10, 12, 14)
        seg = np.ones(shape, np.int16)
        nnUNetDatasetBlosc2.save_case(image, seg, {}, str(folder / case), chunks=shape, blocks=shape)
    return folder


@pytest.mark.parametrize("case_range", [[[-3.9, 4.6], [0.0, 1.0]], [[-0.3, 12.0], [-1000.0, 1000.0]]])
def test_back_from_unit_is_the_identity_within_the_range(case_range):
    low, high = (torch.tensor(case_range)[:, i, None] for i in (0, 1))
    image = low + (high - low) * torch.linspace(0, 1, 101)
    assert to_unit(image, case_range).amin(1).tolist() == [0, 0]
    assert to_unit(image, case_range).amax(1).tolist() == [1, 1]
    error = (from_unit(to_unit(image, case_range), case_range) - image).abs() / (high - low)
    assert error.max() < 1e-5


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4), (2, 3, 4, 5)])
def test_every_channel_has_its_own_range(shape):
    image = torch.stack([torch.full(shape[1:], 5.0), torch.full(shape[1:], 30.0)])
    assert to_unit(image, [[0, 10], [20, 40]]).eq(0.5).all()
    assert from_unit(torch.full(shape, 0.5), [[0, 10], [20, 40]]).equal(image)


def test_outside_of_the_range_is_clipped_and_the_input_kept():
    image = torch.tensor([[-9.0, 0.0, 1.0, 9.0]])
    assert to_unit(image, [[-1.0, 1.0]]).tolist() == [[0.0, 0.5, 1.0, 1.0]]
    assert from_unit(image, [[-1.0, 1.0]]).tolist() == [[-19.0, -1.0, 1.0, 17.0]]
    assert image.tolist() == [[-9.0, 0.0, 1.0, 9.0]]


@pytest.mark.parametrize(("mean", "std"), [(40.0, 250.0), (-700.0, 3.0), (0.0, 1.0), (900.0, 4000.0)])
def test_ct_clipping_bounds_are_0_and_1_whatever_mean_and_deviation(mean, std):
    hu = np.array([-3024, -950, 125, 1200, 3071], np.float32).reshape(1, 1, 5)
    normalised = CTNormalization(False, {**CT, "mean": mean, "std": std}).run(hu.copy())
    unit = to_unit(torch.from_numpy(normalised)[None], planned_range(*plan("CTNormalization", mean=mean, std=std)))
    assert unit.flatten().tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-4)
    hu_again = from_unit(unit, planned_range(*plan("CTNormalization", mean=mean, std=std))) * std + mean
    assert hu_again.flatten().tolist() == pytest.approx([-950, -950, 125, 1200, 1200], abs=0.1)


def test_plans_fix_the_range_only_if_they_do_for_all_channels():
    assert planned_range(*plan("RescaleTo01Normalization", "RGBTo01Normalization")) == [[0, 1], [0, 1]]
    assert planned_range(*plan("CTNormalization", "ZScoreNormalization")) is None
    assert planned_range(*plan("ZScoreNormalization")) is None
    assert planned_range(*plan("NoNormalization")) is None


def test_ct_needs_no_file_of_ranges(folder):
    ranges = load_ranges(folder, ["a", "b"], *plan("CTNormalization"))
    expected = [pytest.approx([(-950 - 40) / 250, (1200 - 40) / 250])]
    assert ranges == {"a": expected, "b": expected}
    assert list(folder.parent.iterdir()) == [folder]


def test_measured_range_is_the_percentiles_of_each_channel():
    image = volume(2)
    image[1] = image[1] * 3 + 7
    expected = [np.percentile(channel, (0.1, 99.9)).tolist() for channel in image]
    assert measured_range(image) == [pytest.approx(pair) for pair in expected]


def test_a_bright_voxel_does_not_widen_the_range():
    image = volume()
    bright = image.copy()
    bright[0, 0, 0, 0] = 1e4
    assert measured_range(bright)[0] == pytest.approx(measured_range(image)[0], abs=0.5)


def test_large_image_is_measured_on_a_part():
    image = np.random.default_rng(0).normal(size=(1, 130, 130, 130)).astype(np.float32)
    assert measured_range(image)[0] == pytest.approx(np.percentile(image, (0.1, 99.9)), abs=0.1)


@pytest.mark.parametrize("value", [0.0, -1.0, 5000.0])
def test_constant_image_stays_finite(value):
    image = np.full((1, 4, 4, 4), value, np.float32)
    unit = to_unit(torch.from_numpy(image), measured_range(image))
    assert unit.isfinite().all()
    assert 0 <= float(unit.min()) <= float(unit.max()) <= 1
    assert from_unit(unit, measured_range(image)).flatten()[0] == pytest.approx(value, abs=1e-3)


def test_almost_constant_image_uses_all_of_its_values():
    image = np.zeros((1, 20, 20, 20), np.float32)
    image[0, 10, 10, 10] = 4
    assert measured_range(image) == [[0, 4]]


def test_z_scored_image_covers_most_of_the_unit_range():
    mr = np.random.default_rng(0).gamma(2, 100, (8, 20, 20)).astype(np.float32)
    image = ZScoreNormalization(False, {}).run(mr)[None]
    unit = to_unit(torch.from_numpy(image), measured_range(image))
    assert (float(unit.min()), float(unit.max())) == (0, 1)
    assert float(((unit == 0) | (unit == 1)).float().mean()) < 0.005


def test_measured_ranges_are_kept_beside_the_folder(folder):
    ranges = load_ranges(folder, ["b", "a"], *plan("ZScoreNormalization", "ZScoreNormalization"))
    assert ranges == {case: measured_range(volume(2, seed)) for seed, case in enumerate("ab")}
    kept = folder.parent / "genesis_intensity_ranges_nnUNetPlans_3d_fullres.json"
    assert json.loads(kept.read_text()) == ranges
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([kept.name, folder.name])
    assert nnUNetDatasetBlosc2.get_identifiers(str(folder)) == ["a", "b"]


def test_images_as_nnunet_wrote_them_before_2_6(tmp_path):
    folder = tmp_path / "nnUNetPlans_3d_fullres"
    folder.mkdir()
    for seed, case in enumerate("ab"):
        nnUNetDatasetNumpy.save_case(volume(2, seed), np.ones((1, 10, 12, 14), np.int16), {}, str(folder / case))
    ranges = load_ranges(folder, ["a", "b"], *plan("ZScoreNormalization", "ZScoreNormalization"))
    assert ranges == {case: measured_range(volume(2, seed)) for seed, case in enumerate("ab")}
    assert stored_ranges(folder) == ranges


def test_known_ranges_are_not_measured_again(folder):
    save_ranges(folder, {"a": [[-5.0, 5.0], [0.0, 1.0]]})
    ranges = load_ranges(folder, ["a", "b"], *plan("ZScoreNormalization", "ZScoreNormalization"))
    assert ranges["a"] == [[-5, 5], [0, 1]]
    assert stored_ranges(folder) == ranges
    assert load_ranges(folder, ["b"], *plan("ZScoreNormalization", "ZScoreNormalization")) == {"b": ranges["b"]}


def test_a_case_written_since_is_measured_again(folder):
    save_ranges(folder, {"a": [[-5.0, 5.0], [0.0, 1.0]]})
    later = time.time() + 5
    os.utime(folder / "a.b2nd", (later, later))
    ranges = load_ranges(folder, ["a"], *plan("ZScoreNormalization", "ZScoreNormalization"))
    assert ranges["a"] != [[-5, 5], [0, 1]]


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "CTNormalization"])
def test_missing_case_is_named_with_a_remedy(folder, scheme):
    with pytest.raises(GenesisError) as error:
        load_ranges(folder, ["a", "c"], *plan(scheme, scheme))
    assert str(error.value).startswith(f"{folder / 'c.b2nd'}: no such file")
    assert "splits_final.json" in str(error.value)
    assert "nnUNetv2_preprocess" in str(error.value)


def test_damaged_file_of_ranges_is_named(folder):
    save_ranges(folder, {"a": [[-5.0, 5.0], [0.0, 1.0]]})
    (folder.parent / "genesis_intensity_ranges_nnUNetPlans_3d_fullres.json").write_text("")
    with pytest.raises(GenesisError, match=r"genesis_intensity_ranges_.*: expected JSON.*Restore or remove it"):
        stored_ranges(folder)
