"""The CUDA softmax and cross entropy against the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.backend import Array
from gpunet.ops import cross_entropy
from gpunet.ops.cross_entropy import cuda, reference
from tests.cuda.conftest import Device
from tests.emulator import RUNTIME
from tests.ops.test_cross_entropy import Case, cases
from tests.support import assert_close

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def run(device: Device, case: Case) -> tuple[np.ndarray, np.ndarray]:
    arrays = {name: case.options.get(name) for name in ("weight", "sample_weight")}
    options = case.options | {name: None if array is None else device.array(array) for name, array in arrays.items()}
    logits, labels = device.array(case.logits), device.array(case.labels)
    loss, dlogits = cross_entropy.softmax_cross_entropy(logits, labels, **options)
    return device.host(loss), device.host(dlogits)


def check(device: Device, case: Case) -> None:
    loss, dlogits = run(device, case)
    assert loss.shape == (case.labels.shape if case.options["reduction"] == "none" else ())
    case.check((loss, dlogits), reference.softmax_cross_entropy(case.logits, case.labels, **case.options))
    correct = cross_entropy.count_correct(device.array(case.logits), device.array(case.labels))
    assert correct.shape == () and correct.dtype == np.int64
    assert device.host(correct) == reference.count_correct(case.logits, case.labels)


def check_softmax(device: Device, x: np.ndarray) -> None:
    for name in ("softmax", "log_softmax"):
        actual, expected = getattr(cross_entropy, name)(device.array(x)), getattr(reference, name)(x)
        assert actual.dtype == x.dtype
        scale = max(1.0, float(np.abs(expected).max()))
        assert_close(device.host(actual), expected, terms=x.shape[-1], scale=scale, c=4)


@settings(max_examples=30)
@given(case=cases())
def test_against_reference(device: Device, case: Case) -> None:
    check(device, case)


@settings(max_examples=10)
@given(case=cases(), axes=st.integers(1, 3))
def test_softmax_against_reference(device: Device, case: Case, axes: int) -> None:
    check_softmax(device, case.logits[0] if axes == 1 else case.logits if axes == 2 else case.logits[:, None])


def random_case(rows: int, classes: int, dtype: Any, **options: Any) -> Case:
    rng = np.random.default_rng(rows * classes)
    logits = (3 * rng.standard_normal((rows, classes))).astype(dtype)
    weight = (0.1 + rng.random(classes)).astype(dtype) if options.pop("weighted", False) else None
    options = {"label_smoothing": 0.1, "weight": weight, "reduction": "mean", **options}
    return Case(logits, rng.integers(0, classes, rows).astype(np.int32), options)


# One turn and several turns of a single block; several blocks, with part of a warp idle; lanes that go round.
SHAPES = [(33, 10), (300, 10), (515, 10), (1100, 7), (2100, 1), (40, 33), (70, 130)]


@DTYPES
@pytest.mark.parametrize(("rows", "classes"), SHAPES)
def test_blocks_turns_and_lanes(device: Device, rows: int, classes: int, dtype: Any) -> None:
    case = random_case(rows, classes, dtype, weighted=True)
    check(device, case)
    check(device, random_case(rows, classes, dtype, label_smoothing=0.0))
    check_softmax(device, case.logits[:70])


def test_shapes_cover_one_and_several_blocks() -> None:
    grids = [cuda._grid(*shape) for shape in SHAPES]
    assert {lanes for _, _, lanes in grids} == {1, 2, 4, 16, 32}
    assert [blocks > 1 for blocks, _, _ in grids] == [False, False, True, True, True, False, True]


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions_over_several_blocks(device: Device, reduction: str, weighted: bool) -> None:
    check(device, random_case(600, 10, np.float32, reduction=reduction, weighted=weighted))


@DTYPES
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss(device: Device, weighted: bool, dtype: Any) -> None:
    check(device, random_case(600, 10, dtype, label_smoothing=0.0, gamma=2.0, weighted=weighted))


@pytest.mark.parametrize("rows", [100, 600])
def test_any_order_of_threads_gives_the_same_bits(device: Device, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(rows, 10, np.float32, weighted=True)
    expected = run(device, case)
    for seed in (0, 11, 12):
        monkeypatch.setattr(RUNTIME, "seed", seed)  # of the emulator; on a GPU the order is what it is
        for again, before in zip(run(device, case), expected, strict=True):
            np.testing.assert_array_equal(again, before)


@DTYPES
def test_large_logits(device: Device, dtype: Any) -> None:
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4 - 1]], dtype)
    arrays = device.array(logits), device.array(np.array([1, 0]))
    loss, gradient = cross_entropy.softmax_cross_entropy(*arrays, reduction="none")
    assert_close(device.host(loss), np.array([2e4, math.log(2 + math.exp(-1))]).astype(dtype), scale=2e4)
    total = 2 + math.exp(-1)
    expected = np.array([[1, -1, 0], [1 / total - 1, 1 / total, math.exp(-1) / total]]).astype(dtype)
    assert_close(device.host(gradient), expected)
    np.testing.assert_array_equal(device.host(cross_entropy.log_softmax(arrays[0]))[0], [0, -2e4, -1e4])
    np.testing.assert_array_equal(device.host(cross_entropy.softmax(arrays[0]))[0], [1, 0, 0])


@DTYPES
def test_a_nearly_certain_row_keeps_its_digits(device: Device, dtype: Any) -> None:
    arrays = device.array(np.array([[16.0, 0.0]], dtype)), device.array(np.array([0]))
    loss, gradient = cross_entropy.softmax_cross_entropy(*arrays)
    tolerance = max(8 * np.finfo(dtype).eps, 1e-8)
    np.testing.assert_allclose(device.host(loss), math.log1p(math.exp(-16)), rtol=tolerance)
    np.testing.assert_allclose(device.host(gradient)[0, 0], -1 / (1 + math.exp(16)), rtol=tolerance)


def on_device(device: Device, logits: Any, labels: Any) -> tuple[Array, Array]:
    return device.array(np.array(logits, np.float32)), device.array(np.array(labels))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_show(device: Device, value: float) -> None:
    for place in range(3):
        logits = np.zeros((2, 3))
        logits[0, place] = value
        arrays = on_device(device, logits, [1, 1])
        loss, gradient = map(device.host, cross_entropy.softmax_cross_entropy(*arrays))
        assert np.isnan(loss) and np.isnan(gradient[0]).all() and np.isfinite(gradient[1]).all()
        assert np.isnan(device.host(cross_entropy.softmax(arrays[0]))[0]).all()
    logits = np.full((1, 3), -math.inf)
    assert np.isnan(device.host(cross_entropy.softmax(on_device(device, logits, [0])[0]))).all()


def test_an_impossible_class(device: Device) -> None:
    arrays = on_device(device, [[0.0, -math.inf]], [0])
    loss, gradient = map(device.host, cross_entropy.softmax_cross_entropy(*arrays))
    assert loss == 0 and (gradient == 0).all()
    loss, _ = cross_entropy.softmax_cross_entropy(*on_device(device, [[0.0, -math.inf]], [1]))
    assert device.host(loss) == math.inf


def test_no_label_has_a_weight(device: Device) -> None:
    weight = device.array(np.array([0.0, 1.0], np.float32))
    loss, gradient = cross_entropy.softmax_cross_entropy(*on_device(device, np.zeros((2, 2)), [0, 0]), weight=weight)
    assert np.isnan(device.host(loss)) and np.isnan(device.host(gradient)).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_labels_out_of_range(device: Device, smoothing: float, weighted: bool) -> None:
    logits = np.random.default_rng(3).standard_normal((5, 3)).astype(np.float32)
    labels = np.array([0, -1, 3, 2**31 - 1, 2])
    weight = np.array([0.5, 1.0, 2.0], np.float32) if weighted else None
    arrays = on_device(device, logits, labels)
    options: dict[str, Any] = {"label_smoothing": smoothing, "weight": None if weight is None else device.array(weight)}
    good = [0, 4]
    for reduction in ("none", "mean", "sum"):
        result = cross_entropy.softmax_cross_entropy(*arrays, reduction=reduction, **options)
        loss, gradient = map(device.host, result)
        assert np.isnan(loss[[1, 2, 3]] if reduction == "none" else loss).all()
        assert np.isnan(gradient[[1, 2, 3]]).all() and np.isfinite(gradient[good]).all()
        if reduction == "none":
            expected = reference.softmax_cross_entropy(
                logits[good], labels[good], label_smoothing=smoothing, weight=weight, reduction="none"
            )
            assert_close(loss[good], expected[0], terms=3)
            assert_close(gradient[good], expected[1], terms=3)
    certain = on_device(device, np.eye(3)[[0, 0, 2, 0, 2]], labels)
    assert device.host(cross_entropy.count_correct(*certain)) == 2


def test_count_correct_hand_computed(device: Device) -> None:
    nan = math.nan
    # right; the first of two equal ones, twice, and the second; a NaN at, before and behind the label; right
    rows = [[1, 3, 2], [4, 4, 0], [0, 4, 4], [4, 4, 0], [nan, 1, 0], [nan, 1, 0], [0, 1, nan], [-1, -2, -3]]
    arrays = on_device(device, rows, [1, 0, 1, 1, 0, 1, 1, 0])
    assert device.host(cross_entropy.count_correct(*arrays)) == 4
    assert device.host(cross_entropy.count_correct(*on_device(device, np.full((2, 2), -math.inf), [0, 1]))) == 1


@pytest.mark.parametrize("rows", [9, 600])
def test_captured(device: Device, rows: int) -> None:
    case = random_case(rows, 10, np.float32, weighted=True)
    logits, labels = device.array(case.logits), device.array(case.labels)
    options = case.options | {"weight": device.array(case.options["weight"])}
    results = []

    def run() -> None:
        loss = cross_entropy.softmax_cross_entropy(logits, labels, **options)
        results.append((*loss, cross_entropy.count_correct(logits, labels), cross_entropy.softmax(logits)))

    captured = device.backend.capture(run)
    for factor in (1.0, 0.5, 0.25):
        current = Case(case.logits * np.float32(factor), case.labels, case.options)
        logits[...] = device.array(current.logits)
        captured()
        loss, dlogits, correct, probabilities = map(device.host, results[-1])
        current.check((loss, dlogits), reference.softmax_cross_entropy(current.logits, current.labels, **case.options))
        assert correct == reference.count_correct(current.logits, current.labels)
        assert_close(probabilities, reference.softmax(current.logits), terms=10, scale=1.0, c=4)
    assert len(results) == 2
