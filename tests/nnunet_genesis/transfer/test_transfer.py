"""From a file to a network: the report, what is refused, and that every process loads the same."""

import json
import time
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from nnunet_genesis import checkpoint
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.transfer.moves import apply_moves
from nnunet_genesis.transfer.network import Window, axis_order, source_network, target_network
from nnunet_genesis.transfer.plan import plan_transfer, warnings
from nnunet_genesis.transfer.report import LoadReport
from tests.nnunet_genesis.networks import BOTH, describe, network, plans_of, record_of, same, save, values

DATASET_JSON = {"channel_names": {"0": "MR"}}


def load(net: torch.nn.Module, file: Path, parts=("encoder",), minimum: float = 0.0, partial=False) -> LoadReport:
    """What the trainers do."""
    weights = checkpoint.load_weights(file)
    shapes = {name: tuple(value.shape) for name, value in net.named_parameters()}
    report = plan_transfer(
        weights, target_network(plans_of(net), "3d_fullres", DATASET_JSON, shapes), parts, partial_widths=partial
    )
    report.require(minimum)
    apply_moves(report.moves, weights.network_weights, net)
    return report


@pytest.fixture
def file(tmp_path) -> Path:
    """Checkpoint of a plain U-Net of 4 stages, seed 1."""
    return save(network(4, seed=1), tmp_path / "plain.pth")


def test_the_file_is_placed_and_reported(file):
    target = network(4, seed=2)
    report = load(target, file)
    assert same(target.encoder, network(4, seed=1).encoder)
    assert (report.source, report.coverage("encoder"), report.coverage("decoder")) == (str(file), 1, 0)
    assert {move.operation for move in report.moves if move.part == "encoder"} == {"copy"}


def test_a_decoder_that_is_needed_and_not_there_is_refused_with_the_trainer_that_needs_none(file):
    content = checkpoint.load(file)
    content["network_weights"] = {n: v for n, v in content["network_weights"].items() if n.startswith("encoder.")}
    checkpoint.save(content, file)
    report = load(network(4), file, BOTH, minimum=1)  # as pretraining's --init, which takes what there is
    assert (report.coverage("encoder"), report.coverage("decoder")) == (1, 0)
    with pytest.raises(
        GenesisError, match=r"nothing of .* decoder.*not in the pretrained network.*nnUNetTrainerGenesis,"
    ):
        report.require(1, BOTH)
    report.require(1, ("encoder",))


def test_the_report_is_json_and_text(file):
    report = load(network(5), file, BOTH)
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["coverage"]["encoder"] == pytest.approx(report.coverage())
    assert sum(stored["tensors"].values()) == len(stored["moves"]) == len(values(network(5)))
    assert stored["stages"][4] == {"stage": 4, "resolution_mm": [16, 16, 16], "pretrained_stage": None}
    text = report.to_text()
    assert f"Genesis weights: {file}" in text
    assert f"encoder: {report.coverage():.1%} of the parameters, 32 of 40 tensors" in text
    assert "stage 1 (2×2×2 mm) <- stage 1: 100.0%" in text
    assert "no pretrained stage of this resolution (e.g. encoder.stages.4." in text


def test_the_report_says_how_a_stage_was_adapted(tmp_path):
    flat = network(3, kernels=[[1, 3, 3], [3, 3, 3], [3, 3, 3]], seed=1)
    text = load(network(3), save(flat, tmp_path / "flat.pth"), BOTH).to_text()
    assert "stage 0 (1×1×1 mm) <- stage 0: 100.0%  [kernel centred in 3 along z]" in text


@pytest.mark.parametrize("residual", [True, False])
def test_residual_and_plain_do_not_fit_and_the_message_says_what_would(tmp_path, residual):
    path, target = save(network(residual=residual), tmp_path / "w.pth"), network(residual=not residual, seed=2)
    with pytest.raises(GenesisError) as error:
        load(target, path, partial=True)
    kinds = ("residual", "plain") if residual else ("plain", "residual")
    assert str(error.value).startswith(f"{path}: these weights cover 0.0% of this network's encoder")
    assert f"the pretrained network is {kinds[0]}, this one {kinds[1]}" in str(error.value)
    assert "nnUNetv2_genesis_plan -d DATASET --for " in str(error.value)
    assert same(target, network(residual=not residual, seed=2))


def test_too_little_is_refused_and_changes_nothing(file):
    target = network(6, seed=2)
    with pytest.raises(GenesisError) as error:
        load(target, file, BOTH, minimum=0.9)
    assert "expected at least 90%. Most frequent cause: no pretrained stage of this resolution" in str(error.value)
    assert "nnUNet_genesis_min_coverage" in str(error.value)
    assert same(target, network(6, seed=2))


def test_other_widths_are_refused_and_the_message_names_the_setting(file):
    with pytest.raises(GenesisError, match="Set nnUNet_genesis_partial_widths=1"):
        load(network(4, width=4), file, minimum=0.5)
    assert load(network(4, width=1), file, partial=True, minimum=1.0).coverage() == 1


def test_partial_widths_that_are_too_little_say_what_is_missing(file):
    with pytest.raises(GenesisError, match="Most frequent cause: channels or blocks that the pretrained network lacks"):
        load(network(4, width=4), file, partial=True, minimum=0.99)


def test_minimum_is_inclusive(file):
    coverage = load(network(5), file).coverage()
    assert 0.1 < coverage < 0.9
    assert load(network(5), file, minimum=coverage).coverage() == coverage
    with pytest.raises(GenesisError):
        load(network(5), file, minimum=coverage + 1e-6)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"plans": {}}, "KeyError: 'configurations'"),
        ({"plans": None}, "Error"),
        ({"configuration": "3d_lowres"}, "3d_lowres"),
        ({"axis_order": "zyz"}, "axis_order 'zyz'"),
        ({"axis_order": 5}, "TypeError"),
        ({"spacing": [1, 1]}, "spacing"),
        ({"spacing": [1, 0, 1]}, "spacing"),
        ({"spacing": "1mm"}, "ValueError"),
        ({"spacing": [10**400, 1, 1]}, "OverflowError"),
        ({"data": {"channel_names": {"0": "A", "1": "B"}}}, "2 channel names for 1 input channels"),
        ({"data": {}}, "channel_names"),
        ({"plans": plans_of(network(3))}, "3 strides for 4 encoder stages"),
    ],
)
def test_a_record_that_does_not_describe_its_tensors_is_refused(tmp_path, changes, found):
    path = save(network(4), tmp_path / "w.pth", **changes)
    with pytest.raises(GenesisError) as error:
        load(network(4), path)
    assert str(error.value).startswith(f"{path}: its Genesis record is damaged or incomplete")
    assert found in str(error.value)


def test_tensors_that_are_no_network_of_nnunet_are_refused(tmp_path):
    content = {"network_weights": {"a.weight": torch.ones(2)}, "genesis": record_of(network(3))}
    checkpoint.save(content, tmp_path / "w.pth")
    with pytest.raises(GenesisError, match="3 strides for 0 encoder stages"):
        source_network(checkpoint.load_weights(tmp_path / "w.pth"))


def test_old_plans_name_the_intensities_otherwise():
    plans = plans_of(network(), mean=10.0, std=5.0, percentile_00_5=-1.0, percentile_99_5=30.0)
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    shapes = {name: tuple(value.shape) for name, value in network().named_parameters()}
    assert target_network(plans, "3d_fullres", {"modality": {"0": "CT"}}, shapes).windows == [Window(10, 5, -1, 30)]


def test_axes_follow_the_plans_transposition():
    assert axis_order({"transpose_forward": [2, 0, 1]}) == "xzy"
    assert axis_order({}) == "zyx"


@pytest.mark.parametrize(("r2", "warned"), [(-0.09, True), (0.3, False), (None, False), ("0", False)])
def test_weights_that_restore_nothing_are_warned_of(tmp_path, r2, warned):
    content = {"network_weights": network(3).state_dict(), "genesis": record_of(network(3))}
    content["genesis"]["training"] = {"best_r2": r2}
    checkpoint.save(content, tmp_path / "w.pth")
    weights = checkpoint.load_weights(tmp_path / "w.pth")
    found = plan_transfer(weights, source_network(weights)).warnings
    assert any("no better than a constant image (best R² -0.090)" in text for text in found) == warned


def test_what_no_operation_mends_is_warned_of():
    ct, narrow = Window(0, 100, -1000, 1000), Window(0, 100, -100, 200)
    net = network()
    mr, fine = describe(net), describe(net, spacing=(1, 0.4, 1))
    wide, small = describe(net, windows=[ct], names=["CT"]), describe(net, windows=[narrow], names=["CT"])
    assert warnings(mr, mr) == warnings(wide, small) == []
    assert "modality differs: pretrained on c0, here CT" in warnings(mr, wide)[0]
    assert "spacing differs by a factor of 2.5: pretrained at 1×0.4×1 mm, here 1×1×1 mm" in warnings(fine, mr)[0]
    assert "HU outside the pretrained window -100 … 200 occur here" in warnings(small, wide)[0]
    assert warnings(describe(net, spacing=(5, 1, 1), axes="xyz"), describe(net, spacing=(1, 1, 5))) == []


def test_thirty_million_parameters_are_placed_in_less_time_than_reading_the_file_takes(tmp_path):
    """A ratio, because machines differ. Measured: 0.03 s after 0.12 s of reading."""
    net = network(6, width=32, blocks=3)
    assert 25e6 < sum(value.numel() for value in net.parameters()) < 35e6
    file = save(net, tmp_path / "large.pth")
    started = time.perf_counter()
    weights = checkpoint.load_weights(file)
    reading = time.perf_counter() - started
    target = describe(net)
    started = time.perf_counter()
    report = plan_transfer(weights, target, BOTH)
    apply_moves(report.moves, weights.network_weights, net)
    json.dumps(report.to_dict())
    report.to_text()
    assert time.perf_counter() - started < 2 * reading


def _load_in_process(rank: int, file: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(rank)  # other values in each process, as they are before DDP spreads rank 0's
    net = network(4, width=4, seed=rank)
    ddp = torch.nn.parallel.DistributedDataParallel(net)
    load(ddp.module, Path(file), BOTH, partial=True)
    checkpoint.save({"values": values(ddp.module)}, f"{folder}/rank{rank}.pth")
    distributed.destroy_process_group()


def test_every_process_of_a_distributed_run_loads_the_same(file, tmp_path):
    multiprocessing.spawn(_load_in_process, (str(file), str(tmp_path)), nprocs=2)
    one, other = (checkpoint.load(tmp_path / f"rank{rank}.pth")["values"] for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not same(network(4, width=4, seed=0), network(4, width=4, seed=1))
