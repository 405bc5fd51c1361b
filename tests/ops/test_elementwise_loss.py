"""Losses of numbers: reference against hand-computed values and PyTorch; the CPU against the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops import elementwise_loss
from gpunet.ops.elementwise_loss import reference
from tests.support import assert_close, torch_or_skip

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
NAMES = ("mse_loss", "huber_loss", "binary_cross_entropy_with_logits")


@dataclass(frozen=True)
class Case:
    name: str
    outputs: np.ndarray
    targets: np.ndarray
    options: dict[str, Any]

    def check(self, actual: tuple[np.ndarray, np.ndarray]) -> None:
        """All is computed in float64, so a single rounding to the result's dtype is left."""
        expected = getattr(reference, self.name)(self.outputs, self.targets, **self.options)
        for found, wanted in zip(actual, expected, strict=True):
            assert found.dtype == self.outputs.dtype
            assert_close(found, wanted, terms=self.outputs.size if found.dtype == np.float64 else 1)


def case_of(name: str, rows: int, columns: int, dtype: Any, seed: int = 0, **options: Any) -> Case:
    rng = np.random.default_rng(seed)
    outputs = (3 * rng.standard_normal((rows, columns))).astype(dtype)
    binary = name == NAMES[2]
    targets = rng.integers(0, 2, outputs.shape) if binary else rng.standard_normal(outputs.shape)
    if options.pop("weighted", False):
        options["sample_weight"] = (0.1 + rng.random(2 * rows)).astype(dtype)[::2]
        if binary:
            options["pos_weight"] = (0.1 + 3 * rng.random(columns)).astype(dtype)
    return Case(name, outputs, targets.astype(dtype), options)


@st.composite
def cases(draw: Any) -> Case:
    name = draw(st.sampled_from(NAMES))
    options = {"weighted": draw(st.booleans()), "reduction": draw(st.sampled_from(("mean", "sum", "none")))}
    if name == "huber_loss":
        options["delta"] = draw(st.sampled_from((0.5, 1.0, 10.0)))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    case = case_of(name, draw(st.integers(1, 9)), draw(st.integers(1, 5)), dtype, draw(st.integers(0, 999)), **options)
    if draw(st.booleans()):  # views that are not contiguous
        return Case(name, np.repeat(case.outputs, 2, 1)[:, ::2], np.repeat(case.targets, 2, 1)[:, ::2], case.options)
    return case


def test_reference_hand_computed() -> None:
    outputs, targets = np.array([[1.0, -2.0]]), np.array([[0.5, 1.0]])  # errors 0.5 and -3
    loss, gradient = reference.mse_loss(outputs, targets)
    assert loss == (0.25 + 9) / 2 and gradient.tolist() == [[0.5, -3.0]]
    loss, gradient = reference.huber_loss(outputs, targets, delta=2.0)
    assert loss == (0.125 + 2 * (3 - 1)) / 2 and gradient.tolist() == [[0.25, -1.0]]
    even = np.array([[0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    loss, gradient = reference.binary_cross_entropy_with_logits(
        even, np.array([[1.0, 0.0]]), pos_weight=np.array([2.0, 5.0]), reduction="sum"
    )
    np.testing.assert_allclose(loss, 2 * math.log(2) + math.log(4), rtol=1e-15)
    np.testing.assert_allclose(gradient, [[-1.0, 0.75]], rtol=1e-15)
    # (2 * (1 + 9) + 6 * 4) / (2 columns * 8)
    rows, zeros = np.array([[1.0, 3.0], [2.0, 0.0]]), np.zeros((2, 2))
    loss, gradient = reference.mse_loss(rows, zeros, sample_weight=np.array([2.0, 6.0]))
    assert loss == 44 / 16 and gradient.tolist() == [[4 / 16, 12 / 16], [24 / 16, 0.0]]


@DTYPES
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", NAMES)
def test_pytorch_agrees(name: str, reduction: str, dtype: Any) -> None:
    torch = torch_or_skip()
    more: dict[str, Any] = {"delta": 0.7} if name == "huber_loss" else {}
    case = case_of(name, 7, 3, dtype, reduction=reduction, **more)
    if name == NAMES[2]:
        more = {"pos_weight": np.array([0.5, 2.0, 3.0], dtype)}
    x = torch.tensor(case.outputs, requires_grad=True)
    arrays = {key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in more.items()}
    expected = getattr(torch.nn.functional, name)(x, torch.tensor(case.targets), reduction=reduction, **arrays)
    expected.backward()
    for module in (reference, elementwise_loss):
        loss, gradient = getattr(module, name)(case.outputs, case.targets, reduction=reduction, **more)
        assert loss.dtype == gradient.dtype == dtype and loss.shape == ()
        tolerance = 10 * np.finfo(dtype).eps
        np.testing.assert_allclose(loss, expected.detach(), rtol=tolerance)
        np.testing.assert_allclose(gradient, x.grad, rtol=10 * tolerance, atol=tolerance)


@settings(max_examples=60)
@given(case=cases())
def test_cpu_against_reference(case: Case) -> None:
    case.check(getattr(elementwise_loss, case.name)(case.outputs, case.targets, **case.options))


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    case, found = case_of(name, 3000, 3, np.float32, weighted=True), []
    threads = numba.get_num_threads()
    for number in {1, threads}:
        numba.set_num_threads(number)
        found.append(getattr(elementwise_loss, name)(case.outputs, case.targets, **case.options))
    numba.set_num_threads(threads)
    case.check(found[0])
    for loss, gradient in found:
        assert loss == found[0][0]
        np.testing.assert_array_equal(gradient, found[0][1])


def test_large_outputs_neither_overflow_nor_lose_digits() -> None:
    outputs, targets = np.array([[1e4, -1e4, 40.0, -40.0]]), np.array([[0.0, 1.0, 1.0, 0.0]])
    for module in (reference, elementwise_loss):
        losses, gradient = module.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        tiny = math.exp(-40)
        np.testing.assert_allclose(losses, [[1e4, 1e4, tiny, tiny]], rtol=1e-14)
        np.testing.assert_allclose(gradient, [[1, -1, -tiny, tiny]], rtol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_shows_and_no_weight_is_nan(name: str) -> None:
    outputs, targets = np.array([[0.5], [math.nan]]), np.zeros((2, 1))
    loss, gradient = getattr(elementwise_loss, name)(outputs, targets)
    assert np.isnan(loss) and np.isfinite(gradient[0]).all() and np.isnan(gradient[1]).all()
    loss, gradient = getattr(elementwise_loss, name)(targets, targets, sample_weight=np.zeros(2))
    assert np.isnan(loss) and np.isnan(gradient).all()


def test_bad_input() -> None:
    x, loss = np.zeros((3, 2), np.float32), elementwise_loss.mse_loss
    for outputs, targets, error, message in (
        (x[0], x[0], ShapeError, r"outputs must have 2 dimensions \(N, K\), got shape \(2,\)"),
        (x, x[:, :1], ShapeError, r"targets must have shape \(3, 2\), got \(3, 1\)"),
        (x, np.zeros((3, 2)), DTypeError, "targets is float64 but outputs is float32"),
        (x.astype(int), x, DTypeError, "outputs must be float32 or float64, got int64"),
        (x[:0], x[:0], ShapeError, r"at least one element, got outputs \(0, 2\)"),
    ):
        with pytest.raises(error, match=message):
            loss(outputs, targets)
    with pytest.raises(ShapeError, match=r"sample_weight must have shape \(3,\), got \(2,\)"):
        loss(x, x, sample_weight=np.ones(2, np.float32))
    with pytest.raises(ShapeError, match=r"pos_weight must have shape \(2,\), got \(3,\)"):
        elementwise_loss.binary_cross_entropy_with_logits(x, x, pos_weight=np.ones(3, np.float32))
    with pytest.raises(ConfigError, match="reduction must be one of mean, sum, none; got 'max'"):
        loss(x, x, reduction="max")
    with pytest.raises(ConfigError, match="delta must be in"):
        elementwise_loss.huber_loss(x, x, delta=0)
