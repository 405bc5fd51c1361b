"""Philox4x32-10 in plain Python integers: the oracle for all other implementations."""

from __future__ import annotations

from gpunet.ops.random import M0, M1, W0, W1

WORD = 0xFFFFFFFF


def philox4x32(c0: int, c1: int, c2: int, c3: int, k0: int, k1: int) -> tuple[int, int, int, int]:
    """The four words of counter (c0, c1, c2, c3) under key (k0, k1).

    Salmon et al., SC 2011, section 3.3: ten rounds of two 32 x 32 -> 64 bit products; after each round, the key is
    bumped by its Weyl increments.
    """
    for _ in range(10):
        high0, low0 = divmod(M0 * c0, 2**32)
        high1, low1 = divmod(M1 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + W0) & WORD, (k1 + W1) & WORD
    return c0, c1, c2, c3


def counter_words(seed: int, stream: int, step: int, index: int) -> tuple[int, int, int, int]:
    """The four words of counter `index` of (seed, stream, step)."""
    return philox4x32(index & WORD, index >> 32, step, stream, seed & WORD, seed >> 32)


def bits(seed: int, stream: int, step: int, n: int) -> list[int]:
    """The first `n` words of (seed, stream, step): word i is word i % 4 of counter i // 4."""
    return [counter_words(seed, stream, step, i // 4)[i % 4] for i in range(n)]
