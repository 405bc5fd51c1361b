"""Philox4x32-10 for Numba code: inlined into the caller, so that loops over counters vectorise."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpunet.ops import random
from gpunet.ops._numba import jit

_M0, _M1 = np.uint64(random.M0), np.uint64(random.M1)
_W0, _W1 = np.uint32(random.W0), np.uint32(random.W1)
_WORD, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)

inline_jit: Any = functools.partial(jit, forceinline=True)


@inline_jit
def philox4x32(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """The four words, uint32, of counter (c0, c1, c2, c3) under key (k0, k1); all uint32. See ``reference.py``."""
    # Each 32-bit word is held in a 64-bit lane and masked only where it is multiplied, which the vector instruction for
    # 32 x 32 -> 64 bit products does for free.
    a0, a1, a2, a3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    k0, k1 = np.uint32(k0), np.uint32(k1)
    for _ in range(10):
        product0 = _M0 * (a0 & _WORD)
        product1 = _M1 * (a2 & _WORD)
        a0 = (product1 >> _SHIFT) ^ a1 ^ np.uint64(k0)
        a2 = (product0 >> _SHIFT) ^ a3 ^ np.uint64(k1)
        a1 = product1
        a3 = product0
        k0 = np.uint32(k0 + _W0)
        k1 = np.uint32(k1 + _W1)
    return np.uint32(a0), np.uint32(a1), np.uint32(a2), np.uint32(a3)


@inline_jit
def counter_words(seed: Any, stream: Any, step: Any, index: Any) -> Any:
    """The four words of counter `index` (uint64) of (seed: uint64, stream: uint32, step: uint32)."""
    return philox4x32(
        np.uint32(index), np.uint32(index >> _SHIFT), step, stream, np.uint32(seed), np.uint32(seed >> _SHIFT)
    )
