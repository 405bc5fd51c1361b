"""The CUDA updates against the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.ops import optimizer
from gpunet.ops.optimizer import reference
from tests.cuda.conftest import Device
from tests.emulator import RUNTIME
from tests.ops.test_optimizer import Case, cases, check
from tests.support import assert_close

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
RULES = ("sgd", "momentum", "nesterov", "adam", "ema")


def run_on(device: Device, case: Case) -> list[np.ndarray]:
    """As ``Case.run``, with scalars of the device where the case says so."""
    params = device.array(case.params)
    slots = [device.array(np.zeros_like(case.params)) for _ in range(2 if case.rule == "adam" else 1)]
    lr: Any = device.array(np.array([case.lr])) if case.as_arrays else case.lr
    scale: Any = case.scale
    if case.as_arrays and scale is not None:
        scale = device.array(np.array(scale, case.params.dtype))
    for step, grads in enumerate(case.grads, start=1):
        options = {"lr": lr, "scale": scale, **case.options}
        if case.rule == "adam":
            number: Any = device.array(np.array([step])) if case.as_arrays else step
            optimizer.adam_update(params, device.array(grads), *slots, step=number, **options)
        else:
            velocity = slots[0] if case.options["momentum"] else None
            optimizer.sgd_update(params, device.array(grads), velocity, **options)
    return [device.host(params), *map(device.host, slots)]


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@settings(max_examples=25)
@given(data=st.data())
def test_against_reference(device: Device, rule: str, data: Any) -> None:
    case = data.draw(cases(rule))
    check(case, run_on(device, case), case.run(reference))


def update(module: Any, rule: str, p: Any, g: Any, m: Any, v: Any, **options: Any) -> None:
    """One update by a rule of RULES."""
    if rule == "adam":
        module.adam_update(p, g, m, v, lr=0.1, step=5, decoupled=True, **options)
    elif rule == "ema":
        module.ema_update(p, g, decay=0.9)
    else:
        momentum = 0.0 if rule == "sgd" else 0.9
        module.sgd_update(p, g, m, lr=0.1, momentum=momentum, nesterov=rule == "nesterov", **options)


@DTYPES
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("offsets", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 3, 0, 0), (0, 0, 2, 1)])
def test_buffers_that_start_anywhere(device: Device, rule: str, dtype: Any, offsets: tuple[int, ...]) -> None:
    """Views into flat buffers, aligned for vectors or not; decay that ends within a quad; what is around them stays."""
    rng = np.random.default_rng(7)
    size = 1043
    wholes = np.abs(rng.standard_normal((4, size + 5))).astype(dtype)
    expected = wholes.copy()
    on_device = [device.array(whole) for whole in wholes]
    options: dict[str, Any] = {} if rule == "ema" else {"weight_decay": 0.1, "decay_size": 330, "scale": 0.5}
    update(optimizer, rule, *(a[o : o + size] for a, o in zip(on_device, offsets, strict=True)), **options)
    update(reference, rule, *(a[o : o + size] for a, o in zip(expected, offsets, strict=True)), **options)
    for ours, theirs, before, offset in zip(map(device.host, on_device), expected, wholes, offsets, strict=True):
        assert_close(ours, theirs, terms=8)
        np.testing.assert_array_equal(ours[:offset], before[:offset])
        np.testing.assert_array_equal(ours[offset + size :], before[offset + size :])


@pytest.mark.parametrize("rule", RULES)
def test_blocks_that_go_round(device: Device, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpunet.ops.optimizer import cuda

    monkeypatch.setattr(cuda, "_MAX_BLOCKS", 2)
    arrays = np.abs(np.random.default_rng(8).standard_normal((4, 2 * 2 * 1024 + 37))).astype(np.float32)
    on_device = [device.array(array) for array in arrays]
    update(optimizer, rule, *on_device)
    update(reference, rule, *arrays)
    for ours, theirs in zip(map(device.host, on_device), arrays, strict=True):
        assert_close(ours, theirs, terms=8)


@DTYPES
@pytest.mark.parametrize("size", [1, 5, 1023, 3001])
def test_gradient_scale(device: Device, size: int, dtype: Any) -> None:
    grads = np.random.default_rng(size).standard_normal(2 * size).astype(dtype)[::2]
    on_device = device.array(grads)
    for loss in (np.array(0.5, np.float32), np.array([0.5])):  # of either dtype
        for max_norm in (0.0, 1e-3, 1.0, 1e4):
            scale, norm = optimizer.gradient_scale(on_device, device.array(loss), max_norm=max_norm)
            expected, expected_norm = reference.gradient_scale(grads, loss, max_norm=max_norm)
            assert scale.shape == norm.shape == () and scale.dtype == norm.dtype == dtype
            assert_close(device.host(scale), expected)
            assert_close(device.host(norm), expected_norm)


def test_norm_has_the_same_bits_in_any_order_of_threads(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    grads = device.array(np.random.default_rng(4).standard_normal(5000))
    loss = device.array(np.zeros(()))
    norms = []
    for seed in (0, 11, 12, 13):
        monkeypatch.setattr(RUNTIME, "seed", seed)  # of the emulator; on a GPU the order is what it is
        norms.append(device.host(optimizer.gradient_scale(grads, loss, max_norm=1.0)[1]).tobytes())
    assert len(set(norms)) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradient_scale_of_what_is_not_finite(device: Device, bad: float) -> None:
    good, grads = device.array(np.array([0.5])), device.array(np.array([3.0, -4.0]))
    for max_norm in (0.0, 1.0):
        assert np.isnan(device.host(optimizer.gradient_scale(grads, device.array([bad]), max_norm=max_norm)[0]))
    scale, norm = optimizer.gradient_scale(device.array([1.0, bad]), good, max_norm=1.0)
    assert np.isnan(device.host(scale)) and not np.isfinite(device.host(norm))
    # without clipping the gradients are not looked at
    assert list(map(device.host, optimizer.gradient_scale(device.array([1.0, bad]), good))) == [1, 0]


def test_squares_that_float32_cannot_hold(device: Device) -> None:
    loss = device.array(np.zeros((), np.float32))
    grads = device.array(np.array([3e30, 4e30], np.float32))
    scale, norm = map(device.host, optimizer.gradient_scale(grads, loss, max_norm=5.0))
    assert norm == np.float32(5e30) and scale == np.float32(1e-30)
    grads = device.array(np.full(20, 3e38, np.float32))  # nor can it hold the norm
    scale, norm = map(device.host, optimizer.gradient_scale(grads, loss, max_norm=5.0))
    assert norm == math.inf and np.isnan(scale)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_nothing_changes_without_a_finite_scale(device: Device, scale: float) -> None:
    buffers = [device.array(np.arange(1.0, 7.0)) for _ in range(4)]
    params, grads, m, v = buffers
    for value in (scale, device.array(np.array(scale)), device.array(np.array([scale], np.float32))):
        optimizer.sgd_update(params, grads, m, lr=0.1, momentum=0.9, weight_decay=0.1, scale=value)
        optimizer.sgd_update(params, grads, None, lr=0.1, scale=value)
        optimizer.adam_update(params, grads, m, v, lr=0.1, step=1, weight_decay=0.1, decoupled=True, scale=value)
    for buffer in buffers:
        np.testing.assert_array_equal(device.host(buffer), np.arange(1.0, 7.0))


@settings(max_examples=25)
@given(
    size=st.integers(1, 50),
    dtype=st.sampled_from((np.float32, np.float64)),
    decay=st.sampled_from((0.0, 0.3, 0.5, 0.999, 1.0)),
    step=st.none() | st.integers(0, 10_000),
    as_array=st.booleans(),
    sliced=st.booleans(),
)
def test_ema(
    device: Device, size: int, dtype: Any, decay: float, step: int | None, as_array: bool, sliced: bool
) -> None:
    rng = np.random.default_rng(size)
    average = rng.standard_normal(size).astype(dtype)
    values = rng.standard_normal(2 * size).astype(dtype)[: 2 * size if sliced else size : 2 if sliced else 1]
    ours = device.array(average)
    number: Any = device.array(np.array([step])) if as_array and step is not None else step
    optimizer.ema_update(ours, device.array(values), decay=decay, step=number)
    reference.ema_update(average, values, decay=decay, step=step)
    assert_close(device.host(ours), average, scale=float(max(np.abs(average).max(), np.abs(values).max())), c=4)
    if decay in (0.0, 1.0) and step is None:
        np.testing.assert_array_equal(device.host(ours), average)


@pytest.mark.parametrize("step", [1, 1000, 10**6])
def test_first_and_late_steps_of_adam(device: Device, step: int) -> None:
    """Bias corrections far from and near 1, from a step that only the device knows."""
    arrays = np.abs(np.random.default_rng(9).standard_normal((4, 9))).astype(np.float32)
    on_device = [device.array(array) for array in arrays]
    lr, number = device.array(np.array([0.01], np.float32)), device.array(np.array([step], np.int32))
    optimizer.adam_update(*on_device, lr=lr, step=number, weight_decay=0.1)
    reference.adam_update(*arrays, lr=float(np.float32(0.01)), step=step, weight_decay=0.1)
    for ours, theirs in zip(map(device.host, on_device), arrays, strict=True):
        assert_close(ours, theirs, terms=8)


def test_captured(device: Device) -> None:
    """Learning rate, step and loss change between the replays; a loss that is not finite stops the updates."""
    rng = np.random.default_rng(10)
    grads = rng.standard_normal(45).astype(np.float32)
    start = [np.abs(rng.standard_normal(45)).astype(np.float32) for _ in range(6)]
    expected, ours = [array.copy() for array in start], [device.array(array) for array in start]
    lr, step, loss = (device.array(np.zeros(1, dtype)) for dtype in (np.float64, np.int64, np.float64))
    grads_device = device.array(grads)

    def run(module: Any, arrays: list[Any], grads: Any, lr: Any, step: Any, loss: Any) -> None:
        p, velocity, q, m, v, average = arrays
        scale, _ = module.gradient_scale(grads, loss, max_norm=1.0)
        module.sgd_update(p, grads, velocity, lr=lr, momentum=0.9, weight_decay=0.1, decay_size=22, scale=scale)
        module.adam_update(q, grads, m, v, lr=lr, step=step, scale=scale)
        module.ema_update(average, q, decay=0.99, step=step)

    captured = device.backend.capture(lambda: run(optimizer, ours, grads_device, lr, step, loss))
    for i, value in enumerate((0.5, 0.25, math.nan, 0.125)):
        lr[...], step[...], loss[...] = 0.1 / (i + 1), i + 1, value
        captured()
        run(reference, expected, grads, 0.1 / (i + 1), i + 1, np.array(value))
    for array, wanted in zip(map(device.host, ours), expected, strict=True):
        assert_close(array, wanted, terms=32)


def test_empty_buffers(device: Device) -> None:
    p, g, m, v = (device.array(np.zeros(0, np.float32)) for _ in range(4))
    for rule in RULES:
        update(optimizer, rule, p, g, m, v)
    scale, norm = optimizer.gradient_scale(g, device.array(np.zeros(1)), max_norm=1.0)
    assert (device.host(scale), device.host(norm)) == (1, 0)
