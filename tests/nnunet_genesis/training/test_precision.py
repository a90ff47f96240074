"""Formats are chosen by measurement where nothing else decides, and only for a clear gain."""

import pytest
import torch

from nnunet_genesis.training import precision as formats
from tests.nnunet_genesis import networks

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((1.0, 0.9, 0.9, 0.9), ("fp32", "contiguous")),  # within the noise
        ((1.0, 0.7, 0.9, 0.9), ("fp32", "channels_last")),
        ((1.0, 0.9, 0.5, 0.45), ("bf16", "contiguous")),
        ((1.0, 0.7, 0.5, 0.3), ("bf16", "channels_last")),
        ((1.0, 1.5, 22.0, 20.0), ("fp32", "contiguous")),
    ],
)
def test_a_clear_gain_decides(monkeypatch, seconds, chosen):
    times = iter(seconds)
    monkeypatch.setattr(formats, "_seconds", lambda *_: next(times))
    assert formats.choose_formats(CPU) == chosen


def test_what_is_given_is_kept_and_not_measured(monkeypatch):
    monkeypatch.setattr(formats, "_seconds", None)
    assert formats.choose_formats(CPU, "bf16", "channels_last") == ("bf16", "channels_last")
    assert formats.choose_formats(torch.device("mps")) == ("fp32", "contiguous")
    assert formats.choose_formats(torch.device("mps"), "fp16") == ("fp16", "contiguous")


def test_measuring_leaves_the_random_stream():
    state = torch.get_rng_state()
    assert formats.choose_formats(CPU)[0] in formats.PRECISIONS
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_a_network_computes_in_bf16_and_gives_fp32(deep_supervision):
    network, image, inside = networks.network(3), torch.rand(1, 1, 16, 16, 16), []
    network.decoder.deep_supervision = deep_supervision
    expected = network(image)
    network.encoder.stages[0].register_forward_hook(lambda *call: inside.append(call[2].dtype))
    before = list(network.state_dict())
    formats.forward_in(network, "bf16")
    found = network(image)
    assert inside[0] is torch.bfloat16
    assert list(network.state_dict()) == before
    for one, other in zip(*((o if deep_supervision else [o]) for o in (found, expected)), strict=True):
        assert one.dtype is torch.float32
        assert 0 < (one - other).abs().max() < 0.1 * other.abs().max()


def test_only_3d_kernels_have_a_memory_format():
    network = networks.network(2)
    network.register_buffer("map", torch.ones(1, 1, 1, 1))
    formats.move(network, CPU, "channels_last")
    kernel = network.encoder.stages[1][0].convs[1].conv.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)
    assert not kernel.is_contiguous()
