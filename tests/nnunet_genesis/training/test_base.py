"""Steps that are left out, and networks that are not saved."""

import math

import pytest
import torch

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.training.base import longest_run, require_finite, skip_unless_finite


@pytest.mark.parametrize(
    ("flags", "length"), [([], 0), ([False], 0), ([True, True, False, True], 2), ([False, True, True, True], 3)]
)
def test_longest_run(flags, length):
    assert longest_run(flags) == length


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_momentum(value):
    layer, found = torch.nn.Linear(2, 1), []
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    optimizer.register_step_pre_hook(lambda optimizer, *_: found.append(skip_unless_finite(optimizer)))
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    before = [p.clone() for p in layer.parameters()]
    momentum = [optimizer.state[p]["momentum_buffer"].clone() for p in layer.parameters()]
    layer.weight.grad[0, 0] = value
    optimizer.step()
    assert found == [False, True]
    assert all(torch.equal(*pair) for pair in zip(before, layer.parameters(), strict=True))
    after = [optimizer.state[p]["momentum_buffer"] for p in layer.parameters()]
    assert all(torch.equal(*pair) for pair in zip(momentum, after, strict=True))


def test_weights_and_statistics_must_be_finite():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    require_finite(network, "file", "")
    network[1].running_mean[0] = math.nan
    with pytest.raises(GenesisError, match=r"file: not written: weights have become NaN or infinite.*Try this"):
        require_finite(network, "file", "Try this")
