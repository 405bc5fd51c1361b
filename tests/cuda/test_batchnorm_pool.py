"""The CUDA batch norm with max pooling against the reference, and against the two ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpunet.backend import Array
from gpunet.ops.batchnorm import BatchNormSaved, batch_norm, batch_norm_backward
from gpunet.ops.batchnorm import cuda as cuda_batchnorm
from gpunet.ops.batchnorm_pool import NO_TAP, batch_norm_max_pool, batch_norm_max_pool_backward
from gpunet.ops.pool2d import max_pool2d, max_pool2d_backward
from tests.cuda.conftest import Device
from tests.emulator import RUNTIME
from tests.ops.test_batchnorm_pool import Case, arrays, cases, check, check_backward, check_parts
from tests.support import assert_close

TERMS = 16
"""As in batch norm's test: four rows are added in the dtype of x."""
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def case_of(shape: tuple[int, ...], dtype: Any = np.float32, *, training: bool = True, relu: bool = False) -> Case:
    options = {"training": training, "momentum": 0.1, "eps": 1e-5, "relu": relu}
    return {"shape": shape, "options": options, "mean": -3.0, "std": 2.0, "dtype": dtype, "seed": 1}


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few blocks, so that a thread takes several windows of a small map, too."""
    monkeypatch.setattr(cuda_batchnorm, "_BLOCKS", 2)


def check_on(device: Device, case: Case) -> None:
    """Both directions and the running statistics."""
    given, dy = arrays(case)
    ours = {name: device.array(array) for name, array in given.items()}
    y, saved = batch_norm_max_pool(**ours, **case["options"])
    host = saved._replace(**{name: device.host(getattr(saved, name)) for name in ("mean", "inv_std", "argmax")})
    check(case, (device.host(y), host), {name: device.host(array) for name, array in ours.items()}, TERMS)
    gradients = batch_norm_max_pool_backward(device.array(dy), ours["x"], ours["gamma"], saved)
    check_backward(case, host, tuple(map(device.host, gradients)), TERMS)
    for name in ("x", "gamma", "beta"):
        np.testing.assert_array_equal(device.host(ours[name]), given[name])


FORWARD = {
    True: ["partial_statistics", "finish_statistics", "normalise_and_pool"],
    False: ["running_statistics", "normalise_and_pool"],
}
BACKWARD = ["partial_pooled_gradients", "finish_gradients", "apply_pooled_gradients"]


@pytest.mark.parametrize(("shape", "parts"), [((6, 5, 7, 8), 3), ((4, 2, 3, 5), 4), ((40, 4, 4, 3), 2)])
@DTYPES
def test_parts_that_meet_are_the_whole_batch(
    device: Device, small_slices: None, launched: list[str], shape: tuple[int, ...], parts: int, dtype: Any
) -> None:
    check_parts(case_of(shape, dtype), parts, TERMS, device)
    steps = ["partial_statistics", "part_statistics"], FORWARD[True][1:]
    steps += ["partial_pooled_gradients", "finish_gradients", "part_gradients"], BACKWARD[1:]
    assert sorted(launched) == sorted(kernel for step in steps for kernel in step * parts)


@settings(max_examples=12)
@given(case=cases())
def test_against_reference(device: Device, case: Case) -> None:
    check_on(device, case)


@pytest.mark.parametrize(("training", "relu"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("shape", [(2, 2, 2, 1), (3, 7, 7, 8), (2, 9, 8, 36), (5, 3, 3, 130), (9, 4, 5, 32)])
@DTYPES
def test_shapes(
    device: Device, launched: list[str], shape: tuple[int, ...], training: bool, relu: bool, dtype: Any
) -> None:
    check_on(device, case_of(shape, dtype, training=training, relu=relu))
    assert launched == [*FORWARD[training], *BACKWARD]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(9, 7, 6, 32), (30, 9, 9, 6)])
def test_several_windows_a_thread(device: Device, small_slices: None, shape: tuple[int, ...], relu: bool) -> None:
    case = case_of(shape, relu=relu)
    slicing = cuda_batchnorm.slicing((shape[0], shape[1] // 2, shape[2] // 2, shape[3]), 1)
    assert slicing.slices > 1 and slicing.slice_rows > slicing.block[1] and slicing.rows % slicing.slice_rows
    check_on(device, case)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), special=st.booleans())
def test_bits_are_those_of_the_two_ops(device: Device, case: Case, special: bool) -> None:
    """Of y and argmax, also with ties, NaN and infinities; and of dx, where no sum goes into it."""
    values, dy = arrays(case)
    rng = np.random.default_rng(case["seed"])
    values["x"][...] = np.round(values["x"])
    if special:
        values["x"][rng.random(values["x"].shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
        values["gamma"][0] = 0
    fused, apart = ({name: device.array(array.copy()) for name, array in values.items()} for _ in range(2))
    options = {name: option for name, option in case["options"].items() if name != "relu"}
    y, saved = batch_norm_max_pool(**fused, **case["options"])
    full, norm_saved = batch_norm(**apart, **options)
    expected, argmax = map(device.host, max_pool2d(full, 2))
    if case["options"]["relu"]:
        expected, argmax = np.where(expected <= 0, 0, expected), np.where(expected <= 0, NO_TAP, argmax)
    np.testing.assert_array_equal(device.host(y), expected)
    np.testing.assert_array_equal(device.host(saved.argmax), argmax)
    for one, other in zip((*saved[:2], *fused.values()), (*norm_saved[:2], *apart.values()), strict=True):
        np.testing.assert_array_equal(device.host(one), device.host(other))
    if not case["options"]["training"]:
        dfull = max_pool2d_backward(device.array(dy), saved.argmax, case["shape"], 2)
        wanted = batch_norm_backward(dfull, apart["x"], apart["gamma"], norm_saved)[0]
        dx = batch_norm_max_pool_backward(device.array(dy), fused["x"], fused["gamma"], saved)[0]
        np.testing.assert_array_equal(device.host(dx), device.host(wanted))


@pytest.mark.parametrize("relu", [True, False])
@DTYPES
def test_gradients_are_those_of_the_two_ops(device: Device, relu: bool, dtype: Any) -> None:
    """They add in another order, but pass the same terms on."""
    values, dy = arrays(case_of((7, 7, 9, 12), dtype))
    ours = {name: device.array(array) for name, array in values.items()}
    saved = batch_norm_max_pool(**ours, training=True, relu=relu)[1]
    gradients = batch_norm_max_pool_backward(device.array(dy), ours["x"], ours["gamma"], saved)
    dfull = max_pool2d_backward(device.array(dy), saved.argmax, values["x"].shape, 2)
    norm_saved = BatchNormSaved(saved.mean, saved.inv_std, True)
    apart = batch_norm_backward(dfull, ours["x"], ours["gamma"], norm_saved)
    for one, other in zip(gradients, apart, strict=True):
        assert_close(device.host(one), device.host(other), terms=TERMS)


def test_nan_wins(device: Device) -> None:
    x = np.zeros((1, 3, 5, 4), np.float32)
    x[0, 1, 2, 3] = np.nan
    one = device.array(np.ones(4, np.float32))
    for relu in (False, True):
        y, saved = batch_norm_max_pool(device.array(x), one, one, one, one, training=False, relu=relu)
        assert np.argwhere(np.isnan(device.host(y))).tolist() == [[0, 0, 1, 3]]
        assert np.argwhere(device.host(saved.argmax) % NO_TAP).tolist() == [[0, 0, 1, 3]]
        assert saved.argmax[0, 0, 1, 3] == 2


@pytest.mark.parametrize("training", [True, False])
def test_what_relu_cuts_counts_nothing(device: Device, training: bool) -> None:
    """Whatever its gradient."""
    rng = np.random.default_rng(4)
    x, dy = rng.standard_normal((3, 5, 4, 5)).astype(np.float32), np.ones((3, 2, 2, 5), np.float32)
    one, zero, mean, var = (device.array(np.full(5, value, np.float32)) for value in (1, 0, 1, 1))
    saved = batch_norm_max_pool(device.array(x), one, zero, mean, var, training=training, relu=True)[1]
    cut = device.host(saved.argmax) == NO_TAP
    assert 0 < cut.sum() < cut.size
    results = []
    for value in (0, np.nan):
        dy[cut] = value
        gradients = batch_norm_max_pool_backward(device.array(dy), device.array(x), one, saved)
        results.append([device.host(array) for array in gradients])
    for right, actual in zip(*results, strict=True):
        assert np.isfinite(right).all()
        np.testing.assert_array_equal(actual, right)


def test_arrays_that_vectors_cannot_read(device: Device) -> None:
    """Contiguous arrays of whole vectors which begin one element off the address of one."""
    values, dy = arrays(case_of((3, 5, 4, 8)))

    def shifted(array: np.ndarray) -> Array:
        flat = device.array(np.concatenate([array.ravel()[:1], array.ravel()]))
        return flat[1:].reshape(array.shape)

    results = []
    for place in (shifted, lambda array: device.array(np.ascontiguousarray(array))):
        ours = {name: place(array) for name, array in values.items()}
        y, saved = batch_norm_max_pool(**ours, training=True, relu=True)
        placed = saved._replace(argmax=place(device.host(saved.argmax)))
        gradients = batch_norm_max_pool_backward(place(dy), ours["x"], ours["gamma"], placed)
        results.append([device.host(array).tobytes() for array in (y, *saved[:3], *gradients)])
    assert results[0] == results[1]


def test_bits_do_not_depend_on_the_order_of_threads(
    device: Device, small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, dy = arrays(case_of((9, 7, 6, 40)))

    def results() -> list[bytes]:
        ours = {name: device.array(array) for name, array in values.items()}
        y, saved = batch_norm_max_pool(**ours, training=True, relu=True)
        gradients = batch_norm_max_pool_backward(device.array(dy), ours["x"], ours["gamma"], saved)
        return [device.host(array).tobytes() for array in (y, *saved[:3], *gradients)]

    first = results()
    assert results() == first
    monkeypatch.setattr(RUNTIME, "seed", 0)  # the emulator's threads and blocks by number; a GPU knows no such thing
    assert results() == first


def test_gradients_go_where_they_are_wanted(device: Device) -> None:
    given, dy = arrays({"shape": (2, 5, 5, 3), "mean": 0.0, "std": 1.0, "dtype": np.float32, "seed": 3})
    ours = {name: device.array(array) for name, array in given.items()}
    saved = batch_norm_max_pool(**ours, training=True)[1]
    _, dgamma, dbeta = batch_norm_max_pool_backward(device.array(dy), ours["x"], ours["gamma"], saved)
    out = tuple(device.array(np.zeros(3, np.float32)) for _ in range(2))
    results = batch_norm_max_pool_backward(device.array(dy), ours["x"], ours["gamma"], saved, out=out)
    assert results[1] is out[0] and results[2] is out[1]
    np.testing.assert_array_equal(device.host(out[0]), device.host(dgamma))
    np.testing.assert_array_equal(device.host(out[1]), device.host(dbeta))
