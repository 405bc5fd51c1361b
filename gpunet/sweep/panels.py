"""Choosing the panels that show a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from gpunet.report.sweep_figures import Panel, Scatter
from gpunet.sweep.declaration import Axis, Sweep
from gpunet.sweep.summary import effects, metric_of
from gpunet.sweep.table import Row


def panels_of(sweep: Sweep, rows: Sequence[Row]) -> list[Panel | Scatter]:
    """The panels of `sweep`: a single one with all accuracies for one or two axes, else one per main effect.

    A number sampled from a range is shown as a scatter plot. Without a finished trial there are no panels.
    """
    if not any(row.outcome.ok for row in rows):
        return []
    title = sweep.options.question or sweep.name
    listed = [axis for axis in sweep.axes if axis.range is None]
    if sweep.options.search == "grid" and len(listed) <= 2:
        return [_crossed(title, listed, rows)]
    panels: list[Panel | Scatter] = [_effect(title, axis, rows) for axis in listed]
    panels += [_scatter(title, axis, rows) for axis in sweep.axes if axis.range is not None]
    return panels


def _crossed(title: str, axes: Sequence[Axis], rows: Sequence[Row]) -> Panel:
    """The axis with more values from top to bottom, the other one in colours."""
    main, *others = sorted(axes, key=lambda axis: -len(axis.choices))
    series = []
    for colour in others[0].choices if others else (None,):
        groups = []
        for choice in main.choices:
            wanted = {main.name: choice.label} | ({others[0].name: colour.label} if colour else {})
            own = [row for row in rows if wanted.items() <= row.values.items()]
            groups.append([row.outcome.value or 0.0 for row in own if row.outcome.ok])
        series.append((colour.label if colour else "", groups))
    values = [choice.label for choice in main.choices]
    return Panel(title, values, series, metric_of(rows), main.name, others[0].name if others else "")


def _effect(title: str, axis: Axis, rows: Sequence[Row]) -> Panel:
    found = effects(rows, axis.name)
    series = [("", [list(effect.by_seed.values()) for effect in found])]
    return Panel(title, [effect.value for effect in found], series, metric_of(rows), axis.name)


def _scatter(title: str, axis: Axis, rows: Sequence[Row]) -> Scatter:
    assert axis.range is not None
    points = [(float(row.values[axis.name]), row.outcome.value or 0.0) for row in rows if row.outcome.ok]
    return Scatter(title, axis.name, points, axis.range.log, metric_of(rows))
