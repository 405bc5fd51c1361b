"""The comparison of runs: what is done to their losses before they are drawn in one figure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpunet.report.comparison import _train_losses


def run(name: str, smoothing: float, classes: int | None, class_weights: str = "none") -> Any:
    options = {"label_smoothing": smoothing, "class_weights": class_weights}
    result = None if classes is None else SimpleNamespace(dataset=SimpleNamespace(classes=classes))
    return name, SimpleNamespace(options=options, history=[{"epoch": 1, "train_loss": 2.0}]), result


@pytest.mark.parametrize(
    ("second", "remark", "losses"),
    [
        # the entropy of (0.95, 0.05), which are the labels of two classes smoothed by 0.1
        (run("b", 0.1, 2), " - least possible", (2.0, 2.0 + 0.95 * np.log(0.95) + 0.05 * np.log(0.05))),
        (run("b", 0.1, None), " (with label smoothing)", (2.0, 2.0)),
        (run("b", 0.1, 2, "balanced"), " (with label smoothing)", (2.0, 2.0)),
        (run("b", 0.0, None), "", (2.0, 2.0)),
    ],
)
def test_training_losses_are_comparable(second: Any, remark: str, losses: tuple[float, float]) -> None:
    drawn, found = _train_losses([run("a", 0.0, 2), second])
    assert found == remark and [name for name, _ in drawn] == ["a", "b"]
    assert [history[0]["train_loss"] for _, history in drawn] == pytest.approx(losses)
