"""The report of one run that predicts numbers or several labels, as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.report.canvas import drawing
from gpunet.report.charts import draw_curves, draw_durations, draw_rate, monitored
from gpunet.report.html import render
from gpunet.report.run_record import RunRecord, SplitResult
from gpunet.report.run_report import about, headline
from gpunet.report.target_figures import MOST_TARGETS, draw_predicted, draw_residuals, label_rows, target_rows
from gpunet.tasks import REGRESSION
from gpunet.training.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def target_report(facts: RunRecord, result: SplitResult, scores: Mapping[str, float], *, layers: str) -> str:
    """The page of one run.

    Args:
        facts: the contents of the run folder.
        result: what its model predicts on one split: numbers, or probabilities of labels.
        scores: the metrics of that split.
        layers: the table of the model's layers.
    """
    from markupsafe import Markup

    def chart(name: str, description: str, draw: Any, *arguments: Any) -> Markup:
        def on(figure: Figure) -> None:
            draw(*arguments, figure.subplots())

        return Markup(drawing(on, 3.7, 2.6, name=name, description=description))

    history, dataset = facts.history, result.dataset
    curves = []
    if history:
        metric = monitored(history)
        curves = [
            chart("loss", "Loss over the epochs", draw_curves, history, "loss"),
            chart("metric", f"{metric} over the epochs", draw_curves, history, metric),
            chart("rate", "Learning rate over the epochs", draw_rate, history),
        ]
    charts = []
    if dataset.task == REGRESSION:
        for column, name in enumerate(dataset.class_names[:MOST_TARGETS]):
            values = dataset.labels[:, column], result.probabilities[:, column], name
            charts += [
                chart(f"predicted{column}", f"{name}: predicted over true values", draw_predicted, *values),
                chart(f"residuals{column}", f"{name}: histogram of the errors", draw_residuals, *values),
            ]
    recorded = [
        (name.removeprefix("test_"), _text(name.removeprefix("test_"), value))
        for name, value in (facts.result or {}).items()
        if name.removeprefix("test_") in METRICS
    ]
    return render(
        "targets.html",
        facts=facts,
        result=result,
        **headline(facts),
        scores=[(name, _text(name, score)) for name, score in scores.items()],
        recorded=[] if result.split == "test" else recorded,
        curves=curves,
        charts=charts,
        **_table(result),
        **about(facts, chart("seconds", "Seconds per epoch", draw_durations, history) if history else "", layers),
        measured=[name.removeprefix("validation_") for name in (history[0] if history else {}) if _is_measured(name)],
    )


def _is_measured(name: str) -> bool:
    return name.startswith("validation_") and name != "validation_loss"


def _text(name: str, score: float) -> str:
    return METRICS[name]().text(score) if name in METRICS else f"{score:.4g}"


def _table(result: SplitResult) -> dict[str, Any]:
    """One row for each target or label: (text, value to sort by) of each cell."""
    dataset = result.dataset
    if dataset.task == REGRESSION:
        found = target_rows(dataset.labels, np.asarray(result.probabilities), dataset.class_names)
        rows = [[(row.name, row.name), *((f"{value:.4g}", value) for value in row[1:])] for row in found]
        columns = ["Target", "R2", "RMSE", "MAE", "Bias", "Mean", "Deviation"]
        return {"heading": "Errors of each target", "columns": columns, "rows": rows}
    rows = [
        [
            (dataset.class_names[row.label], row.label),
            *((f"{100 * value:.1f} %", value) for value in (row.precision, row.recall, row.f1)),
            (f"{row.support:,}", row.support),
        ]
        for row in label_rows(dataset.labels, result.probabilities > 0.5)
    ]
    return {"heading": "Labels", "columns": ["Label", "Precision", "Recall", "F1", "Rows"], "rows": rows}
