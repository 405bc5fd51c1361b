"""What a saved run contains and predicts, computed independently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from gpunet.experiments.inference import load_model
from tests.experiments.conftest import Trained


def part(trained: Trained, folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of ``validation`` or ``test``, by the indices that the run recorded."""
    with np.load(trained.data) as arrays, np.load(folder / "split.npz") as indices:
        if name == "test":
            return arrays["x_test"], arrays["y_test"]
        return arrays["x_train"][indices["validation"]], arrays["y_train"][indices["validation"]]


def probabilities(trained: Trained, folder: Path, name: str = "validation") -> tuple[np.ndarray, np.ndarray]:
    """What the saved model makes of all images at once, softmax by hand in float64; and the labels."""
    images, labels = part(trained, folder, name)
    saved = load_model(folder, "cpu")
    x = (images * saved.scaling.scale + saved.scaling.offset).astype(np.float32)
    logits = saved.model(x).astype(np.float64)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True), labels


def wilson(correct: int, total: int) -> str:
    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return f"95 % interval {100 * interval.low:.2f}–{100 * interval.high:.2f}"
