"""Matching on nnU-Net's own networks: every target tensor against the one it must equal, or the reason why not."""

import dataclasses
import json
import pickle

import pytest
import torch

from nnunet_genesis.transfer.matching import match
from nnunet_genesis.transfer.moves import Move, Reason
from nnunet_genesis.transfer.report import LoadReport
from tests.nnunet_genesis.networks import BOTH, FIRST, describe, network, same, transfer, values

DEPTHS = [(4, 4), (4, 5), (5, 4), (6, 4), (4, 6), (5, 6)]


@pytest.mark.parametrize("stages", DEPTHS)
def test_encoder_stages_are_aligned_from_full_resolution(stages):
    source, target, before = network(stages[0], seed=1), network(stages[1], seed=2), network(stages[1], seed=2)
    transfer(source, target)
    for index, stage in enumerate(target.encoder.stages):
        expected = source.encoder if index < stages[0] else before.encoder
        assert same(stage, expected.stages[index])


@pytest.mark.parametrize("stages", DEPTHS)
def test_decoder_stages_are_aligned_from_full_resolution(stages):
    source, target, before = network(stages[0], seed=1), network(stages[1], seed=2), network(stages[1], seed=2)
    transfer(source, target)
    for level in range(1, stages[1]):  # 1: the last stage, which is at full resolution
        expected = source.decoder if level < stages[0] else before.decoder
        assert same(target.decoder.stages[-level], expected.stages[-level])
        assert same(target.decoder.transpconvs[-level], expected.transpconvs[-level])


def test_a_surplus_source_stage_is_left_out_of_encoder_and_decoder():
    """The source's stage 1 has no stride; the stages below it belong to the target's one index higher."""
    source = network(4, strides=[(1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 2, 2)], width=4, seed=1)
    target = network(3, width=8, seed=2)
    moves = transfer(source, target)
    assert same(target.encoder.stages[2], source.encoder.stages[3])
    assert same(target.decoder.transpconvs[0], source.decoder.transpconvs[0])
    assert moves["decoder.stages.1.convs.0.conv.weight"].source is None


def test_heads_are_never_transferred():
    source, target = network(seed=1), network(seed=2)
    moves = transfer(source, target).values()
    assert same(target.decoder.seg_layers, network(seed=2).decoder.seg_layers)
    heads = [move for move in moves if move.part == "head"]
    assert len(heads) == 6
    assert {move.operation for move in heads} == {"skip"}


def test_encoder_only_leaves_the_decoder():
    source, target = network(5, seed=1), network(4, seed=2)
    before = values(target)
    moves = transfer(source, target, ("encoder",)).values()
    for name, value in values(target).items():
        assert torch.equal(value, source.state_dict()[name] if name.startswith("encoder.") else before[name])
    assert "decoder: this trainer does not transfer it" in {move.reason for move in moves}


def test_a_source_without_a_decoder_has_nothing_for_one():
    source, target = describe(network(5)), describe(network(4))
    encoder = {name: shape for name, shape in source.shapes.items() if name.startswith("encoder.")}
    moves = match(dataclasses.replace(source, shapes=encoder), target, BOTH)
    found = {(move.reason, move.cause) for move in moves if move.part == "decoder"}
    assert found == {("not in the pretrained network", Reason.MISSING)}


def test_residual_network_moves_like_a_plain_one():
    source, target = network(5, residual=True, seed=1), network(4, residual=True, seed=2)
    moves = transfer(source, target)
    assert same(target.encoder.stem, source.encoder.stem)
    assert all(same(stage, source.encoder.stages[index]) for index, stage in enumerate(target.encoder.stages))
    assert LoadReport("", list(moves.values())).coverage() == 1


@pytest.mark.parametrize("residual", [True, False])
def test_residual_and_plain_encoders_do_not_mix(residual):
    source, target = network(residual=residual, seed=1), network(residual=not residual, seed=2)
    moves = transfer(source, target, partial=True)
    assert not any(move.placed for move in moves.values())
    assert same(target, network(residual=not residual, seed=2))


def test_flat_and_full_kernels_are_adapted_in_encoder_and_decoder():
    flat = {"kernels": [[1, 3, 3], [1, 3, 3], [3, 3, 3]], "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 2)]}
    for source, target, verbs in (
        (network(3, seed=1), network(3, **flat), {"summed", "averaged"}),
        (network(3, **flat, seed=1), network(3), {"centred", "repeated"}),
    ):
        moves = list(transfer(source, target).values())
        assert {str(step).split()[1] for move in moves for step in move.steps} == verbs
        report = LoadReport("", moves)
        assert (report.coverage(), report.coverage("decoder")) == (1, 1)


def test_other_widths_are_left_out_unless_asked_for():
    source, target = network(width=4, seed=1), network(width=2, seed=2)
    moves = transfer(source, target)
    assert not any(move.placed for name, move in moves.items() if "conv.weight" in name)
    assert moves[FIRST].reason.startswith("pretrained shape [4, 1, 3, 3, 3], here [2, 1, 3, 3, 3]")
    assert "nnUNet_genesis_partial_widths=1" in moves[FIRST].reason
    assert same(target.encoder, network(width=2, seed=2).encoder)


def test_narrower_target_is_covered_whole_with_partial_widths():
    source, target = network(width=4, seed=1), network(width=2, seed=2)
    moves = list(transfer(source, target, partial=True).values())
    report = LoadReport("", moves)
    assert (report.coverage(), report.coverage("decoder")) == (1, 1)
    torch.testing.assert_close(values(target)[FIRST], values(source)[FIRST][:2])
    norm = "encoder.stages.1.0.convs.0.norm.bias"
    assert torch.equal(values(target)[norm], values(source)[norm][:4])


def test_wider_target_is_covered_in_part_and_its_other_channels_keep_their_values():
    source, target, before = network(width=2, seed=1), network(width=4, seed=2), network(width=4, seed=2)
    report = LoadReport("", list(transfer(source, target, partial=True).values()))
    assert 0.2 < report.coverage() < 0.3
    torch.testing.assert_close(values(target)[FIRST][:2], values(source)[FIRST])
    assert torch.equal(values(target)[FIRST][2:], values(before)[FIRST][2:])


def test_a_decoder_takes_the_leading_channels_of_the_upsampled_map_and_of_the_skip():
    source, target = network(width=4, seed=1), network(width=2, seed=2)
    transfer(source, target, partial=True)
    name = "decoder.stages.2.convs.0.conv.weight"
    chosen = values(source)[name][:2, [0, 1, 4, 5]]
    cosine = torch.cosine_similarity(values(target)[name].flatten(1), chosen.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(2))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("there", "here"), [(3, 2), (2, 3)])
def test_other_numbers_of_blocks_take_the_leading_ones_when_asked_for(residual, there, here):
    source = network(3, blocks=there, residual=residual, seed=1)
    target = network(3, blocks=here, residual=residual, seed=2)
    skipped = transfer(source, target)
    assert f"{there} pretrained blocks in this stage, here {here}" in " ".join(move.reason for move in skipped.values())
    moves = transfer(source, target, partial=True)
    block = f"encoder.stages.1.{'' if residual else '0.'}{'blocks' if residual else 'convs'}.1."
    assert {move.operation for name, move in moves.items() if name.startswith(block)} == {"copy"}


def test_a_cascade_takes_the_image_and_leaves_the_previous_stage():
    source, target, before = network(seed=1), network(channels=3, seed=2), network(channels=3, seed=2)
    moves = transfer(source, target, target_is={"names": ["c0"]})
    assert (moves[FIRST].operation, moves[FIRST].placed) == ("adapt", 2 * 27)
    assert "2 channels of the previous stage keep their initialisation" in str(moves[FIRST].steps[0])
    assert torch.equal(values(target)[FIRST][:, :1], values(source)[FIRST])
    assert torch.equal(values(target)[FIRST][:, 1:], values(before)[FIRST][:, 1:])


def test_coverage_counts_elements_of_each_parameter_once():
    moves = list(transfer(network(4, seed=1), network(5, seed=2)).values())
    sizes = {name: value.numel() for name, value in values(network(5).encoder).items()}
    deepest = sum(size for name, size in sizes.items() if name.startswith("stages.4."))
    assert [move.target for move in moves] == list(values(network(5)))
    assert LoadReport("", moves).coverage() == pytest.approx(1 - deepest / sum(sizes.values()))


def test_state_dict_or_parameters_as_source_make_no_difference():
    source, target = describe(network(5)), describe(network(4))
    every = {name: tuple(value.shape) for name, value in network(5).state_dict().items()}
    assert len(every) > len(source.shapes)
    assert match(dataclasses.replace(source, shapes=every), target, BOTH) == match(source, target, BOTH)


def test_moves_are_plain_data():
    move = match(describe(network()), describe(network()), BOTH)[0]
    assert pickle.dumps(move)
    assert json.loads(json.dumps(dataclasses.asdict(move)))["source"] == move.target
    with pytest.raises(dataclasses.FrozenInstanceError):
        move.placed = 3  # type: ignore[misc]


def test_a_tensor_of_another_rank_is_left_out():
    source = describe(network())
    odd = dataclasses.replace(source, shapes={**source.shapes, "encoder.stages.1.0.convs.0.conv.bias": (4, 1)})
    moves = {move.target: move for move in match(odd, describe(network()), BOTH, partial_widths=True)}
    name = "encoder.stages.1.0.convs.0.conv.bias"
    assert moves[name] == Move(name, (4,), reason="pretrained shape [4, 1], here [4]", cause=Reason.SHAPE)
