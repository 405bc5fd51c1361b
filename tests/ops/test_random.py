"""Philox4x32-10: published vectors for the reference, the reference for NumPy and Numba, statistics for the rest."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops import random
from gpunet.ops.random import cpu, reference
from tests.support import assert_close

WORDS = st.integers(0, 2**32 - 1)
SEEDS = st.integers(0, 2**64 - 1)

# Random123 1.14, tests/kat_vectors, the three lines "philox4x32 10": counter, key, expected.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter, key, expected):
    assert reference.philox4x32(*counter, *key) == expected
    assert cpu.philox4x32(*(np.uint32(word) for word in (*counter, *key))) == expected


def test_layout_of_counter_and_key():
    # The third vector again: its words are index, step and stream, and the seed, lower half first.
    counter, key, expected = KNOWN_ANSWERS[2]
    seed, index = key[0] | key[1] << 32, counter[0] | counter[1] << 32
    assert reference.counter_words(seed, counter[3], counter[2], index) == expected


@settings(max_examples=200)
@given(st.tuples(*[WORDS] * 6))
def test_numba_is_the_reference(words):
    assert cpu.philox4x32(*(np.uint32(word) for word in words)) == reference.philox4x32(*words)


@settings(max_examples=200)
@given(SEEDS, WORDS, WORDS, st.integers(0, 2**64 - 1))
def test_numba_counter_is_the_reference(seed, stream, step, index):
    words = cpu.counter_words(np.uint64(seed), np.uint32(stream), np.uint32(step), np.uint64(index))
    assert words == reference.counter_words(seed, stream, step, index)


@settings(max_examples=200)
@given(SEEDS, WORDS, WORDS, st.integers(0, 70))
def test_stream_bits_are_the_reference(seed, stream, step, n):
    words = random.PhiloxStream(seed, stream, step).bits(n)
    assert words.dtype == np.uint32
    assert words.tolist() == reference.bits(seed, stream, step, n)


def test_blocks_of_a_long_stream_join():
    words = random.PhiloxStream(9, random.INIT, 1).bits(40_000)
    for index in (0, 4095, 4096, 8191, 8192, 9999):
        assert tuple(words[4 * index : 4 * index + 4].tolist()) == reference.counter_words(9, random.INIT, 1, index)


def test_stream_ids_are_part_of_the_format():
    # Masks and orders of old runs depend on these numbers.
    assert (random.SPLIT, random.SHUFFLE, random.INIT, random.AUGMENT, random.DROPOUT) == (0, 1, 2, 3, 16)


def uniform_of_reference(seed, stream, step, n):
    words = reference.bits(seed, stream, step, 2 * n)
    return [((words[2 * i + 1] << 32 | words[2 * i]) >> 11) / 2**53 for i in range(n)]


@settings(max_examples=50)
@given(SEEDS, WORDS, WORDS, st.integers(0, 9))
def test_uniform_and_normal_are_their_formulas(seed, stream, step, n):
    source = random.PhiloxStream(seed, stream, step)
    assert source.uniform(n).tolist() == uniform_of_reference(seed, stream, step, n)
    u = uniform_of_reference(seed, stream, step, n + 1)
    expected = []
    for i in range(n):
        radius = math.sqrt(-2 * math.log(1 - u[i - i % 2]))
        angle = 2 * math.pi * u[i - i % 2 + 1]
        expected.append(radius * (math.sin(angle) if i % 2 else math.cos(angle)))
    normal = source.normal(n)
    assert normal.dtype == np.float64
    assert_close(normal, np.array(expected), scale=10.0)  # no normal number exceeds sqrt(2 * 53 * log 2) < 10


def test_uniform_covers_both_ends_of_its_interval(monkeypatch):
    for word, expected in ((0, 0.0), (0xFFFFFFFF, 1 - 2.0**-53)):
        monkeypatch.setattr(random.PhiloxStream, "bits", lambda self, n, word=word: np.full(n, word, np.uint32))
        assert random.PhiloxStream(0, 0).uniform(2).tolist() == [expected, expected]
        assert np.isfinite(random.PhiloxStream(0, 0).normal(2)).all()


def test_a_longer_stream_starts_with_the_shorter_one():
    source = random.PhiloxStream(5, random.INIT, 3)
    for draw in (source.bits, source.uniform, source.normal):
        np.testing.assert_array_equal(draw(1001)[:350], draw(350))


def test_moments_and_distribution():
    n = 200_000
    u, z = random.PhiloxStream(1, 0).uniform(n), random.PhiloxStream(2, 0).normal(n)
    # five standard errors of the mean and of the second moment of each distribution
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs((u**2).mean() - 1 / 3) < 5 * math.sqrt((1 / 5 - 1 / 9) / n)
    assert abs(z.mean()) < 5 * math.sqrt(1 / n)
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z[0::2] * z[1::2]).mean()) < 5 * math.sqrt(2 / n)
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert stats.kstest(z, "norm").pvalue > 1e-4


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
def test_permutation_is_one(n):
    order = random.PhiloxStream(3, random.SHUFFLE, 8).permutation(n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_equal_keys_keep_their_order(monkeypatch):
    keys = np.tile(np.arange(3, dtype=np.uint64)[::-1], 20)
    monkeypatch.setattr(random.PhiloxStream, "_keys", lambda self, n: keys[:n])
    expected = sorted(range(60), key=lambda i: (keys[i], i))
    assert random.PhiloxStream(0, random.SHUFFLE).permutation(60).tolist() == expected


def test_permutation_sorts_the_reference_keys():
    words = reference.bits(3, random.SHUFFLE, 8, 100)
    keys = [words[2 * i + 1] << 32 | words[2 * i] for i in range(50)]
    expected = sorted(range(50), key=keys.__getitem__)
    assert random.PhiloxStream(3, random.SHUFFLE, 8).permutation(50).tolist() == expected


def test_all_orders_are_equally_likely():
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for epoch in range(2400):
        counts[tuple(random.PhiloxStream(0, random.SHUFFLE, epoch).permutation(4).tolist())] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_seed_stream_and_step_all_matter():
    draws = [
        random.PhiloxStream(*arguments).bits(8).tolist()
        for arguments in ((0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert len({tuple(draw) for draw in draws}) == len(draws)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 0), "seed must be between 0 and 18446744073709551615, got -1"),
        ((2**64, 0, 0), "seed must be between"),
        ((1.5, 0, 0), "seed must be an integer, got 1.5"),
        ((0, 2**32, 0), "stream must be between 0 and 4294967295, got 4294967296"),
        ((0, 0, -1), "step must be between 0 and 4294967295, got -1"),
        ((0, 0, True), "step must be an integer, got True"),
    ],
)
def test_bad_streams_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        random.PhiloxStream(*arguments)


@pytest.mark.parametrize("draw", ["bits", "uniform", "normal", "permutation"])
def test_bad_lengths_are_refused(draw):
    with pytest.raises(ConfigError, match="n must be at least 0, got -1"):
        getattr(random.PhiloxStream(0, 0), draw)(-1)


def test_check_scalar():
    assert random.check_scalar("step", np.int32(7)) == 7
    array = np.array([7])
    assert random.check_scalar("step", array) is array
    with pytest.raises(ConfigError, match="step must be between 0 and 4294967295, got 4294967296"):
        random.check_scalar("step", 2**32)
    with pytest.raises(ShapeError, match=r"step must be an integer or a one-element array, got shape \(2,\)"):
        random.check_scalar("step", np.zeros(2, np.int64))
    with pytest.raises(DTypeError, match="step must be an integer, got an array of float64"):
        random.check_scalar("step", np.zeros(1))


def test_importing_it_does_not_import_numba():
    code = "import sys, gpunet.ops.random as r; r.PhiloxStream(0, 0).normal(3); sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
