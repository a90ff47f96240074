"""Formats are chosen by measurement where nothing else decides, and only for a clear gain."""

import pytest
import torch

from pretraining import formats

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
