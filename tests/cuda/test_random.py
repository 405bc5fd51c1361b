"""Random words on the device: those of the host, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.ops import random
from gpunet.ops.random import cuda
from tests.cuda.conftest import Device

WORDS = st.integers(0, 2**32 - 1)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**64 - 1), stream=WORDS, step=WORDS, n=st.integers(0, 40))
def test_words_are_those_of_the_host(device: Device, seed: int, stream: int, step: int, n: int) -> None:
    words = cuda.bits(seed, stream, step, n, device.array(np.zeros(1)))
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(device.host(words), random.PhiloxStream(seed, stream, step).bits(n))


def test_published_vector(device: Device) -> None:
    # Random123 1.14, tests/kat_vectors, "philox4x32 10" of zeros
    words = device.host(cuda.bits(0, 0, 0, 4, device.array(np.zeros(1))))
    assert words.tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_several_blocks(device: Device) -> None:
    words = cuda.bits(2**63 + 5, 16, 7, 3001, device.array(np.zeros(1)))
    np.testing.assert_array_equal(device.host(words), random.PhiloxStream(2**63 + 5, 16, 7).bits(3001))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_step_on_the_device(device: Device, dtype: type) -> None:
    expected = random.PhiloxStream(1, 2, 3).bits(9)
    step = device.array(np.array([3], dtype))
    np.testing.assert_array_equal(device.host(cuda.bits(1, 2, step, 9, step)), expected)
    if dtype == np.int64:  # modulo 2**32
        step = device.array(np.array([5 * 2**32 + 3]))
        np.testing.assert_array_equal(device.host(cuda.bits(1, 2, step, 9, step)), expected)
