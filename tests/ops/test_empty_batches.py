"""Batches of no rows, and other arrays with nothing in them: the same rule for every op."""

from __future__ import annotations

import numpy as np
import pytest

from gpunet import nn, ops
from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.nn.layer import ForwardContext
from tests.ops import empty_batches

X = np.ones((2, 3), np.float32)
MAPS = np.ones((2, 4, 5, 3), np.float32)
VECTORS = [np.ones(3, np.float32) for _ in range(4)]


@pytest.mark.parametrize("name", empty_batches.NAMES)
def test_no_rows(name: str) -> None:
    empty_batches.check(name, np.asarray, np.asarray)


def test_every_op_is_called() -> None:
    called = {name.split()[0] for name in empty_batches.NAMES}
    without_batch = {"advance_step", "record_shard", "weigh_shards", "sum_shards"}
    assert called == set(ops.__all__) - without_batch


@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (0, 8, 8, 1)])
def test_pytorch_agrees(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    x = torch.zeros(shape).permute(0, 3, 1, 2).requires_grad_()
    weight = torch.ones((2, shape[3], 3, 3), requires_grad=True)
    y = torch.nn.functional.max_pool2d(torch.nn.functional.conv2d(x, weight), 2)
    y.sum().backward()
    maps, kernel = np.zeros(shape, np.float32), np.ones((3, 3, shape[3], 2), np.float32)
    convolved = ops.conv2d(maps, kernel)
    pooled, argmax = ops.max_pool2d(convolved, 2)
    assert pooled.shape == tuple(y.permute(0, 2, 3, 1).shape)
    dx, dweight, _ = ops.conv2d_backward(ops.max_pool2d_backward(pooled, argmax, convolved.shape, 2), maps, kernel)
    assert dx.shape == tuple(x.grad.permute(0, 2, 3, 1).shape)
    np.testing.assert_array_equal(dweight, weight.grad.permute(2, 3, 1, 0))


def test_a_network_without_rows() -> None:
    model = nn.Sequential(
        [nn.Conv2d(3, 4, 3), nn.BatchNorm(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)]
    ).initialize(seed=0, device="cpu")
    y, backward = model.forward(np.zeros((0, 4, 5, 3), np.float32), ForwardContext(needs_input_grad=True))
    assert y.shape == (0, 2)
    assert backward(y).shape == (0, 4, 5, 3)
    with pytest.raises(ShapeError, match="one value per channel"):
        model.forward(np.zeros((0, 4, 5, 3), np.float32), ForwardContext(training=True))


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3), (0, 3)])
def test_batch_norm_of_one_value_per_channel(shape: tuple[int, ...]) -> None:
    """As in PyTorch: its variance is undefined, whatever the map."""
    with pytest.raises(ShapeError, match="training needs more than one value per channel, got x"):
        ops.batch_norm(np.ones(shape, np.float32), *VECTORS, training=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.conv2d(MAPS[:, :0], np.ones((1, 1, 3, 2), np.float32)), r"x \(2, 0, 5, 3\)"),
        (lambda: ops.conv2d(MAPS, np.ones((3, 0, 3, 2), np.float32)), r"weight \(3, 0, 3, 2\)"),
        (lambda: ops.linear(X[:, :0], np.ones((0, 3), np.float32)), r"got shape \(0, 3\)"),
        (lambda: ops.linear_backward(X[:, :0], X, np.ones((3, 0), np.float32)), r"got shape \(3, 0\)"),
        (lambda: ops.max_pool2d(MAPS[:, :, :0], 1), r"x \(2, 4, 0, 3\)"),
        (lambda: ops.avg_pool2d(MAPS[..., :0], 1), r"x \(2, 4, 5, 0\)"),
        (lambda: ops.global_avg_pool2d(MAPS[:, :0]), r"x \(2, 0, 5, 3\)"),
        (lambda: ops.global_avg_pool2d_backward(X, (2, 0, 5, 3)), r"x \(2, 0, 5, 3\)"),
        (lambda: ops.batch_norm(MAPS[:, :0], *VECTORS, training=False), r"x \(2, 0, 5, 3\)"),
        (lambda: ops.batch_norm_max_pool(MAPS[:, :0], *VECTORS, training=False), r"x \(2, 0, 5, 3\)"),
        (lambda: ops.softmax(X[:, :0]), r"got shape \(2, 0\)"),
        (lambda: ops.softmax_cross_entropy(X[:, :0], np.zeros(2, np.int64)), r"got shape \(2, 0\)"),
        (lambda: ops.count_correct(X[:, :0], np.zeros(2, np.int64)), r"got shape \(2, 0\)"),
    ],
)  # fmt: skip
def test_maps_of_no_pixels_and_rows_of_no_classes(call, message) -> None:
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize("needs", ["weight", "x", "", None, 3, ("weights",), [["x"]]], ids=repr)
def test_needs_is_a_tuple_of_names(needs) -> None:
    """A string is a sequence, too: of characters."""
    with pytest.raises(ConfigError, match="needs m"):
        ops.linear_backward(X, X, np.ones((3, 3), np.float32), needs=needs)
    with pytest.raises(ConfigError, match="needs m"):
        ops.conv2d_backward(MAPS, MAPS, np.ones((1, 1, 3, 3), np.float32), needs=needs)


@pytest.mark.parametrize("needs", [("weight",), ["weight"], {"weight"}], ids=repr)
def test_needs_of_one_gradient(needs) -> None:
    dx, dweight, dbias = ops.linear_backward(X, X, np.ones((3, 3), np.float32), needs=needs)
    assert dx is None and dbias is None
    np.testing.assert_array_equal(dweight, np.full((3, 3), 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.softmax_cross_entropy(X, [0, 1]),
        lambda: ops.softmax_cross_entropy([[0.0, 1.0]], np.zeros(1, np.int64)),
        lambda: ops.count_correct(X, [0, 1]),
        lambda: ops.gather_batch(MAPS, [0, 1], np.arange(2), start=0, size=2),
        lambda: ops.gather_batch(MAPS, np.arange(2), [0, 1], start=0, size=2),
        lambda: ops.gather_batch([[1.0], [2.0]], np.arange(2), np.arange(2), start=0, size=2),
        lambda: ops.dropout_backward(X, [[1, 0, 1]] * 2, 0.5),
        lambda: ops.max_pool2d_backward(MAPS, [0], MAPS.shape, 1),
        lambda: ops.relu([1.0]),
        lambda: ops.sgd_update([1.0], [1.0], None, lr=1),
    ],
)
def test_lists_are_no_arrays(call) -> None:
    with pytest.raises(DTypeError, match=r"got (builtins\.)?list.*: ?convert it with numpy\.asarray|list; convert it"):
        call()
