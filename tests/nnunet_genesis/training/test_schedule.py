"""The learning rate, epoch by epoch, against published figures and nnU-Net's own decay; what is chosen by length."""

import math

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.training.plotting import progress_figure
from nnunet_genesis.training.schedule import PhasedLRScheduler, Schedule, default_peak, default_warmup


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=123.0)


def warmup(peak: float, epochs: int, length: int) -> PhasedLRScheduler:
    return PhasedLRScheduler(optimizer(), Schedule("warmup", peak, (length,)), epochs)


def rates(scheduler, epochs: int) -> list[float]:
    """What nnU-Net's loop sees: it calls step(epoch) at the start of each."""
    found = []
    for epoch in range(epochs):
        scheduler.step(epoch)
        found.append(scheduler.optimizer.param_groups[0]["lr"])
    return found


def test_warm_up_is_linear_and_ends_at_the_peak():
    found = rates(warmup(0.4, 20, 4), 6)
    assert found[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert found[5] < 0.4


def test_decay_is_nnunets_shifted_by_the_warm_up():
    ours = rates(warmup(1e-3, 25, 5), 25)
    assert ours[5:] == rates(PolyLRScheduler(optimizer(), 1e-3, 20), 20)
    assert ours[-1] == pytest.approx(1e-3 * (1 / 20) ** 0.9)


def test_the_published_sawtooth():
    """1000 epochs: decoder 25 up and 25 down, then everything 50 up to 1e-3 and down to the end."""
    schedule = Schedule.chosen("sawtooth", epochs=1000, patches_an_epoch=500)
    assert (schedule.peak_lr, schedule.lengths) == (1e-3, (25, 25, 50))
    assert [(phase.start, phase.end, phase.frozen) for phase in schedule.phases(1000)] == [
        (0, 25, True), (25, 50, True), (50, 100, False), (100, 1000, False)]  # fmt: skip
    found = rates(PhasedLRScheduler(optimizer(), schedule, 1000), 1000)
    decoder = {0: 4e-5, 12: 5.2e-4, 24: 1e-3, 25: 1e-3, 37: 1e-3 * (13 / 25) ** 0.9, 49: 1e-3 * (1 / 25) ** 0.9}
    all_of_it = {50: 2e-5, 74: 5e-4, 99: 1e-3, 100: 1e-3, 550: 1e-3 * 0.5**0.9, 999: 1e-3 * (1 / 900) ** 0.9}
    published = decoder | all_of_it
    assert {epoch: found[epoch] for epoch in published} == pytest.approx(published)


@pytest.mark.parametrize(
    ("epochs", "lengths"), [(500, (25, 25, 50)), (499, (49,) * 3), (150, (15,) * 3), (4, (1,) * 3)]
)
def test_a_shorter_sawtooth_has_tenths(epochs, lengths):
    schedule = Schedule.chosen("sawtooth", epochs=epochs, patches_an_epoch=500)
    assert schedule.lengths == lengths
    phases = schedule.phases(epochs)
    assert [phase.end for phase in phases[:-1]] == [phase.start for phase in phases[1:]]
    assert phases[-1].end == epochs


def test_poly_is_stock_nnunets_schedule():
    schedule = Schedule.chosen("poly", epochs=10, patches_an_epoch=100_000)
    assert rates(PhasedLRScheduler(optimizer(), schedule, 10), 10) == rates(PolyLRScheduler(optimizer(), 1e-2, 10), 10)


def test_cosine_ends_near_zero():
    found = rates(PhasedLRScheduler(optimizer(), Schedule("cosine", 0.1, (2,)), 12), 12)
    assert found[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert found[7] == pytest.approx(0.05)
    assert found[11] == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.9)))


@pytest.mark.parametrize(("epochs", "length"), [(4, 4), (4, 8), (1, 1), (1, 5)])
def test_warm_up_as_long_as_the_run_or_longer_stays_linear(epochs, length):
    assert rates(warmup(0.8, epochs, length), epochs) == pytest.approx([0.8 * (k + 1) / length for k in range(epochs)])


def test_first_rate_is_set_at_once_and_a_step_without_epoch_is_the_next_one():
    scheduler = warmup(0.4, 20, 4)
    found = [scheduler.optimizer.param_groups[0]["lr"]]
    for _ in range(9):
        scheduler.step()
        found.append(scheduler.optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(rates(scheduler, 10))


def test_every_group_follows():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    scheduler = PhasedLRScheduler(torch.optim.SGD(groups, lr=1.0), Schedule("warmup", 0.4, (4,)), 20)
    for epoch in (1, 10):
        scheduler.step(epoch)
        assert len({group["lr"] for group in scheduler.optimizer.param_groups}) == 1


@pytest.mark.parametrize(
    ("patches", "peak"), [(1, 1e-2), (1_000, 1e-2), (4_000, 1e-2), (17_320, 3.2e-3), (75_000, 1e-3), (500_000, 1e-3)]
)
def test_the_peak_by_the_runs_length(patches, peak):
    assert default_peak(patches) == peak
    assert Schedule.chosen(epochs=1, patches_an_epoch=patches).peak_lr == peak
    assert Schedule.chosen(epochs=1, patches_an_epoch=patches, optimizer="adamw").peak_lr == 1e-3
    assert Schedule.chosen(epochs=1, patches_an_epoch=patches, peak_lr=0.5).peak_lr == 0.5


@pytest.mark.parametrize(
    ("epochs", "patches", "length"),
    [(1000, 500, 50), (5000, 500, 50), (500, 500, 50), (100, 500, 10), (3, 500, 0), (1000, 2000, 12), (1000, 8, 100)],
)
def test_the_warm_up_by_the_runs_length(epochs, patches, length):
    assert default_warmup(epochs, patches) == length
    assert Schedule.chosen(epochs=epochs, patches_an_epoch=patches).lengths == (length,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "sawtooth", "epochs": 3}, "sawtooth: expected at least 4 epochs, found 3"),
        ({"kind": "sawtooth", "warmup": 3}, "warmup_epochs=3: schedule sawtooth has lengths of its own"),
        ({"kind": "poly", "warmup": 0}, "warmup_epochs=0: schedule poly has"),
        ({"kind": "poly", "optimizer": "adamw"}, "optimizer=adamw: schedule poly is stock"),
        ({"kind": "sawtooth", "frozen": True}, "the sawtooth freezes by itself"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(GenesisError, match=message):
        Schedule.chosen(**{"epochs": 100, "patches_an_epoch": 500} | options)


def test_a_checkpoint_gives_back_what_it_was_given():
    schedule = Schedule.chosen("sawtooth", epochs=100, patches_an_epoch=500)
    assert Schedule.from_plain(schedule.to_plain()) == schedule
    for damaged in ({}, {"kind": "warmup"}, schedule.to_plain() | {"lengths": [1, 2]}, "warmup"):
        with pytest.raises(GenesisError, match="can't read"):
            Schedule.from_plain(damaged)


def test_the_plot_shows_the_phases():
    phases = Schedule.chosen("sawtooth", epochs=10, patches_an_epoch=500).phases(10)
    figure, axes = progress_figure({"loss": {"a": [1, 2]}, "learning rate": {"": [1]}}, phases)
    assert [line.get_xdata()[0] for line in axes[0].lines[1:]] == [0.5, 1.5, 2.5]
    assert [text.get_text().strip() for text in axes[1].texts] == [
        "decoder only, warm-up", "decoder only, poly", "everything, warm-up", "everything, poly"]  # fmt: skip
    figure.canvas.draw()
