"""Alignment of stages by their resolution."""

import pytest

from nnunet_genesis.transfer.alignment import align, resolutions

DOWN = (2, 2, 2)
PLANE = (1, 2, 2)
FULL = (1, 1, 1)


def pairs(source, target, source_spacing=None, target_spacing=None) -> list[int | None]:
    return align(resolutions(source, source_spacing), resolutions(target, target_spacing))


def test_resolution_is_the_cumulative_stride_times_the_spacing():
    assert resolutions([FULL, PLANE, DOWN], (5, 1, 0.5)) == [[5, 1, 0.5], [5, 2, 1], [10, 4, 2]]
    assert resolutions([FULL, DOWN]) == [[1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize("depth", range(1, 7))
def test_the_same_strides_are_aligned_one_by_one_and_what_is_too_deep_is_left(depth):
    strides = [FULL, *[DOWN] * 5]
    assert pairs(strides, strides[:depth]) == list(range(depth))
    assert pairs(strides[:depth], strides) == [*range(depth), *[None] * (6 - depth)]


def test_a_stage_of_the_same_index_but_twice_the_resolution_is_not_taken():
    coarse = [FULL, (4, 4, 4), DOWN]
    assert pairs([FULL, DOWN, DOWN, DOWN], coarse) == [0, 2, 3]
    assert pairs(coarse, [FULL, DOWN, DOWN, DOWN]) == [0, None, 1, 2]


def test_a_stage_without_stride_is_a_surplus():
    assert pairs([FULL, FULL, DOWN, DOWN], [FULL, DOWN, DOWN]) == [0, 2, 3]


def test_thick_slices_meet_isotropic_voxels_in_mm():
    """4 mm slices, halved in the plane until they are isotropic, against 1 mm voxels."""
    thick = [FULL, PLANE, PLANE, DOWN]
    assert resolutions(thick, (4, 1, 1))[2:] == resolutions([FULL, DOWN, DOWN, DOWN], (1, 1, 1))[2:]
    assert pairs([FULL, DOWN, DOWN, DOWN], thick, (1, 1, 1), (4, 1, 1)) == [0, 1, 2, 3]


def test_thick_slices_meet_isotropic_voxels_without_mm_too():
    """Slices so thick that they are halved twice where the other network halves five times."""
    thick = [FULL, PLANE, PLANE, DOWN, PLANE, DOWN]
    assert pairs([FULL, *[DOWN] * 5], thick) == pairs(thick, [FULL, *[DOWN] * 5]) == list(range(6))


def test_mm_decide_where_voxels_mislead():
    """With slices twice as thick, halving the plane makes cubes: the other network's stage 2, not its stage 1."""
    source, target = [FULL, PLANE, (2, 1, 1), DOWN], [FULL, PLANE, DOWN]
    assert pairs(source, target) == [0, 1, 3]
    assert pairs(source, target, (1, 1, 1), (2, 1, 1)) == [0, 2, 3]


def test_a_common_factor_of_the_spacing_makes_no_difference():
    strides = [FULL, DOWN, DOWN]
    assert pairs(strides, strides, (1, 0.7, 0.7), (3, 2.1, 2.1)) == [0, 1, 2]


def test_order_is_kept():
    found = [pair for pair in pairs([FULL, PLANE, DOWN, DOWN], [FULL, DOWN, PLANE, DOWN, DOWN]) if pair is not None]
    assert found == sorted(set(found))
