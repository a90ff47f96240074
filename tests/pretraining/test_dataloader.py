"""Keyed batches: the same for any number of workers and processes and any start; pairs that agree; a fixed validation
set.
"""

import contextlib
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy.ndimage import gaussian_filter

from nnunet_genesis.training.batches import keyed_random
from pretraining.dataloader import RestorationDataLoader, ValidationDataLoader
from pretraining.intensity_range import Range, measured_range, to_unit
from pretraining.restoration import CORRUPTIONS, RestorationTransform

# batchgenerators ends its workers while its thread may still be reading from one.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

PATCH = (12, 16, 14)
SHAPES = {"a": (20, 24, 22), "b": (13, 30, 16), "c": (8, 40, 14)}  # c is thinner than the patch
CLEAN = RestorationTransform(p_shuffling=0, p_intensity=0, p_painting=0, p_flip=0)
KINDS = {"all": RestorationTransform(), **{name: RestorationTransform.only(name) for name in CORRUPTIONS}}


@pytest.fixture(scope="module")
def volumes() -> dict[str, np.ndarray]:
    """Smooth noise of two channels, by case; not centred at 0."""
    rng = np.random.default_rng(0)
    noise = {case: rng.normal(size=(2, *shape)) for case, shape in SHAPES.items()}
    return {case: gaussian_filter(image, (0, 1, 1, 1)).astype(np.float32) * 5 + 2 for case, image in noise.items()}


@pytest.fixture(scope="module")
def ranges(volumes) -> dict[str, Range]:
    return {case: [[float(c.min()), float(c.max())] for c in image] for case, image in volumes.items()}


@pytest.fixture(scope="module")
def folder(volumes, tmp_path_factory) -> Path:
    """The volumes as nnU-Net stores preprocessed cases; the body is all but a margin."""
    folder = tmp_path_factory.mktemp("preprocessed")
    for case, image in volumes.items():
        seg = np.zeros((1, *image.shape[1:]), np.int16)
        seg[:, 2:-2, 2:-2, 2:-2] = 1
        properties = {"class_locations": {1: np.argwhere(seg == 1)}}
        nnUNetDatasetBlosc2.save_case(image, seg, properties, str(folder / case), image.shape, image.shape)
    return folder


@pytest.fixture
def make(folder, ranges):
    """Makes a loader; ``kinds`` and ``period`` make it one for validation."""

    def make(seed: int = 0, corrupt: Any = KINDS["all"], batch_size: int = 2, positions: Any = None, **validation: Any):
        labels = LabelManager({"background": 0, "body": 1}, None)
        common = (nnUNetDatasetBlosc2(str(folder)), batch_size, PATCH, labels, 0.5, ranges, corrupt)
        if validation:
            return ValidationDataLoader(*common, (seed, 1), positions, kinds=KINDS, **validation)
        return RestorationDataLoader(*common, (seed, 0), positions)

    return make


def take(loader: RestorationDataLoader, count: int, first: int = 0, workers: int = 0) -> list[dict]:
    """The next ``count`` batches; ends the workers."""
    batches = loader.start(first, workers)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        if workers:
            batches._finish()


def equal(one: dict, other: dict) -> bool:
    return one["keys"] == other["keys"] and all(torch.equal(one[name], other[name]) for name in ("data", "target"))


def random_states() -> tuple[bytes, torch.Tensor, tuple]:
    return np.random.get_state()[1].tobytes(), torch.get_rng_state(), random.getstate()


def test_shapes_and_types(make):
    (batch,) = take(make(), 1)
    assert batch["data"].shape == batch["target"].shape == (2, 2, *PATCH)
    assert batch["data"].dtype == batch["target"].dtype == torch.float32
    assert 0 <= float(batch["target"].min()) <= float(batch["target"].max()) <= 1
    assert len(batch["keys"]) == 2
    assert set(batch["keys"]) <= set(SHAPES)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_make_no_difference(make, workers):
    expected, found = take(make(), 5), take(make(), 5, workers=workers)
    assert all(equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_start_in_the_middle_goes_on_as_the_whole_run(make, workers):
    whole = take(make(), 6)
    assert all(equal(*pair) for pair in zip(whole[3:], take(make(), 3, first=3, workers=workers), strict=True))


def test_batches_differ_from_each_other(make):
    batches = take(make(), 6)
    assert not any(equal(one, other) for i, one in enumerate(batches) for other in batches[:i])


def test_another_seed_gives_other_batches(make):
    assert not any(equal(one, two) for one, two in zip(take(make(), 3), take(make(seed=1), 3), strict=True))


@pytest.mark.parametrize("shares", [[[0, 1, 2], [3, 4]], [[0, 1], [2], [3], [4]]])
@pytest.mark.parametrize("validation", [{}, {"period": 5}])
def test_processes_share_the_batches_of_one(make, shares, validation):
    whole = take(make(batch_size=5, **validation), 5)
    parts = [take(make(batch_size=5, positions=share, **validation), 5) for share in shares]
    for batch, *pieces in zip(whole, *parts, strict=True):
        assert batch["keys"] == [key for piece in pieces for key in piece["keys"]]
        for name in ("data", "target"):
            assert torch.equal(batch[name], torch.cat([piece[name] for piece in pieces]))


def test_patches_of_a_batch_and_the_choice_of_its_cases_have_streams_of_their_own(make, monkeypatch):
    keys = []
    monkeypatch.setattr(
        "pretraining.dataloader.keyed_random", lambda *key: keys.append(key) or contextlib.nullcontext()
    )
    make().batch(7)
    assert len(keys) == 3
    assert len({tuple(np.random.SeedSequence(key).generate_state(4)) for key in keys}) == 3


def test_global_random_states_neither_matter_nor_change(make):
    first = take(make(), 2)
    np.random.seed(7)
    torch.manual_seed(7)
    random.seed(7)
    before = random_states()
    second = take(make(), 2)
    after = random_states()
    assert all(equal(*pair) for pair in zip(first, second, strict=True))
    assert (before[0], before[2]) == (after[0], after[2])
    assert torch.equal(before[1], after[1])


def draws(*key: int) -> tuple[float, float, float]:
    with keyed_random(*key):
        return float(np.random.rand()), float(torch.rand(1)), random.random()


def test_keyed_random_covers_numpy_torch_and_random():
    assert draws(0, 1, 2) == draws(0, 1, 2)
    assert all(one != two for one, two in zip(draws(0, 1, 2), draws(0, 1, 3), strict=True))
    assert draws(0, 1) != draws(1, 0)


def test_keyed_random_restores_the_states_after_an_error():
    before = random_states()
    with contextlib.suppress(ZeroDivisionError), keyed_random(5):
        raise ZeroDivisionError(np.random.rand(), torch.rand(1), random.random())
    assert (before[0], before[2]) == (random_states()[0], random_states()[2])
    assert torch.equal(before[1], random_states()[1])


def test_clean_data_mapped_back_are_the_target(make, ranges):
    for batch in take(make(corrupt=CLEAN), 4):
        for data, target, case in zip(batch["data"], batch["target"], batch["keys"], strict=True):
            torch.testing.assert_close(to_unit(data, ranges[case]), target, atol=1e-5, rtol=0)


def test_clean_patch_is_a_crop_of_its_case_padded_with_0_as_nnunet_does(make, volumes):
    loader = make(corrupt=CLEAN)
    loader.oversample_foreground_percent = 0  # or a patch may reach over any border
    for batch in take(loader, 5):
        for data, case in zip(batch["data"].numpy(), batch["keys"], strict=True):
            missing = max(0, PATCH[0] - SHAPES[case][0])
            assert (np.abs(data).max((0, 2, 3)) < 1e-4).sum() == missing
            padded = np.pad(volumes[case], [(0, 0), (missing // 2, missing - missing // 2), (0, 0), (0, 0)])
            windows = np.lib.stride_tricks.sliding_window_view(padded, PATCH, (1, 2, 3))
            assert np.abs(windows - data[:, None, None, None]).max((0, 4, 5, 6)).min() < 1e-4


def test_corrupted_data_stay_in_the_range_of_the_case(make, ranges):
    for batch in take(make(), 4):
        assert not torch.equal(batch["data"], batch["target"])
        for data, case in zip(batch["data"], batch["keys"], strict=True):
            for channel, (low, high) in zip(data, ranges[case], strict=True):
                assert low - 1e-4 <= float(channel.min()) <= float(channel.max()) <= high + 1e-4


@pytest.mark.parametrize("force_fg", [True, False])
def test_a_patch_sticks_out_only_of_an_image_that_is_too_thin(make, force_fg):
    loader = make()
    locations = {1: np.argwhere(np.ones((1, 20, 24, 13)))}
    for _ in range(50):
        lower, upper = loader.get_bbox((20, 24, 13), force_fg, locations)
        assert all(low >= 0 and up <= size for low, up, size in zip(lower[:2], upper[:2], (20, 24), strict=True))
        assert (lower[2], upper[2]) in ((-1, 13), (0, 14))  # 13 voxels for a patch of 14
        assert [up - low for low, up in zip(lower, upper, strict=True)] == list(PATCH)


def test_foreground_share_of_a_batch_is_nnunets(make):
    assert [make().get_do_oversample(position) for position in range(2)] == [False, True]


def test_validation_repeats_after_its_period(make):
    loader = make(period=10)
    batches = take(loader, 20)
    assert all(equal(batches[k], batches[k + 10]) for k in range(10))
    assert not any(equal(batches[0], batches[k]) for k in range(1, 10))
    assert equal(loader.batch(7), batches[7])


def test_validation_takes_kinds_in_turn_and_each_round_shows_the_same_patches(make):
    batches = take(make(period=10), 10)
    assert [batch["kind"] for batch in batches] == [*KINDS, *KINDS]
    for start in (0, 5):
        # Not the first: with all corruptions a patch may be flipped too.
        assert all(torch.equal(batches[start + 1]["target"], batches[start + k]["target"]) for k in (2, 3, 4))
        assert all(batches[start]["keys"] == batches[start + k]["keys"] for k in range(5))
        assert not torch.equal(batches[start + 1]["data"], batches[start + 2]["data"])
    assert not torch.equal(batches[1]["target"], batches[6]["target"])


def test_validation_visits_cases_in_turn(make):
    keys = [batch["keys"] for batch in take(make(period=15), 15)[::5]]
    assert keys == [["a", "b"], ["c", "a"], ["b", "c"]]


def test_validation_with_a_worker_is_the_same(make):
    assert all(equal(*pair) for pair in zip(take(make(period=5), 7), take(make(period=5), 7, workers=1), strict=True))


def test_training_and_validation_have_streams_of_their_own(make):
    assert not equal(make().batch(0), make(period=5).batch(0))


def test_measured_ranges_can_be_given(make, volumes):
    loader = make()
    loader.ranges = {case: measured_range(image) for case, image in volumes.items()}
    assert loader.batch(0)["data"].isfinite().all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_patch_with_a_value_that_is_not_finite_is_not_finite_as_a_whole(make, volumes, folder, tmp_path, value, capsys):
    image = volumes["c"].copy()
    image[0, 4, 14:26, 7] = value  # every patch of the case meets it
    shutil.copytree(folder, tmp_path / "poisoned")
    for file in (tmp_path / "poisoned").glob("c*"):
        file.unlink()
    seg = np.zeros((1, *image.shape[1:]), np.int16)
    seg[:, :, 16:24] = 1
    properties = {"class_locations": {1: np.argwhere(seg == 1)}}
    nnUNetDatasetBlosc2.save_case(image, seg, properties, str(tmp_path / "poisoned" / "c"), image.shape, image.shape)
    loader = make(period=15)
    loader._data = nnUNetDatasetBlosc2(str(tmp_path / "poisoned"))
    batch = loader.batch(5)
    assert batch["keys"] == ["c", "a"]
    for name in ("data", "target"):
        assert batch[name][0].isnan().all()
        assert batch[name][1].isfinite().all()
    assert "WARNING: c: holds NaN or infinity" in capsys.readouterr().out
