"""The geometry of 2-D convolution and pooling: validated and computed once, shared by all directions and backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

from gpunet.checks import check_int, pair
from gpunet.errors import ConfigError, ShapeError

Padding = int | str | Sequence[Any]


def resolve_padding(
    padding: Padding, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """`padding` as (top, bottom, left, right).

    Accepts an int, a pair (vertical, horizontal), ``((top, bottom), (left, right))``, ``"valid"`` (none) or
    ``"same"``: the output has ceil(size / stride) entries, and an odd total is padded more at the bottom and right, as
    in TensorFlow and, at stride 1, PyTorch.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding == "same":
            sides: list[int] = []
            for length, k, s, d in zip(size, kernel, stride, dilation, strict=True):
                total = max(0, (-(-length // s) - 1) * s + d * (k - 1) + 1 - length)
                sides += [total // 2, total - total // 2]
            return sides[0], sides[1], sides[2], sides[3]
        raise ConfigError(f'padding must be "valid", "same", an integer or pairs of integers, got {padding!r}')
    if isinstance(padding, (tuple, list)) and len(padding) == 2 and isinstance(padding[0], (tuple, list)):
        top, bottom = pair("padding (top, bottom)", padding[0], low=0)
        left, right = pair("padding (left, right)", padding[1], low=0)
        return top, bottom, left, right
    vertical, horizontal = pair("padding", padding, low=0)  # type: ignore[arg-type]
    return vertical, vertical, horizontal, horizontal


def _check_kernel_fits(
    what: str, size: tuple[int, int], kernel: tuple[int, int], dilation: tuple[int, int], padding: tuple[int, ...]
) -> None:
    padded = size[0] + padding[0] + padding[1], size[1] + padding[2] + padding[3]
    extent = dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1
    if extent[0] > padded[0] or extent[1] > padded[1]:
        raise ShapeError(
            f"{what} of {extent[0]}x{extent[1]} (dilation included) is larger than the padded map of "
            f"{padded[0]}x{padded[1]}: use a smaller kernel, more padding or fewer pooling steps"
        )


@dataclass(frozen=True)
class Conv2dGeometry:
    """All sizes of one convolution: NHWC input, HWIO weight (KH, KW, C_in/groups, C_out)."""

    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """(top, bottom, left, right)"""
    dilation: tuple[int, int]
    groups: int
    out_height: int
    out_width: int

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    def __hash__(self) -> int:
        """Computed once: plans are looked up by geometry several times a call."""
        return self._hash

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.height, self.width, self.in_channels

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return *self.kernel, self.in_channels // self.groups, self.out_channels

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.out_height, self.out_width, self.out_channels

    @property
    def flops(self) -> int:
        """Multiplications and additions of one forward pass, including taps on the padding."""
        taps = self.kernel[0] * self.kernel[1] * (self.in_channels // self.groups)
        return 2 * self.batch * self.out_height * self.out_width * self.out_channels * taps

    @staticmethod
    @lru_cache(maxsize=1024)
    def _of(
        x_shape: tuple[int, ...],
        weight_shape: tuple[int, ...],
        stride: tuple[int, int],
        padding: Any,
        dilation: tuple[int, int],
        groups: int,
    ) -> Conv2dGeometry:
        if len(x_shape) != 4:
            raise ShapeError(f"x must have 4 dimensions (N, H, W, C), got shape {x_shape}")
        if len(weight_shape) != 4:
            raise ShapeError(f"weight must have 4 dimensions (KH, KW, C_in/groups, C_out), got shape {weight_shape}")
        if 0 in x_shape[1:] or 0 in weight_shape:
            raise ShapeError(f"empty maps or weights cannot be convolved: x {x_shape}, weight {weight_shape}")
        batch, height, width, in_channels = x_shape
        kernel, out_channels = (weight_shape[0], weight_shape[1]), weight_shape[3]
        if in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"groups={groups} must divide the {in_channels} input and the {out_channels} output channels"
            )
        if weight_shape[2] != in_channels // groups:
            raise ShapeError(
                f"weight {weight_shape} expects {weight_shape[2] * groups} input channels (groups={groups}), "
                f"but x {x_shape} has {in_channels}"
            )
        sides = resolve_padding(padding, (height, width), kernel, stride, dilation)
        _check_kernel_fits("a kernel", (height, width), kernel, dilation, sides)
        return Conv2dGeometry(
            batch,
            height,
            width,
            in_channels,
            out_channels,
            kernel,
            stride,
            sides,
            dilation,
            groups,
            (height + sides[0] + sides[1] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1,
            (width + sides[2] + sides[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1,
        )

    @classmethod
    def of(
        cls,
        x_shape: Sequence[int],
        weight_shape: Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Conv2dGeometry:
        """Validate the arguments of a convolution and compute its output size.

        Raises:
            ShapeError: ranks or channels do not match, or the kernel is larger than the padded map.
            ConfigError: an option is out of range.
        """
        if type(stride) is type(dilation) is type(groups) is int and type(padding) in (int, str):
            return cls._of_numbers(tuple(x_shape), tuple(weight_shape), stride, padding, dilation, groups)
        return cls._checked(x_shape, weight_shape, stride, padding, dilation, groups)

    @classmethod
    @lru_cache(maxsize=1024)
    def _of_numbers(cls, *arguments: Any) -> Conv2dGeometry:
        """The usual call, cached: checking the options again would take longer than a small layer."""
        return cls._checked(*arguments)

    @classmethod
    def _checked(
        cls, x_shape: Sequence[int], weight_shape: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: Any
    ) -> Conv2dGeometry:
        return cls._of(
            tuple(x_shape),
            tuple(weight_shape),
            pair("stride", stride),
            _frozen(padding),
            pair("dilation", dilation),
            check_int("groups", groups, low=1),
        )


@dataclass(frozen=True)
class Pool2dGeometry:
    """All sizes of one pooling of an NHWC input."""

    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """(top, bottom, left, right)"""
    dilation: tuple[int, int]
    ceil_mode: bool
    out_height: int
    out_width: int

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    def __hash__(self) -> int:
        """Computed once: plans are looked up by geometry several times a call."""
        return self._hash

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.height, self.width, self.channels

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.out_height, self.out_width, self.channels

    @property
    def tiles_2x2(self) -> bool:
        """Whether the windows are 2x2, non-overlapping and inside the map: the usual pooling of a CNN."""
        inside = 2 * self.out_height <= self.height and 2 * self.out_width <= self.width
        plain = self.dilation == (1, 1) and self.padding[0] == self.padding[2] == 0
        return inside and plain and self.kernel == self.stride == (2, 2)

    @staticmethod
    @lru_cache(maxsize=1024)
    def _of(
        x_shape: tuple[int, ...],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: Any,
        dilation: tuple[int, int],
        ceil_mode: bool,
    ) -> Pool2dGeometry:
        batch, height, width, channels = x_shape
        sides = resolve_padding(padding, (height, width), kernel, stride, dilation)
        for axis, k in enumerate(kernel):
            # PyTorch's rule: without dilation, no window is all padding, where its maximum would be -inf.
            if max(sides[2 * axis : 2 * axis + 2]) > (dilation[axis] * (k - 1) + 1) // 2:
                raise ConfigError(f"padding {sides} must be at most half of the window {kernel} (dilation {dilation})")
        _check_kernel_fits("a pooling window", (height, width), kernel, dilation, sides)
        out = []
        for axis, size in enumerate((height, width)):
            before, after = sides[2 * axis], sides[2 * axis + 1]
            span = size + before + after - dilation[axis] * (kernel[axis] - 1) - 1
            length = (span + stride[axis] - 1 if ceil_mode else span) // stride[axis] + 1
            if ceil_mode and (length - 1) * stride[axis] >= size + before:
                length -= 1  # the last window must start inside the map or its leading padding
            out.append(length)
        return Pool2dGeometry(
            batch, height, width, channels, kernel, stride, sides, dilation, bool(ceil_mode), out[0], out[1]
        )

    @classmethod
    def of(
        cls,
        x_shape: Sequence[int],
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] | None = None,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
    ) -> Pool2dGeometry:
        """Validate the arguments of a pooling and compute its output size (PyTorch's rules).

        Raises:
            ShapeError: the rank is not 4, or the window is larger than the padded map.
            ConfigError: an option is out of range, or the padding exceeds half of the window.
        """
        if type(kernel_size) is type(padding) is type(dilation) is int and stride is None:
            return cls._of_numbers(tuple(x_shape), kernel_size, padding, dilation, bool(ceil_mode))
        return cls._checked(x_shape, kernel_size, stride, padding, dilation, ceil_mode)

    @classmethod
    @lru_cache(maxsize=1024)
    def _of_numbers(cls, x_shape: Any, kernel: int, padding: int, dilation: int, ceil_mode: bool) -> Pool2dGeometry:
        """The usual call, cached."""
        return cls._checked(x_shape, kernel, None, padding, dilation, ceil_mode)

    @classmethod
    def _checked(
        cls, x_shape: Sequence[int], kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
    ) -> Pool2dGeometry:
        x_shape = tuple(x_shape)
        if len(x_shape) != 4:
            raise ShapeError(f"x must have 4 dimensions (N, H, W, C), got shape {x_shape}")
        if 0 in x_shape[1:]:  # before the kernel size, which a global pooling takes from it
            raise ShapeError(f"empty maps cannot be pooled: x {x_shape}")
        kernel = pair("kernel_size", kernel_size)
        return cls._of(
            x_shape,
            kernel,
            kernel if stride is None else pair("stride", stride),
            _frozen(padding),
            pair("dilation", dilation),
            bool(ceil_mode),
        )


def _frozen(padding: Any) -> Any:
    """Lists as tuples, so that `padding` is hashable; ints are checked, as 1.0 and True would match a cached 1."""
    if isinstance(padding, (list, tuple)):
        return tuple(_frozen(item) for item in padding)
    return padding if isinstance(padding, str) else check_int("padding", padding)
