"""Sizes and paddings of convolutions and poolings, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gpunet.errors import ConfigError, ShapeError
from gpunet.ops.geometry import Conv2dGeometry, Pool2dGeometry


@pytest.mark.parametrize(
    ("padding", "sides", "out"),
    [
        (0, (0, 0, 0, 0), (3, 4)),
        ("valid", (0, 0, 0, 0), (3, 4)),
        (1, (1, 1, 1, 1), (5, 6)),
        ((0, 2), (0, 0, 2, 2), (3, 8)),
        (((1, 0), (2, 3)), (1, 0, 2, 3), (4, 9)),
        ([[1, 0], [2, 3]], (1, 0, 2, 3), (4, 9)),
        ("same", (1, 1, 1, 1), (5, 6)),
    ],
)
def test_paddings(padding: Any, sides: tuple[int, ...], out: tuple[int, int]) -> None:
    g = Conv2dGeometry.of((2, 5, 6, 4), (3, 3, 4, 7), padding=padding)
    assert g.padding == sides and g.y_shape == (2, *out, 7)


@pytest.mark.parametrize(
    # the rule: ceil(size / stride) outputs; the surplus of one goes to the end
    ("size", "kernel", "stride", "dilation", "sides", "out"),
    [
        (7, 2, 1, 1, (0, 1), 7),
        (7, 4, 1, 1, (1, 2), 7),
        (7, 3, 2, 1, (1, 1), 4),
        (8, 3, 2, 1, (0, 1), 4),
        (5, 3, 1, 2, (2, 2), 5),
    ],
)
def test_same(size: int, kernel: int, stride: int, dilation: int, sides: tuple[int, int], out: int) -> None:
    shape = (kernel, kernel, 1, 1)
    g = Conv2dGeometry.of((1, size, size, 1), shape, padding="same", stride=stride, dilation=dilation)
    assert g.padding == (*sides, *sides) and g.out_height == g.out_width == out


def test_flops_by_hand() -> None:
    g = Conv2dGeometry.of((2, 5, 6, 4), (3, 3, 2, 8), padding=1, groups=2)
    # 2 images, 30 positions, 8 channels, 18 products and additions each
    assert g.flops == 2 * 2 * 30 * 8 * 18


@pytest.mark.parametrize(
    # size 5, window 2, stride 2: the last column counts only in ceil mode; a window must start inside
    ("options", "out"),
    [({}, 2), ({"ceil_mode": True}, 3), ({"stride": 3}, 2), ({"stride": 3, "ceil_mode": True}, 2), ({"padding": 1}, 3)],
)
def test_pooled_sizes(options: dict[str, Any], out: int) -> None:
    g = Pool2dGeometry.of((1, 5, 5, 3), 2, **{"stride": 2, **options})
    assert g.y_shape == (1, out, out, 3)


def test_geometry_is_computed_once() -> None:
    assert Conv2dGeometry.of((1, 4, 4, 1), (2, 2, 1, 1)) is Conv2dGeometry.of([1, 4, 4, 1], [2, 2, 1, 1])


def test_bad_options() -> None:
    for padding in ((1,), (1, 2, 3), "reflect", -1, 1.5, True):
        with pytest.raises(ConfigError, match="padding"):
            Conv2dGeometry.of((1, 4, 4, 1), (2, 2, 1, 1), padding=padding)
    with pytest.raises(ConfigError, match="stride"):
        Conv2dGeometry.of((1, 4, 4, 1), (2, 2, 1, 1), stride=(1, 0))
    with pytest.raises(ConfigError, match="dilation"):
        Conv2dGeometry.of((1, 4, 4, 1), (2, 2, 1, 1), dilation="2")
    with pytest.raises(ConfigError, match="at most half of the window"):
        Pool2dGeometry.of((1, 4, 4, 1), 2, padding=2)
    with pytest.raises(ShapeError, match=r"pooling window of 3x3 .* larger than the padded map of 2x2"):
        Pool2dGeometry.of((1, 2, 2, 1), 3)
    with pytest.raises(ShapeError, match="4 dimensions"):
        Pool2dGeometry.of((4, 4, 1), 2)
