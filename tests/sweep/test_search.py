"""Points: a function of the declaration and the results alone."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from gpunet.errors import ConfigError
from gpunet.sweep.declaration import Point
from gpunet.sweep.search import search_of
from tests.sweep.conftest import Declare

AXES = (
    "lr = { low = 1e-4, high = 1e-1, log = true }\ndropout = { low = 0.1, high = 0.4 }\n"
    'lr_step = { low = 2, high = 4 }\nactivation = ["relu", "tanh"]'
)


def settings(points: list[Point]) -> list[dict[str, object]]:
    return [{name: value for choice in p.choices.values() for name, value in choice.settings.items()} for p in points]


def test_random_points_lie_in_their_ranges_and_can_be_repeated(declare: Declare) -> None:
    sweep = declare(AXES, 'search = "random"\npoints = 200')
    points = settings(search_of(sweep).more([]))
    assert points == settings(search_of(sweep).more([])) and len(points) == 200
    rates = np.array([point["lr"] for point in points], float)
    assert rates.min() >= 1e-4 and rates.max() <= 1e-1
    # uniform in the exponent: half of 200 below the middle, 7 = one standard deviation of that count
    assert abs((np.log10(rates) < -2.5).sum() - 100) < 4 * math.sqrt(200) / 2
    assert {point["lr_step"] for point in points} == {2, 3, 4} and {point["activation"] for point in points} == {
        "relu",
        "tanh",
    }
    assert all(0.1 <= float(str(point["dropout"])) <= 0.4 for point in points)
    fewer = settings(search_of(declare(AXES, 'search = "random"\npoints = 3')).more([]))
    assert fewer == points[:3]
    other = settings(search_of(declare(AXES, 'search = "random"\npoints = 3\nsearch_seed = 1')).more([]))
    assert other != fewer
    assert search_of(sweep).more([0.5]) == []


def test_optuna_proposes_the_same_points_from_the_same_results(declare: Declare) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed: pip install -e '.[optuna]'")
    sweep = declare(AXES, 'search = "optuna"\npoints = 20\nbatch = 4')

    def search(sign: int) -> list[dict[str, object]]:
        source, proposed, values = search_of(sweep), [], []
        while points := settings(source.more(values)):
            assert len(points) <= 4
            proposed += points
            values += [None if point["lr_step"] == 3 else sign * float(str(point["lr"])) for point in points]
        return proposed

    first = search(1)
    assert len(first) == 20 and search(1) == first
    other = search(-1)
    # optuna draws ten points at random before it listens to the results
    assert other[:10] == first[:10] and other[10:] != first[10:]


def test_without_optuna(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r'needs the package optuna: pip install .*optuna.*, or use "random"'):
        search_of(declare(AXES, 'search = "optuna"'))
