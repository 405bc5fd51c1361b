"""Layers that are computed as one op against the same layers one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gpunet import nn, ops
from gpunet.backend import Array
from gpunet.nn import fusion
from tests.support import assert_close

Build = Callable[[], nn.Sequential]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the maps that are normalised and pooled by one op."""
    shapes: list[tuple[int, ...]] = []
    op = ops.batch_norm_max_pool

    def noted(x: Array, *args: Any, **options: Any) -> Any:
        shapes.append(x.shape)
        return op(x, *args, **options)

    monkeypatch.setattr(ops, "batch_norm_max_pool", noted)
    return shapes


def fused_and_plain(build: Build, dtype: Any = np.float32) -> tuple[nn.Sequential, nn.Sequential]:
    """What `build` makes, with the rules and without any; with the same values, some of them negative."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "RULES", [])
        plain = build().initialize(seed=1, dtype=dtype)
    model = build().initialize(seed=1, dtype=dtype)
    values = np.random.default_rng(2).standard_normal(model.flat.values.shape)
    for each in (model, plain):
        each.flat.values[...] = values
    return model, plain


def check_equal(model: nn.Sequential, plain: nn.Sequential, x: np.ndarray, *, exact: bool, training: bool) -> None:
    """Hold outputs, the gradients of input and parameters, and the running statistics to those of the plain layers."""
    ctx = nn.ForwardContext(training=training)
    y, backward = model.forward(x, ctx)
    expected, plain_backward = plain.forward(x, ctx)
    dy = np.random.default_rng(3).standard_normal(y.shape).astype(x.dtype)
    pairs = [
        (y, expected),
        (backward(dy), plain_backward(dy)),
        (model.flat.gradients, plain.flat.gradients),
        (model.flat.state, plain.flat.state),
    ]
    for actual, wanted in pairs:
        assert np.isfinite(actual).all()
        if exact:
            np.testing.assert_array_equal(actual, wanted)
        else:
            assert_close(actual, wanted, terms=x.size // x.shape[-1], c=16.0)


def images(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(4).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_and_relu(bias: bool, dtype: Any) -> None:
    def build() -> nn.Sequential:
        return nn.Sequential([nn.Linear(7, 16, bias=bias), nn.ReLU(), nn.Linear(16, 5, bias=bias), nn.ReLU()])

    model, plain = fused_and_plain(build, dtype)
    assert [type(step) for step in model._steps] == [fusion.LinearReLU] * 2 and len(plain._steps) == 4
    check_equal(model, plain, images(9, 7, dtype=dtype), exact=True, training=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", None])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_norm_and_max_pool(
    fused: list[tuple[int, ...]], training: bool, activation: str | None, size: tuple[int, int], dtype: Any
) -> None:
    """The activation comes last. Gradients are sums of float32 in another order."""
    model, plain = fused_and_plain(lambda: nn.ConvBlock(3, 6, activation=activation), dtype)
    check_equal(model, plain, images(4, *size, 3, dtype=dtype), exact=False, training=training)
    assert fused == [(4, *size, 6)]  # in inference by the backward pass
    np.testing.assert_array_equal(model.flat.state, plain.flat.state)


@pytest.mark.parametrize(
    ("layers", "steps"),
    [
        (lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm(4), nn.ReLU(), nn.MaxPool2d(2)], 1),
        (lambda: [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm(4, eps=0.1), nn.Tanh(), nn.MaxPool2d(2)], 1),
        (lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm(4), nn.GELU(), nn.MaxPool2d(2)], 3),
        (lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm(4), nn.ReLU(), nn.AvgPool2d(2)], 2),
        (lambda: [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, stride=1)], 2),
        (lambda: [nn.Conv2d(3, 4, 3), nn.LeakyReLU(-0.5), nn.MaxPool2d(2)], 3),
        (lambda: [nn.Conv2d(3, 4, 3), Negated(), nn.MaxPool2d(2)], 3),
        (lambda: [nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU()], 2),
        (lambda: [nn.Conv2d(3, 4, 3, stride=2, dilation=2, padding=3), nn.ReLU()], 1),
        (lambda: [nn.Conv2d(3, 4, 3), OwnNorm(4), nn.ReLU()], 3),
        (lambda: [OwnConv(3, 4, 3), nn.BatchNorm(4), nn.ReLU()], 3),
        (lambda: [nn.Conv2d(3, 4, 3), nn.Tanh()], 2),
    ],
)
def test_a_convolution_and_what_follows_it_in_inference(layers: Callable[[], list[nn.Layer]], steps: int) -> None:
    """In training each is as before; in inference, running statistics that differ from the batch's are taken."""
    model, plain = fused_and_plain(lambda: nn.Sequential(layers()))
    for each in (model, plain):
        each.flat.state[...] = np.linspace(0.5, 2, each.flat.state.size)
    assert len(model._steps) == steps
    check_equal(model, plain, images(5, 6, 7, 3), exact=False, training=False)
    check_equal(model, plain, images(5, 6, 7, 3), exact=False, training=True)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", None])
@pytest.mark.parametrize(("size", "channels", "kernel"), [((8, 8), 1, 3), ((7, 9), 3, 3), ((6, 5), 1, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_block_of_a_network(
    monkeypatch: pytest.MonkeyPatch,
    activation: str | None,
    size: tuple[int, int],
    channels: int,
    kernel: int,
    dtype: Any,
) -> None:
    """If no gradient of its input is wanted, it is one op in training. The gradients are sums in another order."""
    model, plain = fused_and_plain(lambda: nn.ConvBlock(channels, 6, kernel, activation=activation), dtype)
    calls, op = [], ops.conv2d_batch_norm_max_pool
    monkeypatch.setattr(ops, "conv2d_batch_norm_max_pool", lambda *args, **named: calls.append(1) or op(*args, **named))
    x, found = images(4, *size, channels, dtype=dtype), []
    for each in (model, plain):
        y, backward = each.forward(x, nn.ForwardContext(training=True, needs_input_grad=False))
        assert backward(np.random.default_rng(3).standard_normal(y.shape).astype(dtype)) is None
        found.append((y, each.flat.gradients, each.flat.state))
    assert calls == [1]
    for actual, wanted in zip(*found, strict=True):
        assert_close(actual, wanted, terms=x[..., 0].size, c=64.0)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm(4), nn.ReLU(), nn.MaxPool2d(2)],  # with a bias
        lambda: [nn.Conv2d(3, 4, 3, bias=False, stride=2), nn.BatchNorm(4), nn.MaxPool2d(2)],
        lambda: [nn.Conv2d(3, 4, 3, bias=False, dilation=(1, 2)), nn.BatchNorm(4), nn.MaxPool2d(2)],
        lambda: [nn.Conv2d(3, 3, 3, bias=False, groups=3), nn.BatchNorm(3), nn.MaxPool2d(2)],
        lambda: [nn.Conv2d(3, 4, 5, bias=False), nn.BatchNorm(4), nn.MaxPool2d(2)],  # 75 inputs of a patch
        lambda: [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm(4), nn.ReLU()],
        lambda: [nn.Conv2d(3, 4, 3, bias=False), nn.MaxPool2d(2)],
    ],
)
def test_other_first_blocks_are_as_before(
    monkeypatch: pytest.MonkeyPatch, layers: Callable[[], list[nn.Layer]]
) -> None:
    monkeypatch.delattr(ops, "conv2d_batch_norm_max_pool")
    model = nn.Sequential(layers()).initialize(seed=1)
    y, backward = model.forward(images(4, 12, 12, 3), nn.ForwardContext(training=True, needs_input_grad=False))
    assert backward(np.ones_like(y)) is None


def test_inference_follows_every_change() -> None:
    """Of a weight, of a parameter of batch norm, of a running statistic; written in place, as anybody may."""
    model, plain = fused_and_plain(lambda: nn.ConvBlock(3, 6))
    x = images(2, 5, 5, 3)
    seen = [model(x)]
    for name in ("conv.weight", "norm.gamma", "norm.beta", "norm.running_mean", "norm.running_var"):
        for each in (model, plain):
            parts = dict([*each.named_parameters(), *each.named_buffers()])
            parts[name].value.reshape(-1)[:] += 1
        seen.append(model(x))
        assert_close(seen[-1], plain(x), terms=27, c=64.0)
        assert not np.array_equal(seen[-1], seen[-2])


def test_it_fuses_wherever_the_layers_stand(fused: list[tuple[int, ...]]) -> None:
    def build() -> nn.Sequential:
        return nn.Sequential([nn.BatchNorm(3), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)])

    model, plain = fused_and_plain(build)
    check_equal(model, plain, images(5, 4, 5, 3), exact=False, training=True)
    assert fused == [(5, 4, 5, 3)]


class Negated(nn.ReLU):
    """A subclass that decreases, though its base does not."""

    def forward(self, x: Any, ctx: nn.ForwardContext) -> Any:
        y, backward = super().forward(x, ctx)
        return -y, lambda dy: backward(-dy)


class OwnNorm(nn.BatchNorm):
    pass


class OwnConv(nn.Conv2d):
    pass


class OwnLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.BatchNorm(3), nn.GELU(), nn.MaxPool2d(2)],
        lambda: [nn.BatchNorm(3), nn.LeakyReLU(-0.5), nn.MaxPool2d(2)],
        lambda: [nn.BatchNorm(3), Negated(), nn.MaxPool2d(2)],
        lambda: [OwnNorm(3), nn.ReLU(), nn.MaxPool2d(2)],
        lambda: [nn.BatchNorm(3), nn.ReLU(), nn.AvgPool2d(2)],
        lambda: [nn.BatchNorm(3), nn.ReLU(), nn.MaxPool2d(3)],
        lambda: [nn.BatchNorm(3), nn.ReLU(), nn.MaxPool2d(2, stride=1)],
        lambda: [nn.BatchNorm(3), nn.ReLU(), nn.MaxPool2d(2, padding=1)],
        lambda: [nn.BatchNorm(3), nn.ReLU(), nn.MaxPool2d(2, padding=((0, 1), (0, 0)))],
        lambda: [nn.BatchNorm(3), nn.ReLU(), nn.MaxPool2d(2, dilation=2)],
        lambda: [nn.BatchNorm(3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)],
        lambda: [nn.BatchNorm(3), nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2)],
        lambda: [nn.Flatten(), OwnLinear(75, 4), nn.ReLU()],
        lambda: [nn.Flatten(), nn.Linear(75, 4), Negated()],
        lambda: [nn.Flatten(), nn.Linear(75, 4)],
        lambda: [nn.ConvBlock(3, 4, pool="average")],
        lambda: [nn.ConvBlock(3, 4, batch_norm=False)],
    ],
)
def test_nothing_else_is_fused(fused: list[tuple[int, ...]], layers: Callable[[], list[nn.Layer]]) -> None:
    model, plain = fused_and_plain(lambda: nn.Sequential(layers()))
    assert model._steps == list(model.layers.values())
    check_equal(model, plain, images(2, 5, 5, 3), exact=True, training=True)
    assert not fused


def test_the_input_gradient_is_left_out_where_nobody_needs_it() -> None:
    model, plain = fused_and_plain(lambda: nn.ConvBlock(3, 6))
    x = images(2, 4, 4, 3)
    y, backward = model.forward(x, nn.ForwardContext(training=True, needs_input_grad=False))
    assert backward(y) is None
    expected, plain_backward = plain.forward(x, nn.ForwardContext(training=True))
    plain_backward(expected)
    assert_close(model.flat.gradients, plain.flat.gradients, terms=32, c=16.0)
    assert np.abs(model.flat.gradients).max() > 0


def test_a_rule_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new fusion is a function in RULES; the first that matches is taken."""

    class Scale:
        def has_parameters(self) -> bool:
            return False

        def forward(self, x: Array, ctx: nn.ForwardContext) -> Any:
            return 4 * x, lambda dy: 4 * dy

    class Double(nn.Layer):
        elementwise = True

        def forward(self, x: Array, ctx: nn.ForwardContext) -> Any:
            return 2 * x, lambda dy: 2 * dy

    def doubles(layers: Sequence[nn.Layer]) -> Any:
        return (2, [Scale()]) if len(layers) > 1 and all(type(layer) is Double for layer in layers[:2]) else None

    monkeypatch.setattr(fusion, "RULES", [*fusion.RULES, doubles])
    model = nn.Sequential([Double(), Double(), Double(), nn.Linear(2, 3), nn.ReLU()])
    assert [type(step) for step in model._steps] == [Scale, Double, fusion.LinearReLU]
    x = images(2, 2)
    with_one = nn.Sequential([model.layers["3"], nn.ReLU()]).initialize(seed=0)
    np.testing.assert_array_equal(model(x), with_one(8 * x))


def test_the_layers_cannot_be_changed_behind_the_plan() -> None:
    model = nn.Sequential([nn.ReLU()])
    with pytest.raises(TypeError):
        model.layers["0"] = nn.Tanh()
