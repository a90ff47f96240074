"""Each adaptation keeps what it claims, on tensors and on the outputs of convolutions and networks."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from nnunet_genesis.transfer.moves import Kernel, Mix, Move, Narrow, Offset, Permute
from nnunet_genesis.transfer.network import Window
from tests.nnunet_genesis.networks import FIRST, network, same, transfer, values

FLAT = [[1, 3, 3]] + [[3, 3, 3]] * 3


def adapted(step, weight: torch.Tensor, target: torch.Tensor | None = None, **others) -> torch.Tensor:
    target = weight if target is None else target
    return Move("t", tuple(target.shape), "s", (step,)).adapt({"s": weight, **others}, target)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_summed_kernel_is_exact_for_input_constant_along_the_axis(axis, stride):
    weight, bias = torch.randn(4, 2, 3, 3, 3), torch.randn(4)
    image = torch.randn(1, 2, 9, 9, 9).select(2 + axis, 0).unsqueeze(2 + axis).expand(-1, -1, 9, 9, 9)
    flat = adapted(Kernel(axis, 1, "sum"), weight)
    padding = [int(other != axis) for other in range(3)]
    expected = F.conv3d(image, weight, bias, stride, 1).narrow(2 + axis, 1, 3)  # the interior: no padding is seen
    torch.testing.assert_close(F.conv3d(image, flat, bias, stride, padding).narrow(2 + axis, 1, 3), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_centred_kernel_is_exact_for_any_input_and_at_the_border(axis):
    shape = [3, 3, 3]
    shape[axis] = 1
    weight, image = torch.randn(4, 2, *shape), torch.randn(1, 2, 6, 7, 8)
    wide = adapted(Kernel(axis, 3, "centre"), weight)
    assert wide.shape == (4, 2, 3, 3, 3)
    expected = F.conv3d(image, weight, padding=[int(other != axis) for other in range(3)])
    torch.testing.assert_close(F.conv3d(image, wide, padding=1), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_repeated_transposed_kernel_repeats_the_output(axis):
    stride = [2, 2, 2]
    stride[axis] = 1
    weight, image = torch.randn(3, 4, *stride), torch.randn(1, 3, 4, 5, 6)
    wide = adapted(Kernel(axis, 2, "repeat"), weight)
    expected = F.conv_transpose3d(image, weight, stride=stride).repeat_interleave(2, 2 + axis)
    torch.testing.assert_close(F.conv_transpose3d(image, wide, stride=2), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_averaged_transposed_kernel_gives_the_mean_of_each_pair_of_outputs(axis):
    stride = [2, 2, 2]
    stride[axis] = 1
    weight, image = torch.randn(3, 4, 2, 2, 2), torch.randn(1, 3, 4, 5, 6)
    flat = adapted(Kernel(axis, 1, "mean"), weight)
    pairs = F.conv_transpose3d(image, weight, stride=2).unfold(2 + axis, 2, 2).mean(-1)
    torch.testing.assert_close(F.conv_transpose3d(image, flat, stride=stride), pairs)


def test_permuted_axes_see_the_same_anatomy():
    weight, image = torch.randn(4, 2, 1, 3, 3), torch.randn(1, 2, 5, 6, 7)
    turned = adapted(Permute((2, 1, 0)), weight)
    expected = F.conv3d(image, weight).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(F.conv3d(image.permute(0, 1, 4, 3, 2), turned), expected)


def test_mixed_channels_and_a_row_of_zeros():
    weight, target = torch.randn(4, 1, 3, 3, 3), torch.randn(4, 3, 3, 3, 3)
    mixed = adapted(Mix(((0.5,), (0.5,), (0.0,)), ""), weight, target)
    torch.testing.assert_close(mixed[:, :2], 0.5 * weight.expand(-1, 2, -1, -1, -1))
    assert torch.equal(mixed[:, 2], target[:, 2])


def test_an_offset_moves_into_the_bias():
    weight, bias, image = torch.randn(4, 2, 3, 3, 3), torch.randn(4), torch.randn(1, 2, 7, 7, 7)
    moved = adapted(Offset("w", (0.7, -2.0)), bias, w=weight)
    shifted = image + torch.tensor([0.7, -2.0]).reshape(1, 2, 1, 1, 1)
    torch.testing.assert_close(F.conv3d(image, weight, moved), F.conv3d(shifted, weight, bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("source", "target"), [((8, 6), (4, 3)), ((4, 3), (8, 6)), ((4, 8), (8, 4))])
@pytest.mark.parametrize("transposed", [False, True])
def test_narrowed_rows_keep_their_norm_and_direction(source, target, transposed):
    shape = (lambda out, into: (into, out, 2, 2, 2)) if transposed else (lambda out, into: (out, into, 3, 3, 3))
    weight, before = torch.randn(shape(*source)), torch.randn(shape(*target))
    out, into = min(source[0], target[0]), min(source[1], target[1])
    step = Narrow(out, ((source[1], target[1]),), transposed)
    found = adapted(step, weight, before)
    rows, former, start = (x.transpose(0, 1) if transposed else x for x in (found, weight, before))
    torch.testing.assert_close(rows[:out].flatten(1).norm(dim=1), former[:out].flatten(1).norm(dim=1))
    cosine = F.cosine_similarity(rows[:out, :into].flatten(1), former[:out, :into].flatten(1))
    torch.testing.assert_close(cosine, torch.ones(out))
    assert torch.equal(rows[out:], start[out:])


def test_narrowing_keeps_the_variance_of_the_activations():
    weight = torch.randn(64, 32, 3, 3, 3)
    image = torch.randn(1, 32, 24, 24, 24)
    narrow = adapted(Narrow(64, ((32, 8),)), weight, torch.randn(64, 8, 3, 3, 3))
    before, after = F.conv3d(image, weight).var((0, 2, 3, 4)), F.conv3d(image[:, :8], narrow).var((0, 2, 3, 4))
    torch.testing.assert_close(after.mean(), before.mean(), rtol=0.03, atol=0)


def test_each_segment_of_a_concatenation_gives_its_leading_channels():
    weight, before = torch.randn(2, 8, 1, 1, 1), torch.zeros(2, 4, 1, 1, 1)
    found = adapted(Narrow(2, ((4, 2), (4, 2))), weight, before)
    cosine = F.cosine_similarity(found.flatten(1), weight[:, [0, 1, 4, 5]].flatten(1))
    torch.testing.assert_close(cosine, torch.ones(2))


def test_networks_with_flat_kernels_agree_on_images_constant_along_the_axis():
    source, target = network(2, seed=1), network(2, kernels=[[1, 3, 3], [1, 3, 3]], strides=[(1, 1, 1), (1, 2, 2)])
    transfer(source, target)
    image = torch.randn(1, 1, 1, 16, 16)
    deep = image.expand(-1, -1, 33, -1, -1)
    source.encoder.stages[1][0].convs[0].conv.stride = (1, 2, 2)
    found, expected = stage_without_norm(target, image, 1), stage_without_norm(source, deep, 1)[:, :, 16:17]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def stage_without_norm(net, image: torch.Tensor, last: int) -> torch.Tensor:
    """Features of the stages up to ``last`` without instance norms, whose statistics include the padded border."""
    for stage in net.encoder.stages[: last + 1]:
        for block in stage[0].convs:
            image = block.nonlin(block.conv(image))
    return image


def test_deeper_network_with_thin_kernels_gives_the_features_of_the_thin_one():
    """1×3×3 kernels centred in 3×3×3 ones: the whole first stage agrees, norms and border included."""
    source, target = network(4, kernels=FLAT, seed=1), network(5, seed=2)
    transfer(source, target)
    image = torch.randn(1, 1, 8, 16, 16)
    torch.testing.assert_close(target.encoder.stages[0](image), source.encoder.stages[0](image))


def test_all_channels_alike_give_the_features_of_one():
    for one, many in ((1, 3), (3, 1), (2, 5), (5, 2)):
        source, target = network(channels=one, seed=1), network(channels=many, seed=2)
        transfer(source, target, target_is={"names": [f"other {i}" for i in range(many)]})
        image = torch.randn(1, 1, 8, 8, 8)
        found = target.encoder.stages[0](image.expand(-1, many, -1, -1, -1))
        expected = source.encoder.stages[0](image.expand(-1, one, -1, -1, -1))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_channels_of_the_same_name_meet():
    source, target = network(channels=2, seed=1), network(channels=3, seed=2)
    names = {"source_is": {"names": ["T2", "T1"]}, "target_is": {"names": ["t1 ", "FLAIR", "T2"]}}
    move = transfer(source, target, **names)[FIRST]
    assert str(move.steps[0]) == "input channels by name: t1 , T2"
    assert torch.equal(values(target)[FIRST][:, [0, 2]], values(source)[FIRST][:, [1, 0]])
    assert torch.equal(values(target)[FIRST][:, 1], values(network(channels=3, seed=2))[FIRST][:, 1])
    assert move.placed == 2 * 2 * 27


def test_a_residual_stem_takes_other_channels_too():
    source, target = network(residual=True, seed=1), network(channels=2, residual=True, seed=2)
    transfer(source, target, target_is={"names": ["a", "b"]})
    image = torch.randn(1, 1, 8, 8, 8)
    found = target.encoder.stem(image.expand(-1, 2, -1, -1, -1))
    torch.testing.assert_close(found, source.encoder.stem(image), atol=1e-4, rtol=1e-4)


PUBLISHED = Window(-775.8457, 251.9326, -1000, 1000)
LIVER = Window(77.7, 35.3, -13, 170)


def test_the_same_hu_give_the_same_features_through_both_normalisations():
    source, target = network(seed=1), network(seed=2)
    windows = {"source_is": {"windows": [PUBLISHED]}, "target_is": {"windows": [LIVER]}}
    moves = transfer(source, target, **windows)
    hu = torch.rand(1, 1, 12, 12, 12) * 150  # within both windows
    pair = [(hu - window.mean) / window.sd for window in (LIVER, PUBLISHED)]
    first = [net.encoder.stages[0][0].convs[0].conv for net in (target, source)]
    found, expected = (conv(image)[..., 1:-1, 1:-1, 1:-1] for conv, image in zip(first, pair, strict=True))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert "CT intensities folded in: x · 0.1401 +3.388" in str(moves[FIRST].steps[0])


def test_the_same_normalisation_is_a_plain_copy():
    source, target = network(seed=1), network(seed=2)
    transfer(source, target, source_is={"windows": [LIVER]}, target_is={"windows": [LIVER]})
    assert same(source.encoder, target.encoder)


def test_channels_and_intensities_together():
    """One CT channel into two CT channels with windows of their own: the same HU in both give the same features."""
    source, target = network(seed=1), network(channels=2, seed=2)
    other = Window(100.0, 50.0, -50, 300)
    names = {"names": ["CT low", "CT high"], "windows": [LIVER, other]}
    transfer(source, target, source_is={"windows": [PUBLISHED]}, target_is=names)
    hu = torch.rand(1, 1, 12, 12, 12) * 150
    both = torch.cat([(hu - window.mean) / window.sd for window in (LIVER, other)], 1)
    found = target.encoder.stages[0][0].convs[0].conv(both)
    expected = source.encoder.stages[0][0].convs[0].conv((hu - PUBLISHED.mean) / PUBLISHED.sd)
    inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(found[inner], expected[inner], atol=1e-5, rtol=1e-5)


def test_a_network_whose_axes_are_reversed_gives_the_reversed_output():
    source = network(3, kernels=[[3, 3, 1], [3, 3, 3], [3, 3, 3]], strides=[(1, 1, 1), (2, 2, 1), (2, 2, 2)], seed=1)
    target = network(3, kernels=[[1, 3, 3], [3, 3, 3], [3, 3, 3]], strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2)], seed=2)
    transfer(source, target, source_is={"axes": "xyz", "spacing": (1, 1, 5)}, target_is={"spacing": (5, 1, 1)})
    image = torch.randn(1, 1, 8, 16, 16)
    found, expected = target.encoder(image), source.encoder(image.permute(0, 1, 4, 3, 2))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.permute(0, 1, 4, 3, 2), atol=1e-4, rtol=1e-4)
