"""Learning-rate schedules, held to hand-computed values and to torch.optim.lr_scheduler."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.errors import CheckpointError, ConfigError
from gpunet.optim import SCHEDULES, schedules
from tests.support import torch_or_skip

STEPS: dict[str, int] = {"total_steps": 100, "steps_per_epoch": 10}
OPTIONS: dict[str, Any] = {"lr": 0.5, **STEPS, "warmup": 0.2, "lr_step": 3, "lr_factor": 0.1, "lr_patience": 2}


def rates_of_torch(make: Callable[[Any, Any], Any], count: int, lr: float = 0.5) -> list[float]:
    """The learning rates before each of `count` updates, the scheduler stepping after each."""
    torch = torch_or_skip()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for index in range(count):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if index < count - 1:
            scheduler.step()
    return rates


def test_constant() -> None:
    schedule = schedules.Constant(0.3, **STEPS)
    assert [schedule.lr(step) for step in (0, 50, 99, 1000)] == [0.3] * 4


def test_step_hand_computed() -> None:
    schedule = schedules.Step(0.8, total_steps=60, steps_per_epoch=10, epochs=2, factor=0.25)
    assert [schedule.lr(step) for step in (0, 19, 20, 39, 40, 59)] == [0.8, 0.8, 0.2, 0.2, 0.05, 0.05]


def test_exponential_hand_computed() -> None:
    schedule = schedules.Exponential(0.8, total_steps=60, steps_per_epoch=10, factor=0.5)
    assert [schedule.lr(step) for step in (0, 9, 10, 19, 20, 30)] == [0.8, 0.8, 0.4, 0.4, 0.2, 0.1]


def test_by_epoch_against_pytorch() -> None:
    ours: schedules.Schedule = schedules.Step(0.5, total_steps=120, steps_per_epoch=4, epochs=7, factor=0.3)
    expected = rates_of_torch(lambda lr, optimizer: lr.StepLR(optimizer, 7, gamma=0.3), 30)
    np.testing.assert_allclose([ours.lr(4 * epoch + 3) for epoch in range(30)], expected, rtol=1e-12)
    ours = schedules.Exponential(0.5, total_steps=120, steps_per_epoch=4, factor=0.9)
    expected = rates_of_torch(lambda lr, optimizer: lr.ExponentialLR(optimizer, gamma=0.9), 30)
    np.testing.assert_allclose([ours.lr(4 * epoch) for epoch in range(30)], expected, rtol=1e-12)


def test_plateau_hand_computed() -> None:
    schedule = schedules.ReduceOnPlateau(0.8, **STEPS, patience=1, factor=0.5)
    rates = []
    # better; not better by a ten-thousandth; the second bad epoch; better; bad; a NaN is the second; then none
    for loss in (2.0, 1.9999, 2.5, 1.0, 1.0, math.nan, 0.5):
        schedule.observe(loss)
        rates.append(schedule.lr(0))
    assert rates == [0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]
    assert schedule.lr(99) == 0.2


@settings(max_examples=200)
@given(
    losses=st.lists(st.sampled_from((1.0, 0.99995, 0.9998, 0.5, 0.3, 2.0, math.nan, math.inf)), max_size=40),
    patience=st.integers(0, 4),
    factor=st.sampled_from((1.0, 0.5, 1e-3)),
)
def test_plateau_against_pytorch(losses: list[float], patience: int, factor: float) -> None:
    torch = torch_or_skip()
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    if factor < 1:  # PyTorch refuses 1
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=patience, factor=factor)
    ours = schedules.ReduceOnPlateau(0.5, **STEPS, patience=patience, factor=factor)
    for index, loss in enumerate(losses):
        ours.observe(loss)
        if factor < 1:
            theirs.step(loss)
        assert ours.lr(index) == optimizer.param_groups[0]["lr"]


def test_cosine_hand_computed() -> None:
    schedule = schedules.Cosine(0.8, total_steps=100, steps_per_epoch=10)
    np.testing.assert_allclose(
        [schedule.lr(step) for step in (0, 25, 50, 75, 100, 101)],
        [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5)), 0, 0],
        atol=1e-15,
    )
    schedule = schedules.Cosine(0.8, total_steps=12, steps_per_epoch=3, warmup=0.25)
    # three steps of warm-up: a quarter, a half, three quarters; the peak; the middle of the nine steps' cosine is 7.5
    rates = [schedule.lr(step) for step in range(13)]
    np.testing.assert_allclose(rates[:4], [0.2, 0.4, 0.6, 0.8], rtol=1e-15)
    np.testing.assert_allclose(rates[7] + rates[8], 0.8, rtol=1e-15)
    assert rates[12] == 0 and rates[11] > 0


@settings(max_examples=200)
@given(total=st.integers(1, 60), warmup=st.sampled_from((0.0, 0.1, 0.25, 0.5, 0.9)))
def test_cosine_against_pytorch(total: int, warmup: float) -> None:
    first = round(total * warmup)

    def make(lr: Any, optimizer: Any) -> Any:
        cosine = lr.CosineAnnealingLR(optimizer, T_max=max(1, total - first))
        if not first:
            return cosine
        linear = lr.LinearLR(optimizer, start_factor=1 / (first + 1), total_iters=first)
        # What SequentialLR does, without the epoch numbers that PyTorch itself warns about.
        return Both(linear, cosine, first)

    class Both:
        def __init__(self, linear: Any, cosine: Any, first: int) -> None:
            self.linear, self.cosine, self.first, self.count = linear, cosine, first, 0

        def step(self) -> None:
            self.count += 1
            (self.linear if self.count <= self.first else self.cosine).step()

    expected = rates_of_torch(make, total)
    schedule = schedules.Cosine(0.5, total_steps=total, steps_per_epoch=1, warmup=warmup)
    np.testing.assert_allclose([schedule.lr(step) for step in range(total)], expected, rtol=1e-9, atol=1e-12)


def test_one_cycle_hand_computed() -> None:
    schedule = schedules.OneCycle(1.0, total_steps=101, steps_per_epoch=10, warmup=21 / 101)
    # the rise ends at step 20, the descent at step 100: their middles are 10 and 60
    np.testing.assert_allclose(
        [schedule.lr(step) for step in (0, 10, 20, 60, 100, 200)],
        [0.04, 0.52, 1, (1 + 1e-4) / 2, 1e-4, 1e-4],
        rtol=1e-12,
    )


@settings(max_examples=200)
@given(total=st.integers(2, 80), warmup=st.sampled_from((0.0, 0.1, 0.2, 0.3, 0.5, 0.9)))
def test_one_cycle_against_pytorch(total: int, warmup: float) -> None:
    if warmup * total == 1:
        return  # PyTorch divides by zero
    expected = rates_of_torch(
        lambda lr, optimizer: lr.OneCycleLR(
            optimizer, 0.5, total_steps=total, pct_start=warmup, cycle_momentum=False, final_div_factor=400
        ),
        total,
    )
    schedule = schedules.OneCycle(0.5, total_steps=total, steps_per_epoch=1, warmup=warmup)
    rates = [schedule.lr(step) for step in range(total)]
    if warmup * total < 1:
        # With no whole step for the rise PyTorch starts the descent before step 0; here step 0 has the peak.
        assert rates[0] == 0.5 and rates == sorted(rates, reverse=True)
        np.testing.assert_allclose(rates[-1], expected[-1], rtol=1e-9)
    else:
        np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_trainings_of_one_step() -> None:
    for name in SCHEDULES:
        schedule = schedules.create(name, **(OPTIONS | {"total_steps": 1, "steps_per_epoch": 1}))
        assert 0 < schedule.lr(0) <= 0.5
        assert math.isfinite(schedule.lr(1))


def test_create() -> None:
    created = {name: schedules.create(name, **OPTIONS) for name in SCHEDULES}
    assert {name: type(schedule) for name, schedule in created.items()} == SCHEDULES
    np.testing.assert_allclose(created["step"].lr(30), 0.05)
    np.testing.assert_allclose(created["exponential"].lr(20), 0.005)
    np.testing.assert_allclose(created["cosine"].lr(20), 0.5)
    np.testing.assert_allclose(created["cosine"].lr(0), 0.5 / 21)
    np.testing.assert_allclose(created["one_cycle"].lr(19), 0.5)
    for loss in (1, 1, 1, 1):
        created["plateau"].observe(loss)
    np.testing.assert_allclose(created["plateau"].lr(0), 0.05)
    with pytest.raises(
        ConfigError, match=r"unknown schedule 'warm': expected one of constant, step, exponential, plateau"
    ):
        schedules.create("warm", **OPTIONS)


@pytest.mark.parametrize("name", SCHEDULES)
def test_state_survives_json(name: str) -> None:
    schedule, resumed = schedules.create(name, **OPTIONS), schedules.create(name, **OPTIONS)
    resumed.load_state(json.loads(json.dumps(schedule.state(), allow_nan=False)))
    losses = [1.0, 0.7, 0.9, 0.8, 0.75, 0.7, 0.9, 0.9, 0.9, 0.9]
    for loss in losses[:4]:
        schedule.observe(loss)
    resumed.load_state(json.loads(json.dumps(schedule.state(), allow_nan=False)))
    rates: tuple[list[float], list[float]] = [], []
    for step, loss in enumerate(losses[4:], start=40):
        for each, seen in zip((schedule, resumed), rates, strict=True):
            each.observe(loss)
            seen.append(each.lr(step))
    assert rates[0] == rates[1]
    if name == "plateau":
        assert min(rates[0]) < 0.5


def test_state_of_another_schedule() -> None:
    plateau, cosine = schedules.create("plateau", **OPTIONS), schedules.create("cosine", **OPTIONS)
    with pytest.raises(CheckpointError, match=r"schedule has state none, ReduceOnPlateau has lr, best, bad_epochs"):
        plateau.load_state(cosine.state())
    with pytest.raises(CheckpointError, match=r"schedule has state bad_epochs, best, lr, Cosine has none: resume"):
        cosine.load_state(plateau.state())


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"lr must be in \(0, inf\], got 0"):
        schedules.Constant(0, **STEPS)
    with pytest.raises(ConfigError, match=r"total_steps must be at least 1, got 0"):
        schedules.Constant(0.1, total_steps=0, steps_per_epoch=1)
    with pytest.raises(ConfigError, match=r"steps_per_epoch must be at least 1, got 0"):
        schedules.Cosine(0.1, total_steps=1, steps_per_epoch=0)
    with pytest.raises(ConfigError, match=r"epochs must be at least 1, got 0"):
        schedules.Step(0.1, **STEPS, epochs=0)
    with pytest.raises(ConfigError, match=r"patience must be at least 0, got -1"):
        schedules.ReduceOnPlateau(0.1, **STEPS, patience=-1)
    for bad in (
        lambda: schedules.Step(0.1, **STEPS, factor=0),
        lambda: schedules.Exponential(0.1, **STEPS, factor=2),
        lambda: schedules.ReduceOnPlateau(0.1, **STEPS, factor=-1),
    ):
        with pytest.raises(ConfigError, match=r"factor must be in \(0, 1\], got"):
            bad()
    for warm in (lambda: schedules.Cosine(0.1, **STEPS, warmup=1), lambda: schedules.OneCycle(0.1, **STEPS, warmup=-1)):
        with pytest.raises(ConfigError, match=r"warmup must be in \[0, 1\), got"):
            warm()
