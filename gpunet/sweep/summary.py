"""Summary of a sweep: mean and spread over the seeds for each value of each axis."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gpunet.sweep.table import Row
from gpunet.training.metrics import METRICS, Metric

logger = logging.getLogger("gpunet")


@dataclass(frozen=True)
class Effect:
    """The validation accuracy, as fractions, or another monitored metric, for one value of one axis."""

    axis: str
    value: str
    by_seed: dict[int, float]
    """For each seed, the mean over all trials with this value, whatever the other axes are."""
    failed: int
    """Trials with this value that failed; they are not in the means."""

    @property
    def seeds(self) -> int:
        return len(self.by_seed)

    @property
    def mean(self) -> float | None:
        """Over the seeds; None if every trial failed."""
        return statistics.fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


def effects(rows: Sequence[Row], axis: str) -> list[Effect]:
    """The effect of each value of `axis`, in the order in which the table has them.

    With several axes these are main effects, averaged over the other axes. If a trial failed, the same combination of
    the other axes is left out for all values, so that means over different points are not compared; a value whose
    trials all failed has no mean.

    >>> from gpunet.sweep import Row, effects
    >>> from gpunet.sweep.table import Outcome
    >>> accuracies = {("relu", 0): 0.8, ("relu", 1): 0.9, ("gelu", 0): 0.7, ("gelu", 1): 0.7}
    >>> rows = [
    ...     Row(number, {"activation": name}, seed, Outcome("ok", validation_accuracy=accuracy))
    ...     for number, ((name, seed), accuracy) in enumerate(accuracies.items(), start=1)
    ... ]
    >>> [(effect.value, round(effect.mean, 3), round(effect.std, 3)) for effect in effects(rows, "activation")]
    [('relu', 0.85, 0.071), ('gelu', 0.7, 0.0)]
    """
    values = list(dict.fromkeys(row.values[axis] for row in rows))
    everywhere_failed = {
        value for value in values if not any(row.outcome.ok for row in rows if row.values[axis] == value)
    }
    incomplete = {
        _others(row, axis) for row in rows if not row.outcome.ok and row.values[axis] not in everywhere_failed
    }
    found = []
    for value in values:
        own = [row for row in rows if row.values[axis] == value]
        groups: dict[int, list[float]] = {}
        for row in own:
            accuracy = row.outcome.value
            if row.outcome.ok and accuracy is not None and _others(row, axis) not in incomplete:
                groups.setdefault(row.seed, []).append(accuracy)
        means = {seed: statistics.fmean(group) for seed, group in sorted(groups.items())}
        found.append(Effect(axis, value, means, sum(not row.outcome.ok for row in own)))
    return found


def _others(row: Row, axis: str) -> tuple[object, ...]:
    return (row.seed, *(value for name, value in row.values.items() if name != axis))


def best_point(rows: Sequence[Row]) -> list[Row]:
    """The rows, one per seed, of the point with the best mean of the monitored metric; ties go to the first.

    There are none if no point has all its seeds, or if the trials monitor different metrics.
    """
    metrics = {row.outcome.metric for row in rows if row.outcome.ok}
    if len(metrics) > 1:
        logger.warning(
            "the trials monitor different metrics, so none is the best: %s",
            ", ".join(sorted(name or "accuracy" for name in metrics)),
        )
        return []
    points: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        points.setdefault(tuple(row.values.values()), []).append(row)
    complete = [group for group in points.values() if all(row.outcome.ok for row in group)]
    return max(complete, key=point_objective, default=[])


def point_score(rows: Sequence[Row]) -> float:
    """The mean of the monitored metric of the rows of a point that was trained with all its seeds."""
    return statistics.fmean(row.outcome.value or 0.0 for row in rows)


def point_objective(rows: Sequence[Row]) -> float:
    """The same as a number of which more is better."""
    return point_score(rows) if metric_of(rows).maximize else -point_score(rows)


def metric_of(rows: Sequence[Row]) -> Metric:
    """The metric that the trials monitor; the accuracy if none is finished."""
    names = [row.outcome.metric for row in rows if row.outcome.ok]
    return METRICS[names[0] if names and names[0] else "accuracy"]()
