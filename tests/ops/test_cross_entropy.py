"""Softmax and cross entropy: reference against hand-computed values, differences and PyTorch; the CPU against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DataError, DTypeError, ShapeError
from gpunet.ops import cross_entropy
from gpunet.ops.cross_entropy import reference
from tests.support import assert_close, check_gradient, torch_or_skip

LABEL_DTYPES = (np.uint8, np.int16, np.int32, np.int64, np.uint64)


@dataclass(frozen=True)
class Case:
    logits: np.ndarray
    labels: np.ndarray
    options: dict[str, Any]

    @property
    def largest_weight(self) -> float:
        weight, of_rows = self.options["weight"], self.options.get("sample_weight")
        largest = 1.0 if weight is None else float(weight.max())
        return largest * (1.0 if of_rows is None else float(of_rows.max()))

    @property
    def divisor(self) -> float:
        if self.options["reduction"] != "mean":
            return 1.0
        weight, of_rows = self.options["weight"], self.options.get("sample_weight")
        weights = np.ones(len(self.labels)) if weight is None else weight[self.labels.astype(int)]
        return float((weights if of_rows is None else weights * of_rows).sum())

    def check(self, actual: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
        """Loss: a log of a sum of C terms and sums over N rows; gradient: differences of numbers up to the weight."""
        loss, gradient = expected
        assert actual[0].dtype == actual[1].dtype == self.logits.dtype
        rows, classes = self.logits.shape
        span = 1 + float(np.ptp(self.logits, axis=1).max())  # each term -t log p is at most weight * span
        losses = 1 if self.options["reduction"] == "none" else rows
        scale = max(1.0, span * self.largest_weight * losses / self.divisor)
        assert_close(actual[0], loss, terms=classes, scale=scale, c=4)
        assert_close(actual[1], gradient, terms=classes, scale=2 * self.largest_weight / self.divisor, c=4)


@st.composite
def cases(draw: Any, *, like_pytorch: bool = False) -> Case:
    """With `like_pytorch`, only the options that its function has."""
    rows, classes = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = (rng.standard_normal((2 * rows, classes + 3)) * draw(st.sampled_from((0.1, 2.0, 30.0)))).astype(dtype)
    logits = logits[::2, 1:-2] if draw(st.booleans()) else logits[:rows, :classes].copy()
    labels = rng.integers(0, classes, 2 * rows).astype(draw(st.sampled_from(LABEL_DTYPES)))
    labels = labels[::2] if draw(st.booleans()) else labels[:rows].copy()
    weight = (0.1 + rng.random(2 * classes)).astype(dtype)[::2] if draw(st.booleans()) else None
    smoothing = draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    options = {
        "label_smoothing": smoothing,
        "weight": weight,
        "sample_weight": (0.1 + rng.random(2 * rows)).astype(dtype)[::2] if draw(st.booleans()) else None,
        "gamma": 0.0 if smoothing else draw(st.sampled_from((0.0, 0.5, 2.0))),
        "reduction": draw(st.sampled_from(("mean", "sum", "none"))),
    }
    if like_pytorch:
        options = {name: value for name, value in options.items() if name not in ("sample_weight", "gamma")}
    return Case(logits, labels, options)


# reference.py


def test_reference_hand_computed() -> None:
    x = np.log(np.array([[1.0, 2.0, 5.0]]))
    np.testing.assert_allclose(reference.softmax(x), [[0.125, 0.25, 0.625]], rtol=1e-15)
    np.testing.assert_allclose(reference.log_softmax(x), np.log([[0.125, 0.25, 0.625]]), rtol=1e-15)
    label = np.array([1])
    loss, gradient = reference.softmax_cross_entropy(x, label)
    np.testing.assert_allclose(loss, math.log(4), rtol=1e-15)
    np.testing.assert_allclose(gradient, [[0.125, -0.75, 0.625]], rtol=1e-14)
    # smoothing 0.3 spreads 0.1 to each class: targets 0.1, 0.8, 0.1
    loss, gradient = reference.softmax_cross_entropy(x, label, label_smoothing=0.3)
    np.testing.assert_allclose(loss, 0.1 * math.log(8) + 0.8 * math.log(4) + 0.1 * math.log(1.6), rtol=1e-14)
    np.testing.assert_allclose(gradient, [[0.025, -0.55, 0.525]], rtol=1e-14)


def test_reference_weights_hand_computed() -> None:
    x = np.log(np.array([[1.0, 3.0], [1.0, 1.0]]))
    labels, weight = np.array([0, 1]), np.array([2.0, 6.0])
    # losses 2 log 4 and 6 log 2: 10 log 2 together; weights of the labels 2 + 6
    loss, gradient = reference.softmax_cross_entropy(x, labels, weight=weight)
    np.testing.assert_allclose(loss, 10 * math.log(2) / 8, rtol=1e-15)
    np.testing.assert_allclose(gradient, np.array([[2 * (0.25 - 1), 2 * 0.75], [6 * 0.5, 6 * -0.5]]) / 8, rtol=1e-14)
    total, _ = reference.softmax_cross_entropy(x, labels, weight=weight, reduction="sum")
    np.testing.assert_allclose(total, 10 * math.log(2), rtol=1e-15)
    each, _ = reference.softmax_cross_entropy(x, labels, weight=weight, reduction="none")
    np.testing.assert_allclose(each, [4 * math.log(2), 6 * math.log(2)], rtol=1e-15)


def test_count_correct_hand_computed() -> None:
    nan = math.nan
    # right; the first of two equal ones, twice, and the second; a NaN at, before and behind the label; right
    rows = [[1, 3, 2], [4, 4, 0], [0, 4, 4], [4, 4, 0], [nan, 1, 0], [nan, 1, 0], [0, 1, nan], [-1, -2, -3]]
    logits, labels = np.array(rows, np.float32), np.array([1, 0, 1, 1, 0, 1, 1, 0])
    for module in (reference, cross_entropy):
        correct = module.count_correct(logits, labels)
        assert correct == 4 and correct.dtype == np.int64 and correct.shape == ()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reference_gradient_by_differences(smoothing: float, reduction: str) -> None:
    rng = np.random.default_rng(3)
    logits, labels, weight = rng.standard_normal((4, 5)), rng.integers(0, 5, 4), rng.random(5) + 0.2
    options: dict[str, Any] = {"label_smoothing": smoothing, "weight": weight, "reduction": reduction}
    _, gradient = reference.softmax_cross_entropy(logits, labels, **options)
    check_gradient(
        lambda x: reference.softmax_cross_entropy(x, labels, **options)[0], gradient, logits, np.ones(1), rng
    )


@settings(max_examples=200)
@given(case=cases(like_pytorch=True))
def test_reference_against_pytorch(case: Case) -> None:
    torch = torch_or_skip()
    weight = case.options["weight"]
    tensor = torch.tensor(np.ascontiguousarray(case.logits), requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        tensor,
        torch.tensor(case.labels.astype(np.int64)),
        **(case.options | {"weight": None if weight is None else torch.tensor(weight.copy())}),
    )
    loss.sum().backward()
    actual = reference.softmax_cross_entropy(case.logits, case.labels, **case.options)
    case.check(actual, (loss.detach().numpy(), tensor.grad.numpy()))
    for ours, theirs in ((reference.softmax, torch.softmax), (reference.log_softmax, torch.log_softmax)):
        expected = theirs(tensor.detach(), -1).numpy()
        assert_close(ours(case.logits), expected, terms=case.logits.shape[1], scale=max(1, np.abs(expected).max()))
    largest = tensor.detach().argmax(1).numpy()
    assert reference.count_correct(case.logits, case.labels) == (largest == case.labels.astype(np.int64)).sum()


# cpu.py


@settings(max_examples=200)
@given(case=cases())
def test_cpu_against_reference(case: Case) -> None:
    before = case.logits.copy(), case.labels.copy()
    actual = cross_entropy.softmax_cross_entropy(case.logits, case.labels, **case.options)
    case.check(actual, reference.softmax_cross_entropy(case.logits, case.labels, **case.options))
    assert actual[0].shape == (case.labels.shape if case.options["reduction"] == "none" else ())
    expected = reference.count_correct(case.logits, case.labels)
    assert cross_entropy.count_correct(case.logits, case.labels) == expected
    np.testing.assert_array_equal(case.logits, before[0])
    np.testing.assert_array_equal(case.labels, before[1])


@settings(max_examples=200)
@given(case=cases(), axes=st.integers(1, 3))
def test_cpu_softmax_against_reference(case: Case, axes: int) -> None:
    x = case.logits[0] if axes == 1 else case.logits if axes == 2 else case.logits[:, None]
    classes = x.shape[-1]
    for name in ("softmax", "log_softmax"):
        actual, expected = getattr(cross_entropy, name)(x), getattr(reference, name)(x)
        assert actual.dtype == x.dtype
        assert_close(actual, expected, terms=classes, scale=max(1.0, float(np.abs(expected).max())), c=4)
    np.testing.assert_allclose(cross_entropy.softmax(x).sum(-1), 1, rtol=classes * np.finfo(x.dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_rows_and_any_number_of_threads(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    logits = (rng.standard_normal((2000, 10)) * 3).astype(dtype)
    labels = rng.integers(0, 10, 2000).astype(np.uint8)
    options: dict[str, Any] = {"label_smoothing": 0.1, "weight": rng.random(10).astype(dtype), "reduction": "mean"}

    def results() -> list[np.ndarray]:
        loss = cross_entropy.softmax_cross_entropy(logits, labels, **options)
        return [*loss, cross_entropy.softmax(logits), cross_entropy.count_correct(logits, labels)]

    actual = results()
    Case(logits, labels, options).check(
        (actual[0], actual[1]), reference.softmax_cross_entropy(logits, labels, **options)
    )
    assert_close(actual[2], reference.softmax(logits), terms=10, scale=1)
    assert actual[3] == reference.count_correct(logits, labels)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        for one, many in zip(results(), actual, strict=True):
            np.testing.assert_array_equal(one, many)
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_logits(dtype: Any) -> None:
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4 - 1]], dtype)
    # 1e4 - (-1e4), then log(2 + 1/e): all else is below the rounding
    loss, gradient = cross_entropy.softmax_cross_entropy(logits, np.array([1, 0]), reduction="none")
    assert_close(loss, np.array([2e4, math.log(2 + math.exp(-1))]).astype(dtype), scale=2e4)
    total = 2 + math.exp(-1)
    assert_close(gradient, np.array([[1, -1, 0], [1 / total - 1, 1 / total, math.exp(-1) / total]]).astype(dtype))
    np.testing.assert_array_equal(cross_entropy.log_softmax(logits)[0], [0, -2e4, -1e4])
    np.testing.assert_array_equal(cross_entropy.softmax(logits)[0], [1, 0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nearly_certain_row_keeps_its_digits(dtype: Any) -> None:
    # p = 1 / (1 + exp(-16)): the loss and the label's gradient are about exp(-16) = 1.1e-7, below float32's 1 - p.
    loss, gradient = cross_entropy.softmax_cross_entropy(np.array([[16.0, 0.0]], dtype), np.array([0]))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, math.log1p(math.exp(-16)), rtol=max(8 * eps, 1e-8))
    np.testing.assert_allclose(gradient[0, 0], -1 / (1 + math.exp(16)), rtol=max(8 * eps, 1e-8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_show(value: float, dtype: Any) -> None:
    for place in range(3):
        logits = np.zeros((2, 3), dtype)
        logits[0, place] = value
        loss, gradient = cross_entropy.softmax_cross_entropy(logits, np.array([1, 1]))
        assert np.isnan(loss) and np.isnan(gradient[0]).all() and np.isfinite(gradient[1]).all()
        assert np.isnan(cross_entropy.softmax(logits)[0]).all()


def test_an_impossible_class() -> None:
    logits = np.array([[0.0, -math.inf]])
    for module in (reference, cross_entropy):
        loss, gradient = module.softmax_cross_entropy(logits, np.array([0]))
        assert loss == 0 and (gradient == 0).all()
        assert module.softmax_cross_entropy(logits, np.array([1]))[0] == math.inf


def test_no_label_has_a_weight() -> None:
    weight = np.array([0.0, 1.0])
    loss, gradient = cross_entropy.softmax_cross_entropy(np.zeros((2, 2)), np.array([0, 0]), weight=weight)
    assert np.isnan(loss) and np.isnan(gradient).all()  # 0 / 0, as in PyTorch


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.7])
def test_the_focal_loss_and_weights_of_rows_are_those_of_autograd(gamma: float, dtype: Any) -> None:
    """Lin et al.'s formula, written in PyTorch, with class weights and weights of rows."""
    torch = torch_or_skip()
    rng = np.random.default_rng(3)
    logits = (3 * rng.standard_normal((6, 4))).astype(dtype)
    labels, weight = rng.integers(0, 4, 6), (0.5 + rng.random(4)).astype(dtype)
    of_rows = (0.5 + rng.random(6)).astype(dtype)
    x = torch.tensor(logits.astype(np.float64), requires_grad=True)
    log_p = torch.log_softmax(x, 1)[torch.arange(6), torch.tensor(labels)]
    factors = torch.tensor(weight.astype(np.float64))[torch.tensor(labels)] * torch.tensor(of_rows.astype(np.float64))
    expected = (factors * (1 - log_p.exp()) ** gamma * -log_p).sum() / factors.sum()
    expected.backward()
    loss, gradient = cross_entropy.softmax_cross_entropy(
        logits, labels, weight=weight, sample_weight=of_rows, gamma=gamma
    )
    assert loss.dtype == gradient.dtype == dtype
    tolerance = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(loss, expected.item(), rtol=tolerance)
    np.testing.assert_allclose(gradient, x.grad, rtol=20 * tolerance, atol=tolerance)


def test_the_focal_loss_of_certain_and_impossible_labels() -> None:
    logits = np.array([[800.0, 0.0], [0.0, -math.inf]])
    for module in (reference, cross_entropy):
        for gamma in (0.5, 2.0):
            loss, gradient = module.softmax_cross_entropy(logits, np.array([0, 0]), gamma=gamma)
            assert loss == 0 and (gradient == 0).all()
            assert module.softmax_cross_entropy(logits[1:], np.array([1]), gamma=gamma)[0] == math.inf
        # p = 1/2 everywhere: the loss is log(2) / 4 and the slope 1/4 - 2 * 1/2 * 1/2 * log(1/2)
        loss, gradient = module.softmax_cross_entropy(np.zeros((1, 2)), np.array([1]), gamma=2.0)
        np.testing.assert_allclose(loss, math.log(2) / 4, rtol=1e-15)
        slope = 0.25 + 0.5 * math.log(2)
        np.testing.assert_allclose(gradient, [[slope / 2, -slope / 2]], rtol=1e-14)


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_labels_out_of_range(dtype: Any) -> None:
    logits, labels = np.zeros((3, 4), np.float32), np.array([3, 4, 0]).astype(dtype)
    for function in (cross_entropy.softmax_cross_entropy, cross_entropy.count_correct):
        with pytest.raises(DataError, match=r"labels must be in \[0, 4\) for 4 classes, got 4 at index 1$"):
            function(logits, labels)
    with pytest.raises(DataError, match=r"got -1 at index 0 and 1 more out of range"):
        cross_entropy.count_correct(logits, np.array([-1, 0, 9]))


def test_bad_input() -> None:
    x, labels = np.zeros((3, 4), np.float32), np.zeros(3, int)
    loss = cross_entropy.softmax_cross_entropy
    with pytest.raises(DTypeError, match=r"logits must be float32 or float64, got int64"):
        loss(np.zeros((3, 4), np.int64), labels)
    with pytest.raises(ShapeError, match=r"logits must have 2 dimensions \(N, C\), got shape \(4,\)"):
        loss(x[0], labels)
    with pytest.raises(ShapeError, match=r"at least one row, got logits \(0, 4\)"):
        loss(x[:0], labels[:0])
    with pytest.raises(ShapeError, match=r"labels must have shape \(3,\), got \(2,\)"):
        loss(x, labels[:2])
    for other in (np.zeros(3), labels.astype(">i8")):
        with pytest.raises(DTypeError, match=rf"labels must be integers in native byte order, got {other.dtype}"):
            loss(x, other)
        with pytest.raises(DTypeError, match="native byte order"):
            cross_entropy.count_correct(x, other)
    with pytest.raises(ShapeError, match=r"weight must have shape \(4,\), got \(3,\)"):
        loss(x, labels, weight=np.ones(3, np.float32))
    with pytest.raises(DTypeError, match=r"weight is float64 but logits is float32"):
        loss(x, labels, weight=np.ones(4))
    with pytest.raises(ConfigError, match=r"reduction must be one of mean, sum, none; got 'max'"):
        loss(x, labels, reduction="max")
    with pytest.raises(ShapeError, match=r"sample_weight must have shape \(3,\), got \(4,\)"):
        loss(x, labels, sample_weight=np.ones(4, np.float32))
    with pytest.raises(ConfigError, match=r"gamma must be in \[0, inf\], got -1"):
        loss(x, labels, gamma=-1)
    with pytest.raises(ConfigError, match=r"the focal loss goes without label_smoothing, got 0.1 with gamma 2"):
        loss(x, labels, gamma=2, label_smoothing=0.1)
    with pytest.raises(ConfigError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
        loss(x, labels, label_smoothing=1.5)
    with pytest.raises(ShapeError, match=r"x must have at least one entry along its last axis, got shape \(2, 0\)"):
        cross_entropy.softmax(np.zeros((2, 0)))
    with pytest.raises(ShapeError, match=r"got shape \(\)"):
        cross_entropy.log_softmax(np.zeros(()))
    with pytest.raises(DTypeError, match=r"x must be float32 or float64"):
        cross_entropy.softmax(np.zeros(3, np.float16))
