"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as
1, 2, 3", SC 2011).

The generator is stateless: a random number is a function of (seed, stream, step, index), bit-identical in the
reference, NumPy (:class:`PhiloxStream`), Numba and CUDA. The key is (seed low, seed high) and the counter (index low,
index high, step, stream), each a 32-bit word; one counter yields four words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet.checks import check_int
from gpunet.errors import DTypeError, ShapeError

SPLIT = 0
"""Stream of the train/validation split."""
SHUFFLE = 1
"""Stream of the order of the examples; the step is the epoch."""
INIT = 2
"""Stream of parameter initialisation; the step is the index of the parameter."""
AUGMENT = 3
"""Stream of the augmentation; the step is the training step."""
BLOCKS = 4
"""Stream of the order of blocks of examples; the step is the epoch."""
DROPOUT = 16
"""Stream of dropout: layer i uses stream DROPOUT + i; the step is the training step."""

M0, M1 = 0xD2511F53, 0xCD9E8D57
"""Philox4x32's multipliers (Salmon et al., section 3.3 and table 2)."""
W0, W1 = 0x9E3779B9, 0xBB67AE85
"""Weyl increments of the key: the golden ratio and sqrt(3) - 1, as 32-bit fractions."""

_BLOCK = 4096  # counters per block, so that the six temporaries stay in the L2 cache


def check_seed(seed: int) -> int:
    """`seed` as an int, or ConfigError unless it is an integer in [0, 2**64)."""
    return check_int("seed", seed, high=2**64 - 1)


def check_word(name: str, value: int) -> int:
    """`value` as an int, or ConfigError unless it is an integer in [0, 2**32)."""
    return check_int(name, value, high=2**32 - 1)


def check_scalar(name: str, value: Any, *, high: int = 2**32 - 1) -> Any:
    """`value` as an int in [0, high]; a one-element integer array is returned as it is.

    An array may be on the device: its value is not read.

    Raises:
        ConfigError: `value` is a number but not an integer in [0, high].
        ShapeError, DTypeError: `value` is an array but not a single integer.
    """
    if not hasattr(value, "ndim") or isinstance(value, np.generic):
        return check_int(name, value, high=high)
    if value.size != 1:
        raise ShapeError(f"{name} must be an integer or a one-element array, got shape {tuple(value.shape)}")
    if value.dtype.kind not in "iu":
        raise DTypeError(f"{name} must be an integer, got an array of {value.dtype}")
    return value


@dataclass(frozen=True)
class PhiloxStream:
    """The random numbers of one (seed, stream, step), computed on the host with NumPy only.

    A stream has no position: repeated calls return the same numbers, and ``bits(m)`` starts with ``bits(n)`` for every
    n < m (likewise uniform and normal). For other numbers, use another step or stream.

    Raises:
        ConfigError: `seed` is not in [0, 2**64), or `stream` or `step` is not in [0, 2**32).

    >>> stream = gn.ops.random.PhiloxStream(seed=0, stream=gn.ops.random.SHUFFLE, step=1)
    >>> sorted(stream.permutation(4).tolist())
    [0, 1, 2, 3]
    >>> bool((stream.bits(8)[:3] == stream.bits(3)).all())
    True
    """

    seed: int
    stream: int
    step: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_word("stream", self.stream)
        check_word("step", self.step)

    def bits(self, n: int) -> np.ndarray:
        """`n` random words, uint32 (n,): word i is word i % 4 of the counter with index i // 4."""
        n = check_int("n", n)
        words = np.empty((-(-n // 4), 4), np.uint32)
        for start in range(0, len(words), _BLOCK):
            self._fill(words[start : start + _BLOCK], start)
        return words.reshape(-1)[:n]

    def _fill(self, out: np.ndarray, start: int) -> None:
        # Each 32-bit word is held in a uint64, so that products are exact.
        word = np.uint64(0xFFFFFFFF)
        shift = np.uint64(32)
        index = np.arange(start, start + len(out), dtype=np.uint64)
        c0, c1 = index & word, index >> shift
        c2, c3 = np.full_like(index, self.step), np.full_like(index, self.stream)
        key0, key1 = int(self.seed) & 0xFFFFFFFF, int(self.seed) >> 32
        spare = np.empty_like(index), np.empty_like(index)
        for _ in range(10):
            product0 = np.multiply(c0, np.uint64(M0), out=spare[0])
            product1 = np.multiply(c2, np.uint64(M1), out=spare[1])
            # (c0, c1, c2, c3) <- (high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0)
            np.right_shift(product1, shift, out=c0)
            c0 ^= c1
            c0 ^= np.uint64(key0)
            np.right_shift(product0, shift, out=c2)
            c2 ^= c3
            c2 ^= np.uint64(key1)
            np.bitwise_and(product1, word, out=c1)
            np.bitwise_and(product0, word, out=c3)
            key0, key1 = (key0 + W0) & 0xFFFFFFFF, (key1 + W1) & 0xFFFFFFFF
        for column, c in enumerate((c0, c1, c2, c3)):
            out[:, column] = c

    def _keys(self, n: int) -> np.ndarray:
        # n 64-bit numbers: the lower half of number i is word 2 i, the upper half word 2 i + 1.
        return self.bits(2 * check_int("n", n)).astype("<u4", copy=False).view("<u8")

    def uniform(self, n: int) -> np.ndarray:
        """`n` uniform numbers in [0, 1), float64 (n,): the upper 53 bits of word 2 i + 1 and word 2 i."""
        return (self._keys(n) >> np.uint64(11)) * 2.0**-53

    def normal(self, n: int) -> np.ndarray:
        """`n` standard normal numbers, float64 (n,), by the Box-Muller transform of pairs of uniform ones.

        Box & Muller, "A Note on the Generation of Random Normal Deviates", Ann. Math. Stat. 29 (1958), eq. 1. The last
        bit depends on the platform's log, sin and cos.
        """
        u = self.uniform(2 * (-(-check_int("n", n) // 2)))
        radius = np.sqrt(-2.0 * np.log1p(-u[0::2]))  # 1 - u is never 0
        angle = (2.0 * np.pi) * u[1::2]
        return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)[:n]

    def permutation(self, n: int) -> np.ndarray:
        """The numbers 0 to n - 1 in random order, int64 (n,): the stable argsort of n random 64-bit keys."""
        keys = self._keys(n)
        order = np.argsort(keys)  # four times as fast as a stable sort, and the same unless two keys are equal
        found = keys[order]
        if (found[1:] == found[:-1]).any():
            order = np.argsort(keys, kind="stable")
        return order.astype(np.int64, copy=False)
