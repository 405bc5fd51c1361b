"""Every op on a batch of no rows, and what it must give: nothing per row, zeros for parameters, or a ShapeError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpunet import ops
from gpunet.errors import ShapeError
from gpunet.ops.batchnorm import BatchNormSaved
from gpunet.ops.batchnorm_pool import BatchNormMaxPoolSaved
from gpunet.ops.conv2d_batchnorm_pool import ConvBatchNormMaxPoolSaved

F, D, BYTE, INT, LONG = np.float32, np.float64, np.uint8, np.int32, np.int64
NewArray = Callable[[np.ndarray], Any]
"""A NumPy array on the device that is tested."""
Calls = dict[str, tuple[Callable[[], Any], Any]]
"""Each call, and what it must return: arrays as their shape, dtype and value, or an exception."""


def of(shape: tuple[int, ...], dtype: Any = F, value: float = 0) -> np.ndarray:
    return np.full(shape, value, dtype)


def calls(new: NewArray) -> Calls:
    """The calls on arrays made by `new`; their names begin with that of the op."""

    def none(*shape: int, dtype: Any = F) -> Any:
        return new(of((0, *shape), dtype))

    def ones(*shape: int, dtype: Any = F) -> Any:
        return new(of(shape, dtype, 1))

    def gathered(array: np.ndarray) -> np.ndarray:
        raise AssertionError("parts of no rows need not meet")

    def unset(*shape: int) -> Any:
        return new(of(shape, F, np.nan))

    maps, small, rows = none(4, 5, 3), none(2, 2, 3), none(3)
    kernel, weight, labels = ones(3, 3, 3, 2), ones(3, 2), none(dtype=INT)
    norm, order = [ones(3), ones(3), ones(3), new(of((3,), F, 3))], none(dtype=LONG)
    saved = BatchNormSaved(ones(3, dtype=D), ones(3, dtype=D), False)
    pooled = BatchNormMaxPoolSaved(ones(3, dtype=D), ones(3, dtype=D), none(2, 2, 3, dtype=BYTE), False)
    first = ConvBatchNormMaxPoolSaved(*[ones(2, dtype=D)] * 2, none(1, 1, 2, dtype=BYTE), none(2, 3, 2))
    statistics = of((3,), D, 1), of((3,), D, 0.5)  # 1 / sqrt(3 + eps) with eps 1
    rest = False, None  # the statistics of the batch, and the other parts of it
    no_rows, no_maps = of((0, 3)), of((0, 4, 5, 3))
    parameters = of((3,)), of((3,))

    found: Calls = {
        "conv2d": (lambda: ops.conv2d(maps, kernel, ones(2)), of((0, 2, 3, 2))),
        "conv2d groups": (lambda: ops.conv2d(none(4, 5, 4), ones(1, 1, 2, 2), groups=2, stride=2), of((0, 2, 3, 2))),
        "conv2d_backward": (
            lambda: ops.conv2d_backward(none(2, 3, 2), maps, kernel),
            (no_maps, of((3, 3, 3, 2)), of((2,))),
        ),
        "conv2d_backward out": (
            lambda: ops.conv2d_backward(
                none(2, 3, 2), maps, kernel, needs=("weight", "bias"), out=(unset(3, 3, 3, 2), unset(2))
            ),
            (None, of((3, 3, 3, 2)), of((2,))),
        ),
        "conv2d_inference": (
            lambda: ops.conv2d_inference(maps, kernel, ones(2), [ones(2)] * 4, relu=True),
            of((0, 2, 3, 2)),
        ),
        "conv2d_inference pooled": (lambda: ops.conv2d_inference(maps, kernel, max_pool=True), of((0, 1, 1, 2))),
        "linear": (lambda: ops.linear(rows, weight, ones(2), relu=True), of((0, 2))),
        "linear 3-d": (lambda: ops.linear(none(4, 3), weight), of((0, 4, 2))),
        "linear_backward": (
            lambda: ops.linear_backward(none(2), rows, weight, y=none(2)),
            (no_rows, of((3, 2)), of((2,))),
        ),
        "linear_backward out": (
            lambda: ops.linear_backward(none(2), rows, weight, needs=("weight", "bias"), out=(unset(3, 2), unset(2))),
            (None, of((3, 2)), of((2,))),
        ),
        "max_pool2d": (lambda: ops.max_pool2d(maps, 2), (of((0, 2, 2, 3)), of((0, 2, 2, 3), BYTE))),
        "max_pool2d padded": (
            lambda: ops.max_pool2d(maps, 3, stride=1, padding=1),
            (of((0, 4, 5, 3)), of((0, 4, 5, 3), BYTE)),
        ),
        "max_pool2d_backward": (
            lambda: ops.max_pool2d_backward(small, none(2, 2, 3, dtype=BYTE), (0, 4, 5, 3), 2),
            no_maps,
        ),
        "avg_pool2d": (lambda: ops.avg_pool2d(maps, 2), of((0, 2, 2, 3))),
        "avg_pool2d_backward": (lambda: ops.avg_pool2d_backward(small, (0, 4, 5, 3), 2), no_maps),
        "global_avg_pool2d": (lambda: ops.global_avg_pool2d(maps), no_rows),
        "global_avg_pool2d_backward": (lambda: ops.global_avg_pool2d_backward(rows, (0, 4, 5, 3)), no_maps),
        "batch_norm": (lambda: ops.batch_norm(maps, *norm, training=False, eps=1), (no_maps, *statistics, *rest)),
        "batch_norm rows": (lambda: ops.batch_norm(rows, *norm, training=False, eps=1), (no_rows, *statistics, *rest)),
        "batch_norm training": (
            lambda: ops.batch_norm(maps, *norm, training=True),
            ShapeError("one value per channel"),
        ),
        "batch_norm_backward": (lambda: ops.batch_norm_backward(rows, rows, ones(3), saved), (no_rows, *parameters)),
        "batch_norm_backward out": (
            lambda: ops.batch_norm_backward(maps, maps, ones(3), saved, out=(unset(3), unset(3))),
            (no_maps, *parameters),
        ),
        "batch_norm_max_pool": (
            lambda: ops.batch_norm_max_pool(maps, *norm, training=False, eps=1),
            (of((0, 2, 2, 3)), *statistics, of((0, 2, 2, 3), BYTE), *rest, None),
        ),
        "batch_norm_max_pool training": (
            lambda: ops.batch_norm_max_pool(maps, *norm, training=True),
            ShapeError("one value per channel"),
        ),
        "conv2d_batch_norm_max_pool": (
            lambda: ops.conv2d_batch_norm_max_pool(maps, kernel, *[ones(2)] * 4),
            ShapeError("one value per channel"),
        ),
        "conv2d_batch_norm_max_pool parts": (
            lambda: ops.conv2d_batch_norm_max_pool(maps, kernel, *[ones(2)] * 4, gather=gathered)[0],
            of((0, 1, 1, 2)),
        ),
        "conv2d_batch_norm_max_pool_backward": (
            lambda: ops.conv2d_batch_norm_max_pool_backward(none(1, 1, 2), maps, kernel, ones(2), first),
            (of((3, 3, 3, 2)), of((2,)), of((2,))),
        ),
        "batch_norm_max_pool_backward": (
            lambda: ops.batch_norm_max_pool_backward(small, maps, ones(3), pooled, out=(None, unset(3))),
            (no_maps, *parameters),
        ),
        "softmax": (lambda: ops.softmax(rows), no_rows),
        "log_softmax": (lambda: ops.log_softmax(none(2, 40)), of((0, 2, 40))),
        "softmax_cross_entropy mean": (
            lambda: ops.softmax_cross_entropy(rows, labels),
            ShapeError("the mean loss needs at least one row"),
        ),
        "softmax_cross_entropy sum": (
            lambda: ops.softmax_cross_entropy(rows, labels, reduction="sum", weight=ones(3)),
            (of(()), no_rows),
        ),
        "softmax_cross_entropy none": (
            lambda: ops.softmax_cross_entropy(rows, labels, reduction="none", label_smoothing=0.1),
            (of((0,)), no_rows),
        ),
        "mse_loss mean": (lambda: ops.mse_loss(rows, rows), ShapeError("the mean loss needs at least one element")),
        "huber_loss sum": (
            lambda: ops.huber_loss(rows, rows, reduction="sum", sample_weight=none()),
            (of(()), no_rows),
        ),
        "binary_cross_entropy_with_logits none": (
            lambda: ops.binary_cross_entropy_with_logits(rows, rows, pos_weight=ones(3), reduction="none"),
            (no_rows, no_rows),
        ),
        "count_correct": (lambda: ops.count_correct(rows, labels), of((), LONG)),
        "dropout": (lambda: ops.dropout(rows, 0.5, seed=1, step=2, stream=16), (no_rows, of((0, 3), BYTE))),
        "dropout_backward": (lambda: ops.dropout_backward(rows, none(3, dtype=BYTE), 0.5), no_rows),
        "gather_batch of images": (
            lambda: ops.gather_batch(
                ones(2, 4, 5, 3, dtype=BYTE), ones(2, dtype=INT), ones(1, dtype=LONG),
                start=1, size=0, flip=True, shift=1, cutout=2,
            ),
            (no_maps, of((0,), INT)),
        ),
        "gather_batch of features": (
            lambda: ops.gather_batch(ones(2, 3), ones(2, dtype=INT), order, start=0, size=0, dtype=D),
            (of((0, 3), D), of((0,), INT)),
        ),
        "gather_batch of no images": (
            lambda: ops.gather_batch(none(4, 5, 3, dtype=BYTE), labels, order, start=0, size=0),
            (no_maps, of((0,), INT)),
        ),
        "gather_targets": (lambda: ops.gather_targets(ones(2, 3), ones(1, dtype=LONG), start=1, size=0), no_rows),
        "gradient_scale": (lambda: ops.gradient_scale(none(), ones(1), max_norm=1), (of((), F, 1), of(()))),
        "sgd_update": (lambda: ops.sgd_update(none(), none(), none(), lr=1, momentum=0.5), None),
        "adam_update": (lambda: ops.adam_update(none(), none(), none(), none(), lr=1, step=1), None),
        "ema_update": (lambda: ops.ema_update(none(), none(), decay=0.5, step=1), None),
    }  # fmt: skip
    for name in ("relu", "leaky_relu", "tanh", "gelu"):
        forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
        found[name] = (lambda forward=forward: forward(maps)), no_maps
        found[f"{name}_backward"] = (lambda backward=backward: backward(rows, rows)), no_rows
    return found


def flat(results: Any) -> list[Any]:
    """The entries of tuples of tuples."""
    return [entry for result in results for entry in flat(result)] if isinstance(results, tuple) else [results]


NAMES = sorted(calls(np.asarray))


def check(name: str, new: NewArray, host: Callable[[Any], np.ndarray]) -> None:
    """Assert that the call `name` gives what it must, on the device of `new`."""
    call, expected = calls(new)[name]
    if isinstance(expected, ShapeError):
        try:
            call()
        except ShapeError as error:
            assert str(expected) in str(error)
            return
        raise AssertionError(f"{name} gave a result")
    found, wanted = flat(call()), flat(expected)
    assert len(found) == len(wanted)
    for ours, value in zip(found, wanted, strict=True):
        if not isinstance(value, np.ndarray):
            assert ours is value
            continue
        assert type(ours) is type(new(value)), "on the device"
        array = host(ours)
        assert (array.shape, array.dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(array, value)
