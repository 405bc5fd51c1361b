"""The optimiser's updates: reference against hand-computed values and PyTorch; the CPU against the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops import optimizer
from gpunet.ops.optimizer import reference
from tests.support import assert_close, torch_or_skip

STEPS = 3


@dataclass
class Case:
    """A random model of a few parameters, STEPS gradients, and an update rule with its options."""

    rule: str
    params: np.ndarray
    grads: np.ndarray
    """(STEPS, size)"""
    lr: float
    options: dict[str, Any]
    scale: float | None
    as_arrays: bool
    slots: dict[str, np.ndarray] = field(default_factory=dict)

    def run(self, module: Any) -> list[np.ndarray]:
        """Parameters and slots after STEPS updates."""
        params = self.params.copy()
        slots = [np.zeros_like(params) for _ in range(2 if self.rule == "adam" else 1)]
        dtype = params.dtype
        lr: Any = np.array([self.lr]) if self.as_arrays else self.lr
        scale: Any = self.scale
        if self.as_arrays and scale is not None:
            scale = np.array(scale, dtype)
        for step, grads in enumerate(self.grads, start=1):
            before = grads.copy()
            if self.rule == "adam":
                number: Any = np.array([step]) if self.as_arrays else step
                module.adam_update(params, grads, *slots, lr=lr, step=number, scale=scale, **self.options)
            else:
                velocity = slots[0] if self.options["momentum"] else None
                module.sgd_update(params, grads, velocity, lr=lr, scale=scale, **self.options)
            np.testing.assert_array_equal(grads, before)
        return [params, *slots]


@st.composite
def cases(draw: Any, rule: str, noncontiguous: bool = True) -> Case:
    size = draw(st.integers(1, 40))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grads = (rng.standard_normal((STEPS, 2 * size)) * draw(st.sampled_from((1e-4, 1.0, 100.0)))).astype(dtype)
    grads = grads[:, ::2] if noncontiguous and draw(st.booleans()) else grads[:, :size].copy()
    options: dict[str, Any] = {
        "weight_decay": draw(st.sampled_from((0.0, 1e-2, 0.5))),
        "decay_size": draw(st.none() | st.integers(0, size)),
    }
    if rule == "adam":
        options["beta1"] = draw(st.sampled_from((0.0, 0.9)))
        options["beta2"] = draw(st.sampled_from((0.5, 0.999)))
        options["eps"] = draw(st.sampled_from((1e-8, 1e-2)))
        options["decoupled"] = draw(st.booleans())
    else:
        options["momentum"] = draw(st.sampled_from((0.0, 0.5, 0.9)))
        options["nesterov"] = draw(st.booleans()) and options["momentum"] > 0
    params = rng.standard_normal(size).astype(dtype)
    scale = draw(st.sampled_from((None, 1.0, 0.25)))
    lr = draw(st.sampled_from((1e-3, 0.1)))
    return Case(rule, params, grads, lr, options, scale, as_arrays=draw(st.booleans()))


def check(case: Case, actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Each step adds a few roundings, of the parameters, the change and the slots."""
    for name, ours, theirs in zip(("params", "slot 1", "slot 2"), actual, expected, strict=False):
        scale = float(np.abs(theirs).max())
        if name == "params":
            scale = max(scale, float(np.abs(case.params).max()) + float(np.abs(theirs - case.params).max()))
        assert ours.dtype == case.params.dtype
        assert_close(ours, theirs, terms=8 * STEPS, scale=scale or 1.0, c=4)


# reference.py


def test_reference_sgd_hand_computed() -> None:
    params, velocity = np.array([1.0, 2.0]), np.zeros(2)
    grads = np.array([0.5, -1.0])
    reference.sgd_update(params, grads, None, lr=0.1, weight_decay=0.2, decay_size=1)
    np.testing.assert_allclose(params, [1 - 0.1 * 0.7, 2.1], rtol=1e-15)
    params = np.array([1.0, 2.0])
    for _ in range(2):
        reference.sgd_update(params, grads, velocity, lr=0.1, momentum=0.5)
    # velocities g and 1.5 g
    np.testing.assert_allclose(velocity, [0.75, -1.5], rtol=1e-15)
    np.testing.assert_allclose(params, [1 - 0.1 * 2.5 * 0.5, 2 + 0.1 * 2.5], rtol=1e-15)
    params, velocity = np.array([1.0, 2.0]), np.zeros(2)
    reference.sgd_update(params, grads, velocity, lr=0.1, momentum=0.5, nesterov=True, scale=2.0)
    np.testing.assert_allclose(params, [1 - 0.1 * 1.5, 2 + 0.1 * 3], rtol=1e-15)


def test_reference_adam_hand_computed() -> None:
    params, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
    reference.adam_update(params, np.array([3.0]), m, v, lr=0.1, step=1, eps=1.0)
    # the corrected moments of the first step are g and g**2: the change is lr * 3 / (3 + 1)
    np.testing.assert_allclose([params[0], m[0], v[0]], [1 - 0.075, 0.3, 0.009], rtol=1e-12)
    reference.adam_update(params, np.array([-1.0]), m, v, lr=0.1, step=2, eps=1.0)
    m2, v2 = 0.9 * 0.3 - 0.1, 0.999 * 0.009 + 0.001
    change = 0.1 * (m2 / 0.19) / (math.sqrt(v2 / 0.001999) + 1)
    np.testing.assert_allclose([params[0], m[0], v[0]], [0.925 - change, m2, v2], rtol=1e-12)
    params, m, v = np.array([2.0]), np.zeros(1), np.zeros(1)
    reference.adam_update(params, np.array([3.0]), m, v, lr=0.1, step=1, eps=1.0, weight_decay=0.5, decoupled=True)
    np.testing.assert_allclose(params, [2 - 0.1 * 0.5 * 2 - 0.075], rtol=1e-12)


def test_reference_ema_hand_computed() -> None:
    for step, decay in ((None, 0.75), (1, 2 / 11), (1000, 0.75)):
        average = np.array([4.0])
        reference.ema_update(average, np.array([8.0]), decay=0.75, step=step)
        np.testing.assert_allclose(average, [4 * decay + 8 * (1 - decay)], rtol=1e-15)


def _torch_rule(torch: Any, case: Case, params: list[Any]) -> Any:
    options = case.options
    size = params[0].numel()
    groups = [{"params": params[:1], "weight_decay": options["weight_decay"]}]
    if len(params) > 1:
        groups.append({"params": params[1:], "weight_decay": 0.0})
    assert size
    if case.rule == "sgd":
        return torch.optim.SGD(groups, lr=case.lr, momentum=options["momentum"], nesterov=options["nesterov"])
    rule = torch.optim.AdamW if options["decoupled"] else torch.optim.Adam
    return rule(groups, lr=case.lr, betas=(options["beta1"], options["beta2"]), eps=options["eps"])


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@settings(max_examples=200)
@given(data=st.data())
def test_reference_against_pytorch(rule: str, data: Any) -> None:
    torch = torch_or_skip()
    case = data.draw(cases(rule, noncontiguous=False))
    size = case.params.size
    split = size if case.options["decay_size"] is None else case.options["decay_size"]
    if split == 0:
        case.options["weight_decay"], split = 0.0, size
    ranges = [slice(0, split), slice(split, size)] if split < size else [slice(0, size)]
    params = [torch.tensor(case.params[part], requires_grad=True) for part in ranges]
    rule_of_torch = _torch_rule(torch, case, params)
    factor = case.params.dtype.type(1.0 if case.scale is None else case.scale)
    for grads in case.grads:
        for tensor, part in zip(params, ranges, strict=True):
            tensor.grad = torch.tensor(grads[part] * factor)
        rule_of_torch.step()
    expected = [np.concatenate([tensor.detach().numpy() for tensor in params])]
    names = ("exp_avg", "exp_avg_sq") if rule == "adam" else ("momentum_buffer",) if case.options["momentum"] else ()
    for name in names:
        expected.append(np.concatenate([rule_of_torch.state[tensor][name].numpy() for tensor in params]))
    check(case, case.run(reference), expected)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 50),
    dtype=st.sampled_from((np.float32, np.float64)),
    max_norm=st.sampled_from((1e-3, 1.0, 50.0)),
)
def test_gradient_scale_against_pytorch(seed: int, size: int, dtype: Any, max_norm: float) -> None:
    torch = torch_or_skip()
    grads = np.random.default_rng(seed).standard_normal(size).astype(dtype)
    tensor = torch.zeros(size, dtype=torch.from_numpy(grads).dtype, requires_grad=True)
    tensor.grad = torch.tensor(grads)
    norm = torch.nn.utils.clip_grad_norm_([tensor], max_norm).numpy()
    for module in (reference, optimizer):
        scale, ours = module.gradient_scale(grads, np.array(1.0, dtype), max_norm=max_norm)
        assert scale.shape == ours.shape == () and scale.dtype == ours.dtype == dtype
        assert_close(ours, norm, terms=size)
        assert_close(grads * scale, tensor.grad.numpy(), terms=size)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 50),
    dtype=st.sampled_from((np.float32, np.float64)),
    decay=st.sampled_from((0.0, 0.3, 0.5, 0.999, 1.0)),
    step=st.none() | st.integers(0, 10_000),
    as_array=st.booleans(),
    sliced=st.booleans(),
)
def test_ema(seed: int, size: int, dtype: Any, decay: float, step: int | None, as_array: bool, sliced: bool) -> None:
    torch = torch_or_skip()
    rng = np.random.default_rng(seed)
    average = rng.standard_normal(size).astype(dtype)
    values = rng.standard_normal(2 * size).astype(dtype)[: 2 * size if sliced else size : 2 if sliced else 1]
    weight = 1 - decay if step is None else 1 - min(decay, (1 + step) / (10 + step))
    expected = torch.lerp(torch.tensor(average), torch.tensor(values.copy()), weight).numpy()
    number: Any = np.array([step]) if as_array and step is not None else step
    for module in (reference, optimizer):
        result, before = average.copy(), values.copy()
        module.ema_update(result, values, decay=decay, step=number)
        assert_close(result, expected, scale=float(max(np.abs(average).max(), np.abs(values).max())), c=4)
        np.testing.assert_array_equal(values, before)


def test_ema_keeps_what_is_equal() -> None:
    values = np.random.default_rng(2).standard_normal(100).astype(np.float32)
    for decay in (0.0, 0.3, 0.9, 1.0):
        average = values.copy()
        optimizer.ema_update(average, values, decay=decay)
        np.testing.assert_array_equal(average, values)
    average = np.zeros_like(values)
    optimizer.ema_update(average, values, decay=0.0)
    np.testing.assert_array_equal(average, values)
    optimizer.ema_update(average, -values, decay=1.0)
    np.testing.assert_array_equal(average, values)


# cpu.py


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@settings(max_examples=200)
@given(data=st.data())
def test_cpu_against_reference(rule: str, data: Any) -> None:
    case = data.draw(cases(rule))
    check(case, case.run(optimizer), case.run(reference))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fading_moments_end_at_zero_and_nan_does_not(dtype: type) -> None:
    """Arithmetic with subnormal numbers would be slow for the rest of the training."""
    tiny = np.finfo(dtype).tiny
    start, nan = np.array([tiny, -tiny, 4 * tiny, np.nan], dtype), [False, False, False, True]
    params, grads = np.ones(4, dtype), np.zeros(4, dtype)
    velocity, first, second = start.copy(), start.copy(), np.abs(start)
    optimizer.sgd_update(params.copy(), grads, velocity, lr=0.1, momentum=0.5)
    optimizer.adam_update(params.copy(), grads, first, second, lr=0.1, step=5, beta1=0.5, beta2=0.5)
    for moment in (velocity, first, second):
        np.testing.assert_array_equal(np.isnan(moment), nan)
        np.testing.assert_array_equal(moment[:3], np.array([0, 0, 2 * tiny], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam", "ema", "norm"])
def test_many_chunks_and_any_number_of_threads(rule: str, dtype: Any) -> None:
    size, decay_size = 2 * 16384 + 777, 16384 + 333
    rng = np.random.default_rng(7)
    params, grads, first, second = rng.standard_normal((4, size)).astype(dtype)
    second = np.abs(second)
    options: dict[str, Any] = {"weight_decay": 0.1, "decay_size": decay_size}

    def run(module: Any) -> list[np.ndarray]:
        p, m, v = params.copy(), first.copy(), second.copy()
        if rule == "sgd":
            module.sgd_update(p, grads, None, lr=0.1, **options)
        elif rule == "momentum":
            module.sgd_update(p, grads, m, lr=0.1, momentum=0.9, nesterov=True, **options)
        elif rule == "adam":
            module.adam_update(p, grads, m, v, lr=0.1, step=5, decoupled=True, **options)
        elif rule == "ema":
            module.ema_update(p, grads, decay=0.9)
        else:
            return list(module.gradient_scale(grads, np.array(0.0, dtype), max_norm=2.0))
        return [p, m, v]

    actual = run(optimizer)
    for ours, theirs in zip(actual, run(reference), strict=True):
        assert_close(ours, theirs, terms=8)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        for one, many in zip(run(optimizer), actual, strict=True):
            np.testing.assert_array_equal(one, many)
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("module", [reference, optimizer])
@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_nothing_changes_without_a_finite_scale(module: Any, scale: float) -> None:
    buffers = [np.arange(1.0, 4.0) for _ in range(4)]
    params, grads, m, v = buffers
    for value in (scale, np.array(scale), np.array([scale])):
        module.sgd_update(params, grads, m, lr=0.1, momentum=0.9, weight_decay=0.1, scale=value)
        module.sgd_update(params, grads, None, lr=0.1, scale=value)
        module.adam_update(params, grads, m, v, lr=0.1, step=1, weight_decay=0.1, decoupled=True, scale=value)
    for buffer in buffers:
        np.testing.assert_array_equal(buffer, [1, 2, 3])


@pytest.mark.parametrize("module", [reference, optimizer])
def test_gradient_scale(module: Any) -> None:
    grads, loss = np.array([3.0, -4.0]), np.array(0.5)
    scale, norm = module.gradient_scale(grads, loss)
    assert (scale, norm) == (1, 0)
    scale, norm = module.gradient_scale(grads, loss, max_norm=10.0)
    assert (scale, norm) == (1, 5)
    scale, norm = module.gradient_scale(grads, loss, max_norm=1.0)
    assert norm == 5 and scale == pytest.approx(1 / (5 + 1e-6), rel=1e-15)
    for bad in (math.nan, math.inf):
        assert np.isnan(module.gradient_scale(grads, np.array([bad]))[0])
        assert np.isnan(module.gradient_scale(grads, np.array(bad), max_norm=1.0)[0])
        scale, norm = module.gradient_scale(np.array([1.0, bad]), loss, max_norm=1.0)
        assert np.isnan(scale) and not np.isfinite(norm)
        # without clipping the gradients are not looked at
        assert module.gradient_scale(np.array([1.0, bad]), loss) == (1, 0)
    # squares that float32 cannot hold
    scale, norm = module.gradient_scale(np.array([3e30, 4e30], np.float32), np.zeros((), np.float32), max_norm=5.0)
    assert norm == np.float32(5e30) and scale == np.float32(1e-30)


def test_pytorch_first_step_of_momentum() -> None:
    """PyTorch starts the velocity as the first gradient, without dampening; from zeros it is the same."""
    params, velocity, grads = np.ones(3), np.zeros(3), np.array([0.1, -2.0, 1e-9])
    optimizer.sgd_update(params, grads, velocity, lr=0.5, momentum=0.9)
    np.testing.assert_array_equal(velocity, grads)
    np.testing.assert_array_equal(params, 1 - 0.5 * grads)


def test_bad_input() -> None:
    p, g, m, v = np.zeros((4, 3), np.float32)
    sgd, adam, ema = optimizer.sgd_update, optimizer.adam_update, optimizer.ema_update
    with pytest.raises(ShapeError, match=r"params must have 1 dimensions \(flat\), got shape \(1, 3\)"):
        sgd(p[None], g, None, lr=0.1)
    with pytest.raises(ShapeError, match=r"grads must have shape \(3,\), got \(2,\)"):
        sgd(p, g[:2], None, lr=0.1)
    with pytest.raises(DTypeError, match=r"moment2 is float64 but params is float32"):
        adam(p, g, m, v.astype(np.float64), lr=0.1, step=1)
    with pytest.raises(ShapeError, match=r"params is updated in place: it must be contiguous and writeable"):
        sgd(np.zeros(6, np.float32)[::2], g, None, lr=0.1)
    frozen = p.copy()
    frozen.flags.writeable = False
    with pytest.raises(ShapeError, match=r"average is updated in place"):
        ema(frozen, g, decay=0.9)
    with pytest.raises(ConfigError, match=r"momentum 0.9 needs a velocity"):
        sgd(p, g, None, lr=0.1, momentum=0.9)
    with pytest.raises(ConfigError, match=r"momentum must be in \[0, 1\], got 2"):
        sgd(p, g, m, lr=0.1, momentum=2)
    with pytest.raises(ConfigError, match=r"lr must be in \[0, inf\], got -0.1"):
        sgd(p, g, None, lr=-0.1)
    with pytest.raises(ConfigError, match=r"scale must be a number or a one-element array, got '1'"):
        sgd(p, g, None, lr=0.1, scale="1")
    with pytest.raises(ShapeError, match=r"lr must be a number or a one-element array, got shape \(2,\)"):
        sgd(p, g, None, lr=np.ones(2))
    with pytest.raises(DTypeError, match=r"scale must be a number or an array of float32 or float64, got .* int64"):
        sgd(p, g, None, lr=0.1, scale=np.array(1))
    with pytest.raises(DTypeError, match=r"step must be a number or an array of integers, got an array of float64"):
        adam(p, g, m, v, lr=0.1, step=np.array([1.0]))
    with pytest.raises(ConfigError, match=r"step must be in \[1, inf\], got 0"):
        adam(p, g, m, v, lr=0.1, step=0)
    with pytest.raises(ConfigError, match=r"decay_size must be between 0 and 3, got 4"):
        sgd(p, g, None, lr=0.1, decay_size=4)
    with pytest.raises(ConfigError, match=r"weight_decay must be in \[0, inf\], got -1"):
        sgd(p, g, None, lr=0.1, weight_decay=-1)
    with pytest.raises(ConfigError, match=r"beta1 must be in \[0, 1\), got 1"):
        adam(p, g, m, v, lr=0.1, step=1, beta1=1)
    with pytest.raises(ConfigError, match=r"beta2 must be in \[0, 1\), got -0.5"):
        adam(p, g, m, v, lr=0.1, step=1, beta2=-0.5)
    with pytest.raises(ConfigError, match=r"eps must be in \[0, inf\], got -1"):
        adam(p, g, m, v, lr=0.1, step=1, eps=-1)
    with pytest.raises(ConfigError, match=r"decay must be in \[0, 1\], got 1.5"):
        ema(p, g, decay=1.5)
    with pytest.raises(ConfigError, match=r"max_norm must be in \[0, inf\], got -1"):
        optimizer.gradient_scale(g, np.zeros((), np.float32), max_norm=-1)
    with pytest.raises(ShapeError, match=r"loss must have one element, got shape \(3,\); reduce it first"):
        optimizer.gradient_scale(g, m)
    with pytest.raises(DTypeError, match=r"loss must be float32 or float64, got int64"):
        optimizer.gradient_scale(g, np.zeros((), np.int64))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("moved", ["grads", "moment1", "moment2", None])
def test_adam_where_nothing_moves(decay: float, decoupled: bool, moved: str | None) -> None:
    """Chunks without gradients and moments, as of taps that see only padding; or with a single one at their end."""
    size, rng = 3 * 8192 + 100, np.random.default_rng(0)
    found = {name: np.zeros(size, np.float32) for name in ("params", "grads", "moment1", "moment2")}
    found["params"][:] = rng.standard_normal(size)
    found["grads"][8192:8300] = rng.standard_normal(108)
    if moved is not None:
        found[moved][-101] = 2
    wanted = {name: array.astype(np.float64) for name, array in found.items()}
    options: dict[str, Any] = {"lr": 0.1, "step": 3, "weight_decay": decay, "decoupled": decoupled}
    before = found["params"].copy()
    optimizer.adam_update(*found.values(), **options)
    reference.adam_update(*wanted.values(), **options)
    for name, array in wanted.items():
        assert_close(found[name], array, terms=8)
    if not decay:
        np.testing.assert_array_equal(found["params"][:8192], before[:8192])
    assert (found["params"][-101] != before[-101]) == (bool(decay) or moved in ("grads", "moment1"))
