"""The losses are PyTorch's of the same names, forward and gradient; the focal loss is tested with its op."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet.errors import ConfigError
from gpunet.nn import LOSSES, FocalLoss, HuberLoss
from tests.support import torch_or_skip

RNG = np.random.default_rng(5)
LABELS, ZEROS_AND_ONES, NUMBERS = RNG.integers(0, 4, 6), RNG.integers(0, 2, (6, 4)), RNG.standard_normal((6, 4))
CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("cross_entropy", LABELS, {}),
    ("cross_entropy", LABELS, {"weight": np.array([0.5, 1.0, 2.0, 4.0]), "label_smoothing": 0.1}),
    ("bce_with_logits", ZEROS_AND_ONES, {}),
    ("bce_with_logits", ZEROS_AND_ONES, {"pos_weight": np.array([0.5, 1.0, 2.0, 4.0])}),
    ("mse", NUMBERS, {}),
    ("huber", NUMBERS, {"delta": 0.3}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "targets", "options"), CASES)
def test_pytorch_agrees(name: str, targets: np.ndarray, options: dict[str, Any], dtype: Any) -> None:
    torch = torch_or_skip()
    arrays = {key: value.astype(dtype) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    outputs = (2 * RNG.standard_normal((6, 4))).astype(dtype)
    targets = targets if name == "cross_entropy" else targets.astype(dtype)
    loss, gradient = LOSSES[name](**arrays)(outputs, targets)
    there = {key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in arrays.items()}
    x = torch.tensor(outputs, requires_grad=True)
    expected = getattr(torch.nn, LOSSES[name].__name__)(**there)(x, torch.tensor(targets))
    expected.backward()
    tolerance = 20 * np.finfo(dtype).eps
    assert np.isfinite(gradient).all() and loss.dtype == gradient.dtype == dtype
    np.testing.assert_allclose(loss, expected.detach(), rtol=tolerance)
    np.testing.assert_allclose(gradient, x.grad, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_of_weight_two_counts_as_two_rows(name: str) -> None:
    outputs = RNG.standard_normal((3, 4))
    targets = {"cross_entropy": LABELS, "focal": LABELS, "bce_with_logits": ZEROS_AND_ONES * 1.0}.get(name, NUMBERS)[:3]
    loss, gradient = LOSSES[name]()(outputs, targets, np.array([1.0, 2.0, 1.0]))
    rows = [0, 1, 1, 2]
    expected, of_rows = LOSSES[name]()(outputs[rows], targets[rows])
    np.testing.assert_allclose(loss, expected, rtol=1e-14)
    np.testing.assert_allclose(gradient, [of_rows[0], of_rows[1] + of_rows[2], of_rows[3]], rtol=1e-13)


def test_wrong_numbers() -> None:
    with pytest.raises(ConfigError, match="gamma must be in"):
        FocalLoss(gamma=-1)
    with pytest.raises(ConfigError, match="delta must be in"):
        HuberLoss(delta=0)
