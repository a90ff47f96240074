"""The learning rate, epoch by epoch, against the formula and nnU-Net's own decay."""

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunet_genesis.training.schedule import WarmupPolyLRScheduler, default_warmup


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=123.0)


def rates(scheduler, epochs: int) -> list[float]:
    """What nnU-Net's loop sees: it calls step(epoch) at the start of each."""
    found = []
    for epoch in range(epochs):
        scheduler.step(epoch)
        found.append(scheduler.optimizer.param_groups[0]["lr"])
    return found


def test_warm_up_is_linear_and_ends_at_the_peak():
    found = rates(WarmupPolyLRScheduler(optimizer(), 0.4, 20, 4), 6)
    assert found[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert found[5] < 0.4


def test_decay_is_nnunets_shifted_by_the_warm_up():
    ours = rates(WarmupPolyLRScheduler(optimizer(), 1e-3, 25, 5), 25)
    assert ours[5:] == pytest.approx(rates(PolyLRScheduler(optimizer(), 1e-3, 20), 20), rel=1e-12)
    assert ours[-1] == pytest.approx(1e-3 * (1 / 20) ** 0.9)


def test_without_warm_up_it_is_nnunets_schedule():
    ours = rates(WarmupPolyLRScheduler(optimizer(), 1e-2, 10, 0), 10)
    assert ours == pytest.approx(rates(PolyLRScheduler(optimizer(), 1e-2, 10), 10), rel=1e-12)


@pytest.mark.parametrize(("epochs", "warmup"), [(4, 4), (4, 8), (1, 1), (1, 5)])
def test_warm_up_as_long_as_the_run_or_longer_stays_linear(epochs, warmup):
    found = rates(WarmupPolyLRScheduler(optimizer(), 0.8, epochs, warmup), epochs)
    assert found == pytest.approx([0.8 * (epoch + 1) / warmup for epoch in range(epochs)])


def test_first_rate_is_set_at_once():
    scheduler = WarmupPolyLRScheduler(optimizer(), 0.4, 20, 4)
    assert scheduler.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_step_without_epoch_is_the_next_one():
    scheduler = WarmupPolyLRScheduler(optimizer(), 0.4, 20, 4)
    found = [scheduler.optimizer.param_groups[0]["lr"]]
    for _ in range(9):
        scheduler.step()
        found.append(scheduler.optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(rates(scheduler, 10))


def test_resumed_run_gets_the_same_rate():
    whole = rates(WarmupPolyLRScheduler(optimizer(), 0.4, 20, 4), 20)
    resumed = WarmupPolyLRScheduler(optimizer(), 0.4, 20, 4)
    resumed.step(13)
    assert resumed.optimizer.param_groups[0]["lr"] == whole[13]


def test_every_group_follows():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    scheduler = WarmupPolyLRScheduler(torch.optim.SGD(groups, lr=1.0), 0.4, 20, 4)
    for epoch in (1, 10):
        scheduler.step(epoch)
        assert len({group["lr"] for group in scheduler.optimizer.param_groups}) == 1


@pytest.mark.parametrize(("epochs", "warmup"), [(1000, 50), (5000, 50), (500, 50), (100, 10), (3, 0), (1, 0)])
def test_default_warm_up(epochs, warmup):
    assert default_warmup(epochs) == warmup
