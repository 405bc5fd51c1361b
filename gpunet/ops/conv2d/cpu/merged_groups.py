"""Convolution in groups as one of half as many groups, whose weights are zero between the two that one is made of.

Winograd computes whole panels of output channels. Where a group has half a panel, it takes fewer multiplications that
way than the sums as they are defined, though half of its products are with zeros. A value that is not finite makes the
outputs of both groups NaN.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from gpunet import aligned
from gpunet.ops.conv2d.cpu import winograd
from gpunet.ops.geometry import Conv2dGeometry
from gpunet.recording import run


@functools.lru_cache(maxsize=256)
def of_merged_groups(g: Conv2dGeometry) -> Conv2dGeometry | None:
    """The convolution of pairs of groups; None if Winograd does not compute it, or not in less time than `g`."""
    if g.groups % 2 or g.kernel != (3, 3):
        return None
    merged = replace(g, groups=g.groups // 2)
    return merged if winograd.applies(merged) and winograd.pays_off(merged, products=2) else None


def merged_weights(weight: np.ndarray, g: Conv2dGeometry) -> np.ndarray:
    """`weight` of `g`, (R, S, C_in / groups, C_out), for pairs of groups, (R, S, 2 * C_in / groups, C_out)."""
    *taps, inner, out_channels = weight.shape
    merged = aligned.zeros((*taps, 2 * inner, out_channels), weight.dtype)
    pairs = g.groups // 2, 2, out_channels // g.groups
    source, target = weight.reshape(*taps, inner, *pairs), merged.reshape(*taps, 2, inner, *pairs)
    for k in range(2):
        run(np.copyto, target[:, :, k, :, :, k], source[:, :, :, :, k])
    return merged
