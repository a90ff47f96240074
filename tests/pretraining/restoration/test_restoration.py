"""The restoration corruptions against the published figures; statistics are taken from parameters where possible."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_genesis.errors import GenesisError
from pretraining.restoration import (
    CORRUPTIONS,
    InPainting,
    LocalShuffling,
    NonLinearIntensity,
    OutPainting,
    RandomFlip,
    RestorationTransform,
)
from pretraining.restoration.intensity import bezier, lookup_table
from pretraining.restoration.shuffling import REFERENCE_SHAPE, window_count
from tests.pretraining.restoration.reference import REFERENCE

TRANSFORMS = {
    "shuffling": LocalShuffling,
    "intensity": NonLinearIntensity,
    "inpainting": InPainting,
    "outpainting": OutPainting,
}
SHAPES = [(1, 20, 21, 30), (3, 20, 32), (2, 4, 4, 4), (2, 5, 40, 7)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def covered(shape: tuple[int, ...], starts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which voxels are in a window, by summing the windows' corner differences."""
    steps = np.zeros([n + 1 for n in shape], np.int32)
    for corner in np.ndindex(*(2,) * len(shape)):
        np.add.at(steps, tuple((starts + edges * corner).T), (-1) ** sum(corner))
    for axis in range(len(shape)):
        steps = steps.cumsum(axis)
    return steps[tuple(slice(n) for n in shape)] > 0


def covered_by_boxes(shape: tuple[int, ...], starts: np.ndarray, edges: np.ndarray) -> float:
    mask = np.zeros(shape, bool)
    for start, edge in zip(starts, edges, strict=True):
        mask[tuple(slice(a, a + n) for a, n in zip(start, edge, strict=True))] = True
    return float(mask.mean())


def parameters(transform: Any, shape: tuple[int, ...], draws: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [transform.sample(rng, 1, shape) for _ in range(draws)]


@pytest.fixture(scope="module")
def chosen() -> list[tuple[str, ...]]:
    """The names of the corruptions in 3,000 draws."""
    transform, image = RestorationTransform(seed=0), noise(1, 4, 4)
    draws = [transform.get_parameters(image=image)["corruptions"] for _ in range(3000)]
    return [tuple(name for name, _ in draw) for draw in draws]


# Fast against plain


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_fast_version_equals_plain_loops(name: str, shape: tuple[int, ...]) -> None:
    transform, image = TRANSFORMS[name](seed=3), noise(*shape)
    for _ in range(2):
        params = transform.get_parameters(image=image)
        fast, plain = transform.apply({"image": image}, **params)["image"], REFERENCE[name](image, **params)
        # The fast intensity map reads a table at the nearest node.
        torch.testing.assert_close(fast, plain, rtol=0, atol=5e-4 if name == "intensity" else 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["shuffling", "intensity"])
def test_inside_boxes_the_values_are_those_of_the_whole(name: str, shape: tuple[int, ...]) -> None:
    transform, image = TRANSFORMS[name](seed=3), noise(*shape)
    boxes = OutPainting(seed=1).get_parameters(image=image)
    params = transform.get_parameters(image=image)
    whole = transform.apply({"image": image}, **params)["image"]
    part = transform.apply({"image": image}, **params, inside=(boxes["starts"], boxes["edges"]))["image"]
    for start, edge in zip(boxes["starts"], boxes["edges"], strict=True):
        box = (slice(None), *(slice(a, a + n) for a, n in zip(start, edge, strict=True)))
        assert torch.equal(part[box], whole[box])


@pytest.mark.parametrize("shape", SHAPES)
def test_all_together_are_the_corruptions_one_after_the_other(shape: tuple[int, ...]) -> None:
    transform, image = RestorationTransform(seed=2, p_flip=0), noise(*shape)
    for _ in range(8):
        params = transform.get_parameters(image=image)
        expected = image
        for name, parameters in params["corruptions"]:
            expected = TRANSFORMS[name]().apply({"image": expected}, **parameters)["image"]
        assert torch.equal(transform.apply({"image": image}, **params)["image"], expected)


def test_a_permutation_puts_every_voxel_anywhere_alike() -> None:
    """One window over the whole patch, 1,500 times: chi-square of where the voxels come from."""
    image = torch.arange(12.0).reshape(1, 2, 2, 3) / 12
    starts, edges = np.zeros((1, 3), np.int64), np.array([[2, 2, 3]])
    counts = np.zeros((12, 12))
    for seed in range(1500):
        params = {"starts": starts, "edges": edges, "seed": seed}
        found = LocalShuffling().apply({"image": image}, **params)["image"]
        sources = (found * 12).round().int().ravel().tolist()
        assert sorted(sources) == list(range(12))
        counts[range(12), sources] += 1
    expected = 1500 / 12
    assert ((counts - expected) ** 2 / expected).sum() < 180  # 121 degrees of freedom: 99.96 %


def test_table_error_is_at_most_the_change_over_half_a_cell() -> None:
    half = 0.5 / 2**14
    values = noise(1, 30, 30)
    for params in parameters(NonLinearIntensity(), (30, 30), 50):
        mapped = NonLinearIntensity().apply({"image": values}, **params)["image"].numpy()
        x, y = bezier(params["points"][0], bool(params["decreasing"][0]))
        around = [np.interp(values.numpy() + shift, x, y) for shift in (-half, half)]
        assert (mapped >= np.minimum(*around) - 1e-6).all()
        assert (mapped <= np.maximum(*around) + 1e-6).all()


# Composition


@pytest.mark.parametrize(
    ("name", "share"), [("shuffling", 0.5), ("intensity", 0.9), ("inpainting", 0.18), ("outpainting", 0.72)]
)
def test_corruption_probability(chosen: list[tuple[str, ...]], name: str, share: float) -> None:
    assert np.mean([name in names for names in chosen]) == pytest.approx(share, abs=0.02)


def test_never_both_paintings_and_neither_in_a_tenth(chosen: list[tuple[str, ...]]) -> None:
    paintings = Counter(len({"inpainting", "outpainting"} & set(names)) for names in chosen)
    assert paintings[2] == 0
    assert paintings[0] / len(chosen) == pytest.approx(0.10, abs=0.015)


def test_identity_in_half_a_percent(chosen: list[tuple[str, ...]]) -> None:
    assert np.mean([not names for names in chosen]) == pytest.approx(0.005, abs=0.003)


def test_corruptions_come_in_the_published_order(chosen: list[tuple[str, ...]]) -> None:
    assert all(names == tuple(name for name in CORRUPTIONS if name in names) for names in chosen)


def test_uncorrupted_draw_is_the_identity_in_separate_memory() -> None:
    image = noise(1, 8, 8)
    sample = RestorationTransform(0, p_shuffling=0, p_intensity=0, p_painting=0, p_flip=0)(image=image)
    assert torch.equal(sample["image"], image)
    assert torch.equal(sample["target"], image)
    assert len({tensor.data_ptr() for tensor in (image, sample["image"], sample["target"])}) == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_image_stays_in_range_and_input_untouched(shape: tuple[int, ...]) -> None:
    transform, image = RestorationTransform(seed=0), noise(*shape)
    before = image.clone()
    for _ in range(20):
        sample = transform(image=image)
        assert sample["image"].shape == sample["target"].shape == image.shape
        assert sample["image"].dtype == sample["target"].dtype == torch.float32
        assert sample["image"].min() >= 0
        assert sample["image"].max() <= 1
        sample["image"].zero_(), sample["target"].zero_()
        assert torch.equal(image, before)


def test_same_seed_same_samples() -> None:
    image = noise(2, 24, 20, 32)
    first, second = RestorationTransform(seed=7), RestorationTransform(seed=7)
    samples = [(first(image=image), second(image=image)) for _ in range(8)]
    assert all(torch.equal(a[key], b[key]) for a, b in samples for key in ("image", "target"))
    assert len({float(a["image"].sum()) for a, _ in samples}) > 1


def test_without_a_seed_numpys_global_state_decides() -> None:
    image, transform = noise(1, 24, 20), RestorationTransform()
    samples = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        samples.append(transform(image=image)["image"])
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_a_shared_generator_drives_components_in_turn() -> None:
    image = noise(1, 20, 20)
    runs = []
    for _ in range(2):
        rng = np.random.default_rng(5)
        transforms = [NonLinearIntensity(rng), OutPainting(rng), LocalShuffling(rng)]
        runs.append([transform(image=image)["image"] for transform in transforms])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_parameters_redraw_the_sample() -> None:
    image, transform = noise(1, 24, 20, 8), RestorationTransform(seed=1)
    params = transform.get_parameters(image=image)
    samples = [RestorationTransform().apply({"image": image}, **params)["image"] for _ in range(2)]
    assert torch.equal(*samples)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_applies_that_corruption_and_never_flips(name: str) -> None:
    transform, image = RestorationTransform.only(name, seed=0), noise(1, 20, 20)
    for _ in range(30):
        params = transform.get_parameters(image=image)
        assert [chosen for chosen, _ in params["corruptions"]] == [name]
        assert params["axes"] == ()


def test_other_entries_pass_through() -> None:
    keys = ["a", "b"]
    assert RestorationTransform(seed=0)(image=noise(1, 8, 8), keys=keys)["keys"] is keys


# Flips


def test_flip_statistics_for_image_target_and_segmentation() -> None:
    image = noise(1, 4, 5, 6)
    transform = RandomFlip(seed=0)
    axes = [transform.get_parameters(image=image)["axes"] for _ in range(4000)]
    # None: no flip (0.6), or two of the same axis (0.4² 0.6 / 3).
    assert np.mean([not picked for picked in axes]) == pytest.approx(0.6 + 0.032, abs=0.025)
    per_axis = [np.mean([axis in picked for picked in axes]) for axis in range(3)]
    # One flip 0.24 / 3, two 0.096 · 4/9, three 0.064 · (12/27 + 1/27).
    assert per_axis == pytest.approx([0.08 + 0.0427 + 0.0308] * 3, abs=0.02)


def test_target_and_segmentation_are_flipped_alike() -> None:
    image = noise(1, 4, 6, 5)
    transform = RestorationTransform(seed=0, p_flip=1)
    sample = transform(image=image, segmentation=(image * 100).to(torch.int16))
    assert not torch.equal(sample["target"], image)
    assert torch.equal((sample["target"] * 100).to(torch.int16), sample["segmentation"])


def test_two_dimensional_images_flip_both_axes() -> None:
    transform = RandomFlip(seed=0)
    axes = {transform.get_parameters(image=noise(1, 4, 4))["axes"] for _ in range(200)}
    assert axes == {(), (0,), (1,), (0, 1)}


# Local shuffling


def test_reference_crop_gets_ten_thousand_windows() -> None:
    assert window_count(REFERENCE_SHAPE) == 10_000


@pytest.mark.parametrize(
    ("shape", "draws"),
    [
        ((64, 64, 32), 20),
        ((40, 56, 40), 10),
        ((128, 128, 128), 1),
        ((14, 256, 224), 1),
        ((4, 4, 4), 300),
        ((20, 32), 300),
    ],
)
def test_windows_cover_82_percent(shape: tuple[int, ...], draws: int) -> None:
    shares = [covered(shape, p["starts"], p["edges"]).mean() for p in parameters(LocalShuffling(), shape, draws)]
    assert np.mean(shares) == pytest.approx(0.82, abs=0.02)


def test_shuffling_changes_79_percent_of_noise() -> None:
    image = noise(1, 64, 64, 32)
    changed = [float((LocalShuffling(s)(image=image)["image"] != image).float().mean()) for s in range(10)]
    assert np.mean(changed) == pytest.approx(0.786, abs=0.01)


def test_window_edges_and_positions_are_uniform_inside_the_patch() -> None:
    shape = np.array((64, 64, 32))
    params = parameters(LocalShuffling(), tuple(shape), 5)
    starts, edges = (np.concatenate([p[key] for p in params]) for key in ("starts", "edges"))
    assert (starts.min(axis=0) == 0).all()
    assert ((starts + edges).max(axis=0) == shape).all()
    for axis, longest in enumerate((6, 6, 3)):
        assert np.bincount(edges[:, axis], minlength=7)[1 : longest + 1] / len(edges) == pytest.approx(
            1 / longest, abs=0.01
        )


def test_separate_windows_keep_their_values() -> None:
    image = noise(2, 40, 40, 40)
    starts, edges = np.array([[0, 0, 0], [10, 20, 30]]), np.array([[4, 4, 4], [3, 2, 4]])
    out = LocalShuffling().apply({"image": image}, starts=starts, edges=edges, seed=1)["image"]
    for box in (np.s_[:, :4, :4, :4], np.s_[:, 10:13, 20:22, 30:34]):
        assert not torch.equal(out[box], image[box])
        assert torch.equal(out[box].flatten(1).sort().values, image[box].flatten(1).sort().values)
        out[box] = image[box]
    assert torch.equal(out, image)


def test_later_window_shuffles_uncorrupted_voxels() -> None:
    image = noise(1, 40, 40)
    starts, edges = np.array([[0, 0], [2, 2]]), np.array([[4, 4], [4, 4]])
    for seed in range(20):
        out = LocalShuffling().apply({"image": image}, starts=starts, edges=edges, seed=seed)["image"]
        assert torch.equal(out[0, 2:6, 2:6].flatten().sort().values, image[0, 2:6, 2:6].flatten().sort().values)


def test_permutations_are_uniform() -> None:
    image = torch.arange(40 * 40).view(1, 40, 40) / 1600
    starts = np.array([[i, j] for i in range(0, 40, 2) for j in range(0, 38, 3)])
    edges = np.tile([1, 3], (len(starts), 1))
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(40):
        out = LocalShuffling().apply({"image": image}, starts=starts, edges=edges, seed=seed)["image"][0]
        counts.update(tuple(out[i, j : j + 3].argsort().tolist()) for i, j in starts)
    assert np.array(list(counts.values())) / counts.total() == pytest.approx([1 / 6] * 6, abs=0.015)


def test_channels_share_windows_and_permutations() -> None:
    image = noise(1, 24, 20, 32)
    out = LocalShuffling(0)(image=torch.cat([image, 1 - image]))["image"]
    assert torch.equal(1 - out[0], out[1])


def test_axes_too_short_for_shuffling_leave_the_image() -> None:
    image = noise(1, 19, 4, 10)
    assert torch.equal(LocalShuffling(0)(image=image)["image"], image)


# Non-linear intensity


def test_curves_are_monotone_and_half_of_them_decreasing() -> None:
    params = parameters(NonLinearIntensity(), (4, 4), 1500)
    decreasing = np.array([bool(p["decreasing"][0]) for p in params])
    assert decreasing.mean() == pytest.approx(0.5, abs=0.04)
    for p, falls in zip(params, decreasing, strict=True):
        table = lookup_table(p["points"][0], bool(falls))
        steps = np.diff(table)
        assert (steps <= 0).all() if falls else (steps >= 0).all()
        assert (table[0], table[-1]) == ((1, 0) if falls else (0, 1))


def test_each_channel_has_its_own_curve() -> None:
    out = NonLinearIntensity(0)(image=noise(1, 8, 8).repeat(3, 1, 1))["image"]
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out[1], out[2])


def test_values_a_rounding_error_outside_are_accepted() -> None:
    image = noise(1, 8, 8)
    image[0, 0, 0], image[0, 0, 1] = -9e-7, 1 + 9e-7
    out = NonLinearIntensity(0)(image=image)["image"]
    assert set(out[0, 0, :2].tolist()) == {0, 1}


# Painting


@pytest.mark.parametrize(("transform", "share", "within"), [(InPainting, 0.056, 0.005), (OutPainting, 0.315, 0.02)])
def test_share_of_voxels_in_boxes(transform: Any, share: float, within: float) -> None:
    params = parameters(transform(), (64, 64, 32), 3000)
    shares = [covered_by_boxes((64, 64, 32), p["starts"], p["edges"]) for p in params]
    assert np.mean(shares) == pytest.approx(share, abs=within)


@pytest.mark.parametrize(("transform", "fewest"), [(InPainting, 0), (OutPainting, 1)])
def test_number_of_boxes(transform: Any, fewest: int) -> None:
    counts = Counter(len(p["starts"]) for p in parameters(transform(), (8, 8), 3000))
    assert set(counts) == set(range(fewest, 6))
    assert counts[fewest] / 3000 == pytest.approx(0.05, abs=0.015)
    assert counts[5] / 3000 == pytest.approx(0.95 ** (5 - fewest), abs=0.03)


@pytest.mark.parametrize(("transform", "edge"), [(InPainting, (10, 21)), (OutPainting, (28, 37))])
def test_box_edges_and_border(transform: Any, edge: tuple[int, int]) -> None:
    params = parameters(transform(), (64, 64, 64), 1000)
    starts, edges = (np.concatenate([p[key] for p in params]) for key in ("starts", "edges"))
    assert (edges.min(), edges.max()) == edge
    assert (starts.min(), (starts + edges).max()) == (3, 61)


@pytest.mark.parametrize("transform", [InPainting, OutPainting])
def test_boxes_fit_the_smallest_patch(transform: Any) -> None:
    params = parameters(transform(), (4, 5, 7), 500)
    starts, edges = (np.concatenate([p[key] for p in params]) for key in ("starts", "edges"))
    assert edges.min() >= 1
    assert starts.min() >= 0
    assert ((starts + edges) <= (4, 5, 7)).all()


def test_noise_is_uniform_and_independent_between_channels() -> None:
    image = torch.full((2, 64, 64), 0.5)
    for transform in (InPainting(1), OutPainting(1)):
        out = transform(image=image)["image"]
        painted = out[:, (out != 0.5).all(dim=0)]
        assert painted.mean().item() == pytest.approx(0.5, abs=0.03)
        assert painted.std().item() == pytest.approx(12**-0.5, abs=0.02)
        assert abs(torch.corrcoef(painted)[0, 1].item()) < 0.15


def test_outpainting_keeps_boxes_for_all_channels() -> None:
    image = noise(3, 40, 40)
    kept = OutPainting(0)(image=image)["image"] == image
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0], kept[2])


# Bad input


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "found NoneType"),
        (torch.zeros(1, 8, 8, dtype=torch.int16), "found torch.int16"),
        (torch.zeros(8, 8), r"found \(8, 8\)"),
        (torch.zeros(1, 8, 3, 8), "at least 4 voxels"),
        (torch.full((1, 8, 8), 1.1), r"found 1\.1 to 1\.1"),
        (torch.full((1, 8, 8), torch.nan), "found nan"),
    ],
)
@pytest.mark.parametrize("transform", [RestorationTransform(0), LocalShuffling(0), RandomFlip(seed=0)])
def test_bad_image_is_named(transform: Any, image: Any, message: str) -> None:
    with pytest.raises(GenesisError, match=message):
        transform(image=image)


def test_bad_settings_are_named() -> None:
    with pytest.raises(GenesisError, match="p_flip must be a probability"):
        RestorationTransform(p_flip=1.5)
    with pytest.raises(GenesisError, match="there are shuffling, intensity"):
        RestorationTransform.only("blur")


def test_half_precision_and_strided_input() -> None:
    image = noise(1, 20, 24)
    assert RestorationTransform(seed=0)(image=image.half())["target"].dtype == torch.float32
    strided = image.transpose(1, 2)
    a, b = (RestorationTransform(seed=0)(image=x)["image"] for x in (strided, strided.contiguous()))
    assert torch.equal(a, b)
