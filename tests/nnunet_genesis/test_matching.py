"""Matching, moving and reporting, on nnU-Net's own networks: every target tensor against the one it must equal."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from nnunet_genesis import checkpoint
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.transfer.load import load_into
from nnunet_genesis.transfer.matching import Move, encoder_kind, match, number_of_stages, part_of
from nnunet_genesis.transfer.operations import apply_moves
from nnunet_genesis.transfer.report import LoadReport

BOTH = ("encoder", "decoder")


def network(stages: int = 4, kernel: int = 3, channels: int = 1, classes: int = 2, seed: int = 0, **kwargs):
    """A small plain (or, with ``residual=True``, residual) U-Net with random values in every tensor."""
    residual = kwargs.pop("residual", False)
    features = [min(2 * 2**stage, 16) for stage in range(stages)]
    blocks = {"n_blocks_per_stage": 1} if residual else {"n_conv_per_stage": 2}
    net = (ResidualEncoderUNet if residual else PlainConvUNet)(
        input_channels=channels, n_stages=stages, features_per_stage=features, conv_op=torch.nn.Conv3d,
        kernel_sizes=[kernel] * stages, strides=[1] + [2] * (stages - 1), num_classes=classes,
        n_conv_per_stage_decoder=1, conv_bias=True, norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"affine": True},
        nonlin=torch.nn.LeakyReLU, deep_supervision=True, **blocks, **kwargs,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator)
    return net


def values(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules hold the same values, tensor by tensor."""
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


def moved(source, target, parts=BOTH, image_channels=None) -> list[Move]:
    """Match and carry out; the moves."""
    moves = match(shapes(source), shapes(target), parts, image_channels)
    apply_moves(moves, source.state_dict(), target)
    return moves


@pytest.fixture
def file(tmp_path) -> Path:
    """Checkpoint of a plain U-Net of 4 stages, seed 1."""
    return save(network(4, seed=1), tmp_path / "plain.pth")


def save(net: torch.nn.Module, path: Path) -> Path:
    metadata = {"schema_version": checkpoint.SCHEMA_VERSION, "plans": {}, "configuration": "3d_fullres"}
    checkpoint.save({"network_weights": net.state_dict(), "genesis": metadata}, path)
    return path


@pytest.mark.parametrize("stages", [(4, 4), (4, 5), (5, 4), (6, 4), (4, 6), (5, 6)])
def test_encoder_stages_are_aligned_from_full_resolution(stages):
    source, target, before = network(stages[0], seed=1), network(stages[1], seed=2), network(stages[1], seed=2)
    moved(source, target)
    for index, stage in enumerate(target.encoder.stages):
        expected = source.encoder if index < stages[0] else before.encoder
        assert same(stage, expected.stages[index])


@pytest.mark.parametrize("stages", [(4, 4), (4, 5), (5, 4), (6, 4), (4, 6), (5, 6)])
def test_decoder_stages_are_aligned_from_full_resolution(stages):
    source, target, before = network(stages[0], seed=1), network(stages[1], seed=2), network(stages[1], seed=2)
    moved(source, target)
    for level in range(1, stages[1]):  # 1: the last stage, which is at full resolution
        expected = source.decoder if level < stages[0] else before.decoder
        assert same(target.decoder.stages[-level], expected.stages[-level])
        assert same(target.decoder.transpconvs[-level], expected.transpconvs[-level])


def test_heads_are_never_transferred():
    source, target = network(seed=1), network(seed=2)
    moves = moved(source, target)
    assert same(target.decoder.seg_layers, network(seed=2).decoder.seg_layers)
    heads = [move for move in moves if part_of(move.target) == "head"]
    assert len(heads) == 6
    assert {move.operation for move in heads} == {"skip"}


def test_encoder_only_leaves_the_decoder():
    source, target = network(5, seed=1), network(4, seed=2)
    before = values(target)
    moves = moved(source, target, ("encoder",))
    for name, value in values(target).items():
        assert torch.equal(value, source.state_dict()[name] if name.startswith("encoder.") else before[name])
    assert "decoder: this trainer does not transfer it" in {move.reason for move in moves}


def test_residual_network_moves_like_a_plain_one():
    source, target = network(5, residual=True, seed=1), network(4, residual=True, seed=2)
    moves = moved(source, target)
    assert same(target.encoder.stem, source.encoder.stem)
    assert all(same(stage, source.encoder.stages[index]) for index, stage in enumerate(target.encoder.stages))
    assert LoadReport("", moves).coverage() == 1


def test_coverage_counts_elements_of_each_parameter_once():
    moves = moved(network(4, seed=1), network(5, seed=2))
    encoder = {name: shape for name, shape in shapes(network(5)).items() if name.startswith("encoder.")}
    sizes = {name: torch.Size(shape).numel() for name, shape in encoder.items()}
    deepest = sum(size for name, size in sizes.items() if name.startswith("encoder.stages.4."))
    assert [move.target for move in moves] == list(shapes(network(5)))
    assert LoadReport("", moves).coverage() == pytest.approx(1 - deepest / sum(sizes.values()))


def test_same_plan_is_covered_whole():
    report = LoadReport("", moved(network(4, seed=1), network(4, seed=2)))
    assert (report.coverage("encoder"), report.coverage("decoder")) == (1, 1)
    assert {move.operation for move in report.moves if part_of(move.target) != "head"} == {"copy"}


def test_state_dict_or_parameters_as_source_make_no_difference():
    source, target = network(5), network(4)
    named = {name: tuple(value.shape) for name, value in source.state_dict().items()}
    assert len(named) > len(shapes(source))
    assert match(named, shapes(target), BOTH) == match(shapes(source), shapes(target), BOTH)


def test_other_kernel_is_skipped_with_both_shapes():
    source, target = network(kernel=1, seed=1), network(kernel=3, seed=2)
    moves = {move.target: move for move in moved(source, target)}
    name = "encoder.stages.1.0.convs.0.conv.weight"
    reason = "pretrained shape [4, 2, 1, 1, 1], here [4, 2, 3, 3, 3]"
    assert moves[name] == Move(name, (4, 2, 3, 3, 3), "skip", name, 0, reason)
    assert torch.equal(values(target)[name], values(network(kernel=3, seed=2))[name])
    assert moves[name.replace("weight", "bias")].operation == "copy"


def test_image_channels_lead_and_the_others_keep_their_values():
    source, target, before = network(channels=1, seed=1), network(channels=3, seed=2), network(channels=3, seed=2)
    moves = {move.target: move for move in moved(source, target, image_channels=1)}
    name = "encoder.stages.0.0.convs.0.conv.weight"
    assert (moves[name].operation, moves[name].placed) == ("image_channels", 2 * 1 * 27)
    assert moves[name].reason == "1 image channel(s) of 3 input channels"
    found = values(target)[name]
    assert torch.equal(found[:, :1], values(source)[name])
    assert torch.equal(found[:, 1:], values(before)[name][:, 1:])
    assert [move.target for move in moves.values() if move.operation == "image_channels"] == [name]


@pytest.mark.parametrize(("channels", "images"), [(3, None), (3, 2), (1, 3)])
def test_other_channels_without_a_cascade_are_skipped(channels, images):
    moves = match(shapes(network(channels=2 if images == 3 else 1)), shapes(network(channels=channels)), BOTH, images)
    first = next(move for move in moves if move.target == "encoder.stages.0.0.convs.0.conv.weight")
    assert first.operation == "skip"


def test_moves_are_plain_data():
    move = match(shapes(network()), shapes(network()), BOTH)[0]
    assert pickle.dumps(move)
    assert json.loads(json.dumps(dataclasses.asdict(move)))["source"] == move.target
    with pytest.raises(dataclasses.FrozenInstanceError):
        move.placed = 3  # type: ignore[misc]


def test_matching_is_told_apart_by_names_alone():
    plain, residual = network(5), network(3, residual=True)
    assert [number_of_stages(shapes(net)) for net in (plain, residual)] == [5, 3]
    assert [encoder_kind(shapes(net)) for net in (plain, residual)] == ["plain", "residual"]
    assert (number_of_stages(["down.weight"]), encoder_kind(["down.weight"])) == (0, "unknown")


def test_load_into_places_the_file_and_reports(file):
    target = network(4, classes=5, seed=2)
    report = load_into(target, file)
    assert same(target.encoder, network(4, seed=1).encoder)
    assert (report.source, report.coverage("encoder"), report.coverage("decoder")) == (str(file), 1, 0)


def test_report_is_json_and_text(file):
    report = load_into(network(5), file, BOTH)
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["coverage"]["encoder"] == pytest.approx(report.coverage())
    assert sum(stored["tensors"].values()) == len(stored["moves"]) == len(shapes(network(5)))
    text = report.to_text()
    assert f"Genesis weights: {file}" in text
    assert f"encoder: {report.coverage():.1%} of the parameters, 32 of 40 tensors" in text
    assert "not in the pretrained network (e.g. encoder.stages.4." in text


@pytest.mark.parametrize("source_is_residual", [True, False])
def test_plain_and_residual_do_not_fit(tmp_path, source_is_residual):
    path = save(network(residual=source_is_residual), tmp_path / "w.pth")
    with pytest.raises(GenesisError) as error:
        load_into(network(residual=not source_is_residual), path, min_coverage=0.0)
    kinds = ("residual", "plain") if source_is_residual else ("plain", "residual")
    assert str(error.value).startswith(f"{path}: these weights cover 0.0% of this network's encoder")
    assert f"The pretrained encoder is {kinds[0]}, this plan's is {kinds[1]}" in str(error.value)
    assert "--like" in str(error.value)


def test_refused_load_changes_nothing(file):
    target = network(6, seed=2)
    with pytest.raises(GenesisError) as error:
        load_into(target, file, BOTH, min_coverage=0.9)
    assert "expected at least 90%" in str(error.value)
    assert "nnUNet_genesis_min_coverage" in str(error.value)
    assert same(target, network(6, seed=2))


def test_min_coverage_is_inclusive(file):
    coverage = load_into(network(5), file).coverage()
    assert 0.1 < coverage < 0.9
    assert load_into(network(5), file, min_coverage=coverage).coverage() == coverage
    with pytest.raises(GenesisError):
        load_into(network(5), file, min_coverage=coverage + 1e-6)
