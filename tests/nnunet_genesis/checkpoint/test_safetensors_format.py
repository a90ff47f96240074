"""Checkpoints as safetensors: each tensor once, and back to the same weights and record."""

import dataclasses

import pytest
import torch
from safetensors import safe_open

from nnunet_genesis import checkpoint
from nnunet_genesis.checkpoint.architecture import GENESIS, PLAIN, RESIDUAL
from nnunet_genesis.transfer.moves import apply_moves
from nnunet_genesis.transfer.network import source_network
from nnunet_genesis.transfer.plan import plan_transfer
from tests.nnunet_genesis.importers.test_planned_files import from_v2, network, v2_content


@pytest.fixture(params=[PLAIN, RESIDUAL, GENESIS])
def kind(request) -> str:
    return request.param


def test_only_the_names_of_named_parameters_are_written(kind, tmp_path):
    content = from_v2(v2_content(kind)).checkpoint
    checkpoint.save(content | {"optimizer_state": {"x": torch.zeros(3)}}, tmp_path / "c.safetensors")
    built = network(kind)
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        assert set(file.keys()) == {name for name, _ in [*built.named_parameters(), *built.named_buffers()]} - {
            "input_map.scale",
            "input_map.shift",
        }
        assert "optimizer_state" not in file.metadata()


def test_round_trip(kind, tmp_path):
    content = from_v2(v2_content(kind)).checkpoint
    for name in ("c.pth", "c.safetensors"):
        checkpoint.save(content, tmp_path / name)
        found = checkpoint.load(tmp_path / name)
        assert found["genesis"] == content["genesis"]
        assert found["nnssl_adaptation_plan"] == content["nnssl_adaptation_plan"]
        assert found["network_weights"].keys() == content["network_weights"].keys()
        for key, value in content["network_weights"].items():
            assert torch.equal(found["network_weights"][key], value)
            assert found["network_weights"][key].dtype == value.dtype
    network(kind).load_state_dict(found["network_weights"])


def test_the_content_decides_not_the_name(tmp_path):
    content = from_v2(v2_content()).checkpoint
    checkpoint.save(content, tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").rename(tmp_path / "c.pth")
    assert checkpoint.load_weights(tmp_path / "c.pth").record.to_plain() == content["genesis"]


def test_separate_storages_of_one_tensor_stay_separate_names(tmp_path):
    weights = {"encoder.a.weight": torch.ones(3), "decoder.encoder.a.weight": torch.zeros(3)}
    weights["view"] = torch.ones(9)[::3]
    record = {"schema_version": 1, "plans": {}, "configuration": "x"}
    checkpoint.save({"network_weights": weights, "genesis": record}, tmp_path / "c.safetensors")
    found = checkpoint.load_weights(tmp_path / "c.safetensors").network_weights
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_a_failed_write_leaves_nothing(tmp_path):
    content = {"network_weights": {"a": torch.ones(3)}, "genesis": {"bad": object()}}
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoint.save(content, tmp_path / "c.safetensors")
    assert not list(tmp_path.iterdir())


def test_transfer_reads_both_alike(tmp_path):
    content = from_v2(v2_content(PLAIN)).checkpoint
    loaded = []
    for name in ("c.pth", "c.safetensors"):
        checkpoint.save(content, tmp_path / name)
        target = network(PLAIN)
        for value in target.parameters():
            torch.nn.init.zeros_(value)
        weights = checkpoint.load_weights(tmp_path / name)
        shapes = {key: tuple(value.shape) for key, value in target.named_parameters()}
        moves = plan_transfer(weights, dataclasses.replace(source_network(weights), shapes=shapes)).moves
        apply_moves(moves, weights.network_weights, target)
        loaded.append(target.state_dict())
    assert all(torch.equal(value, loaded[1][name]) for name, value in loaded[0].items())
    assert loaded[0]["encoder.stages.0.0.convs.0.conv.weight"].any()
