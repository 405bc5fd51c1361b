"""The comparison of several runs, as a self-contained HTML page."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpunet.models import MODELS
from gpunet.report.canvas import drawing
from gpunet.report.charts import History, draw_compared, least_loss
from gpunet.report.html import interval, render
from gpunet.report.metrics import mcnemar
from gpunet.report.run_record import RunRecord, SplitResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUANTITIES = ("validation_accuracy", "validation_loss", "train_loss")


def comparison(
    runs: Sequence[tuple[RunRecord, SplitResult | None]], *, split: str, warnings: Sequence[str] = ()
) -> str:
    """The page that compares runs: a table, their curves, and McNemar's test for each pair.

    Args:
        runs: the record of each folder, and the results of its model on `split`; None if they are not available.
        split: ``validation`` or ``test``.
        warnings: sentences to show at the top of the page.
    """
    from markupsafe import Markup

    from gpunet import __version__

    names = _names([facts for facts, _ in runs])
    drawn = [(name, facts.history) for name, (facts, _) in zip(names, runs, strict=True) if facts.history]
    train, remark = _train_losses([(name, *run) for name, run in zip(names, runs, strict=True) if run[0].history])

    def draw(quantity: str, figure: Figure) -> None:
        if quantity == "train_loss":
            draw_compared(train, quantity, figure.subplots(), remark=remark)
        else:
            draw_compared(drawn, quantity, figure.subplots())

    curves = [
        Markup(
            drawing(
                functools.partial(draw, quantity),
                3.7,
                2.6,
                name=quantity.replace("_", "-"),
                description=f"{quantity.replace('_', ' ').capitalize()} of the runs over the epochs",
            )
        )
        for quantity in (_QUANTITIES if drawn else ())
    ]
    rows = [_row(name, facts, result) for name, (facts, result) in zip(names, runs, strict=True)]
    return render(
        "comparison.html",
        runs=rows,
        options=differing_options([facts for facts, _ in runs]),
        curves=curves,
        legend=[name for name, _ in drawn],
        pairs=_pairs(names, [result for _, result in runs]),
        split=split,
        warnings=warnings,
        version=__version__,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )


def differing_options(runs: Sequence[RunRecord]) -> list[str]:
    """The names of the options that differ between runs; an option that a model lacks counts as different."""
    options = [facts.options for facts in runs]
    names = dict.fromkeys(name for found in options for name in found if name != "kind")
    return [name for name in names if any(found.get(name) != options[0].get(name) for found in options)]


def _train_losses(
    runs: Sequence[tuple[str, RunRecord, SplitResult | None]],
) -> tuple[list[tuple[str, History]], str]:
    """The histories, with the train losses less what label smoothing adds to them at least, and a remark on that.

    If that is not known for one of the runs it is subtracted for none.
    """
    smoothings = [float(facts.options.get("label_smoothing", 0.0)) for _, facts, _ in runs]
    if not any(smoothings):
        return [(name, facts.history) for name, facts, _ in runs], ""
    if any(result is None or facts.options.get("class_weights", "none") != "none" for _, facts, result in runs):
        return [(name, facts.history) for name, facts, _ in runs], " (with label smoothing)"
    changed: list[tuple[str, History]] = []
    for (name, facts, result), smoothing in zip(runs, smoothings, strict=True):
        assert result is not None
        least = least_loss(smoothing, result.dataset.classes)
        changed.append((name, [{**row, "train_loss": row["train_loss"] - least} for row in facts.history]))
    return changed, " - least possible"


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """The names of the folders, or their paths if several have the same name."""
    names = [facts.name for facts in runs]
    return [str(facts.folder) if names.count(facts.name) > 1 else facts.name for facts in runs]


def _row(name: str, facts: RunRecord, result: SplitResult | None) -> dict[str, Any]:
    recorded = facts.result or {}
    accuracies: dict[str, dict[str, Any] | None] = {"validation": None, "test": None}
    if facts.best_validation is not None:
        accuracies["validation"] = {"share": facts.best_validation, "interval": None}
    if recorded:
        accuracies["test"] = _accuracy(recorded["test_correct"], recorded["test_total"])
    if result is not None:
        accuracies[result.split] = _accuracy(result.correct, result.total)
    return {
        "name": name,
        "model": MODELS[facts.kind].label,
        "parameters": facts.parameters,
        **accuracies,
        "loss": None if result is None else result.loss,
        "epochs": len(facts.history),
        "seconds": facts.seconds,
        "options": facts.options,
    }


def _accuracy(correct: int, total: int) -> dict[str, Any]:
    return {"share": correct / total, "interval": interval(correct, total)}


def _pairs(names: Sequence[str], results: Sequence[SplitResult | None]) -> list[dict[str, Any]]:
    """McNemar's test for each pair of runs evaluated on the same images."""
    known = [(name, result) for name, result in zip(names, results, strict=True) if result is not None]
    pairs = []
    for (first, one), (second, other) in itertools.combinations(known, 2):
        if same_images(one, other):
            test = mcnemar(one.right, other.right)
            difference = (test.only_first - test.only_second) / one.total
            pairs.append({"first": first, "second": second, "difference": difference, **vars(test)})
    return pairs


def same_images(one: SplitResult, other: SplitResult) -> bool:
    """Whether two results are of the same images in the same order."""
    return one.dataset.shows_the_same(other.dataset)
