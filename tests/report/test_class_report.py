"""The table of the classes: scikit-learn's numbers, and its text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import classification_report as scikit_learns

from gpunet.errors import ConfigError, ShapeError
from gpunet.report import classification_report
from tests.support import torch_or_skip

RNG = np.random.default_rng(3)
LABELS = np.repeat([0, 1, 2, 4], [20, 7, 1, 5])  # no image of class 3
PREDICTIONS = np.where(RNG.random(33) < 0.6, LABELS, RNG.integers(0, 3, 33))  # classes 3 and 4 hardly predicted
NAMES = ["cat", "a long name of a class", "z", "never", "č"]


def flat(table: dict[str, Any]) -> dict[str, float]:
    return {
        f"{key} {name}": value
        for key, row in table.items()
        for name, value in (row.items() if isinstance(row, dict) else [("", row)])
    }


@pytest.mark.parametrize("names", [NAMES, None], ids=["named", "numbered"])
def test_numbers_and_text_are_scikit_learns(names: list[str] | None) -> None:
    options: dict[str, Any] = {
        "labels": range(5), "target_names": names or [str(n) for n in range(5)], "zero_division": 0.0
    }  # fmt: skip
    # with all classes among `labels`, the micro average is the accuracy
    found = classification_report(LABELS, PREDICTIONS, names)
    expected = flat(scikit_learns(LABELS, PREDICTIONS, output_dict=True, **options))
    actual = flat(found.to_dict())
    assert actual.keys() == {key.replace("micro avg", "accuracy") for key in expected}
    np.testing.assert_allclose(list(actual.values()), list(expected.values()), rtol=1e-14)
    assert str(found) == scikit_learns(LABELS, PREDICTIONS, **options).rstrip("\n")
    assert found.support == 33 and found.accuracy == (LABELS == PREDICTIONS).mean()


def test_tensors_and_lists() -> None:
    assert classification_report([0, 1, 1], [0, 1, 0]).to_dict()["1"]["recall"] == 0.5
    torch = torch_or_skip()
    found = classification_report(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    assert found.accuracy == pytest.approx(2 / 3)


def test_bad_input() -> None:
    with pytest.raises(ShapeError, match=r"expected labels \(n,\), n >= 1, got shape \(0,\)"):
        classification_report([], [])
    with pytest.raises(ShapeError, match="same shape"):
        classification_report([0, 1], [0])
    with pytest.raises(ConfigError, match="labels must be integers, got float64"):
        classification_report([0.0, 1.0], [0, 1])
    with pytest.raises(ConfigError, match="must lie between 0 and 0"):
        classification_report([0, 1], [0, 1], ["a"])
    for names in (["a", "a"], ["a", "accuracy"]):
        with pytest.raises(ConfigError, match="class_names must be different, and none of accuracy"):
            classification_report([0, 1], [0, 1], names)
