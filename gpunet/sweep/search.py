"""Choosing the points of a sweep: a full grid, random points, or those that optuna proposes."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gpunet.errors import ConfigError
from gpunet.packages import pip_install
from gpunet.sweep.declaration import Axis, Choice, Point, Sweep


class Search(Protocol):
    """Proposes points, several at a time, based on the results of earlier ones.

    The proposals depend only on the declaration and the results, so that a resumed sweep gets the same ones.
    """

    def more(self, values: Sequence[float | None]) -> list[Point]:
        """The next points; none when the search is over.

        Args:
            values: the objective of every point proposed so far, in order; None if it could not be trained.
        """
        ...


class FixedSearch:
    """Points that are known in advance."""

    def __init__(self, points: list[Point]) -> None:
        self.points = points

    def more(self, values: Sequence[float | None]) -> list[Point]:
        return [] if values else self.points


class OptunaSearch:
    """optuna's tree-structured Parzen estimator (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011).

    The study is in memory: a resumed sweep replays the stored results in the same order, and gets the same proposals.

    Raises:
        ConfigError: optuna is not installed.
    """

    def __init__(self, sweep: Sweep) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                f'search = "optuna" needs the package optuna: {pip_install("optuna")}, or use "random"'
            ) from None
        self._failed = optuna.trial.TrialState.FAIL
        self.sweep = sweep
        self.proposed: list[Any] = []
        self._told = 0
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar is marked as experimental
            sampler = optuna.samplers.TPESampler(seed=sweep.options.search_seed, constant_liar=True)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)

    def more(self, values: Sequence[float | None]) -> list[Point]:
        for trial, value in list(zip(self.proposed, values, strict=True))[self._told :]:
            self.study.tell(trial, value, state=self._failed if value is None else None)
            self._told += 1
        count = min(self.sweep.options.batch, self.sweep.options.points - len(self.proposed))
        points = []
        for _ in range(count):
            trial = self.study.ask()
            self.proposed.append(trial)
            points.append(Point({axis.name: self._suggest(trial, axis) for axis in self.sweep.axes}))
        return points

    def _suggest(self, trial: Any, axis: Axis) -> Choice:
        if axis.range is None:
            label = trial.suggest_categorical(axis.name, [choice.label for choice in axis.choices])
            return next(choice for choice in axis.choices if choice.label == label)
        low, high, log = axis.range.low, axis.range.high, axis.range.log
        if axis.range.whole:
            return axis.choice(trial.suggest_int(axis.name, int(low), int(high), log=log))
        return axis.choice(trial.suggest_float(axis.name, low, high, log=log))


def search_of(sweep: Sweep) -> Search:
    """The search that `sweep` declares.

    Raises:
        ConfigError: it needs a package that is not installed.
    """
    if sweep.options.search == "optuna":
        return OptunaSearch(sweep)
    if sweep.options.search == "random":
        return FixedSearch([_random_point(sweep, number) for number in range(sweep.options.points)])
    names = [axis.name for axis in sweep.axes]
    combinations = itertools.product(*(axis.choices for axis in sweep.axes))
    return FixedSearch([Point(dict(zip(names, choices, strict=True))) for choices in combinations])


def _random_point(sweep: Sweep, number: int) -> Point:
    """Point `number` of a random search; adding points does not change earlier ones."""
    rng = np.random.default_rng([sweep.options.search_seed, number])
    return Point({axis.name: _random_choice(axis, rng) for axis in sweep.axes})


def _random_choice(axis: Axis, rng: np.random.Generator) -> Choice:
    if axis.range is None:
        return axis.choices[int(rng.integers(len(axis.choices)))]
    low, high = axis.range.low, axis.range.high
    if axis.range.whole and not axis.range.log:
        return axis.choice(int(rng.integers(int(low), int(high) + 1)))
    if not axis.range.log:
        return axis.choice(float(rng.uniform(low, high)))
    value = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    value = min(max(value, low), high)  # exp(log(x)) may lie just outside
    return axis.choice(round(value) if axis.range.whole else value)
