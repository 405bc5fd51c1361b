"""ConvBlock's pooling before the activation against its layers one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet import nn, ops
from gpunet.backend import Array
from tests.support import assert_close


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


def block_and_layers(dtype: Any, **options: Any) -> tuple[nn.ConvBlock, nn.Sequential]:
    """A block, and the layers of another one with the same values, half of gamma negative."""
    block = nn.ConvBlock(3, 6, **options).initialize(seed=1, dtype=dtype)
    layers = nn.Sequential(list(nn.ConvBlock(3, 6, **options).children())).initialize(seed=1, dtype=dtype)
    rng = np.random.default_rng(2)
    for (name, parameter), (_, other) in zip(block.named_parameters(), layers.named_parameters(), strict=True):
        value = rng.standard_normal(parameter.shape)
        parameter.value[...] = value * [-1, 1, 1, -1, 1, -1] if name == "norm.gamma" else value
        other.value[...] = parameter.value
    return block, layers


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", None])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_first_changes_nothing(
    fused: list[tuple[int, ...]], training: bool, activation: str | None, size: tuple[int, int], dtype: Any
) -> None:
    block, layers = block_and_layers(dtype, activation=activation)
    rng = np.random.default_rng(3)
    x, ctx = rng.standard_normal((4, *size, 3)).astype(dtype), nn.ForwardContext(training=training)
    y, backward = block.forward(x, ctx)
    assert fused == [(4, *size, 6)]
    expected, layers_backward = layers.forward(x, ctx)
    assert len(fused) == 1
    if activation == "tanh":
        assert_close(y, expected)
    else:
        np.testing.assert_array_equal(y, expected)
    for (name, buffer), (_, other) in zip(block.named_buffers(), layers.named_buffers(), strict=True):
        np.testing.assert_array_equal(buffer.value, other.value, name)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx, wanted = backward(dy), layers_backward(dy)
    assert_close(dx, wanted, terms=100)
    for (_, parameter), (_, other) in zip(block.named_parameters(), layers.named_parameters(), strict=True):
        assert_close(parameter.grad, other.grad, terms=100, scale=float(np.abs(other.grad).max()) + 1)


@pytest.mark.parametrize(
    "options", [{"activation": "gelu"}, {"pool": "average"}, {"pool": None}, {"batch_norm": False}]
)
def test_other_blocks_are_their_layers(fused: list[tuple[int, ...]], options: dict[str, Any]) -> None:
    block, layers = block_and_layers(np.float32, **options)
    x, ctx = (
        np.random.default_rng(4).standard_normal((2, 5, 4, 3)).astype(np.float32),
        nn.ForwardContext(training=True),
    )
    y, backward = block.forward(x, ctx)
    expected, layers_backward = layers.forward(x, ctx)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(backward(y), layers_backward(y))
    np.testing.assert_array_equal(block.flat.gradients, layers.flat.gradients)
    assert not fused


def test_a_decreasing_activation_comes_before_the_pooling(fused: list[tuple[int, ...]]) -> None:
    block, layers = block_and_layers(np.float32, activation="leaky_relu")
    for model in (block, layers):
        model.layers["activation"].slope = -0.5
    x = np.random.default_rng(5).standard_normal((2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(block(x), layers(x))
    assert not fused


def test_the_input_gradient_is_left_out_where_nobody_needs_it() -> None:
    block, layers = block_and_layers(np.float32)
    x = np.random.default_rng(6).standard_normal((2, 4, 4, 3)).astype(np.float32)
    y, backward = block.forward(x, nn.ForwardContext(training=True, needs_input_grad=False))
    assert backward(y) is None
    layers.forward(x, nn.ForwardContext(training=True))[1](y)
    assert_close(block.flat.gradients, layers.flat.gradients, terms=100)
