"""Dropout one element at a time, with the pure-Python Philox."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpunet.ops.random import reference as random


def dropout(
    x: np.ndarray, p: float, *, seed: int, step: Any, stream: int, first_element: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    step = int(np.asarray(step).reshape(-1)[0]) & random.WORD
    words = [
        random.counter_words(seed, stream, step, number // 4)[number % 4]
        for number in range(first_element, first_element + x.size)
    ]
    threshold = math.floor(p * 2**32)
    mask = np.array([word >= threshold for word in words], np.uint8).reshape(x.shape)
    return dropout_backward(x, mask, p), mask


def dropout_backward(dy: np.ndarray, mask: np.ndarray, p: float) -> np.ndarray:
    return np.asarray(dy * mask / (1 - p), dy.dtype)
