"""What the sweeps say, in plain words made from their tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpunet.experiments.sweep import Effect, Row, Sweep, effects
from gpunet.experiments.sweep.declaration import Axis, Trial, label_of
from gpunet.experiments.sweep.search import FixedSearch, search_of
from gpunet.experiments.sweep.summary import best_point, point_accuracy
from gpunet.options import option_fields

KINDS = {"mlp": "MLP", "cnn": "CNN", "hybrid": "hybrid"}

RULE = (
    "All accuracies are those of the validation images, which are not the test images. A spread is the standard "
    "deviation over the seeds, with n - 1. A difference is clear where it is more than twice its standard error, "
    "sqrt(s1^2 / n1 + s2^2 / n2); with two or three seeds that is a rule of thumb and no proof, and says nothing of "
    "other images, longer trainings or other settings."
)


@dataclass(frozen=True)
class Comparison:
    """Two values of an axis: the difference of their means, `first` minus `second`, as a fraction."""

    first: Effect
    second: Effect

    @property
    def difference(self) -> float:
        assert self.first.mean is not None and self.second.mean is not None
        return self.first.mean - self.second.mean

    @property
    def standard_error(self) -> float | None:
        """None if a spread is not known."""
        if self.first.std is None or self.second.std is None:
            return None
        return math.sqrt(self.first.std**2 / self.first.seeds + self.second.std**2 / self.second.seeds)

    @property
    def clear(self) -> bool:
        error = self.standard_error
        return error is not None and abs(self.difference) > 2 * error


def reference_label(sweep: Sweep, axis: Axis) -> str:
    """The value of `axis` that the others are compared with: the base's where it is one of them, else the first."""
    base = sweep.base()
    settings = {}
    for section in ("model", "data", "training", "hybrid"):
        owner = getattr(base, section)
        if owner is not None:
            settings.update({name: getattr(owner, name) for name in option_fields(type(owner))})
    for choice in axis.choices:
        if all(label_of(settings[name]) == label_of(value) for name, value in choice.settings.items()):
            return choice.label
    return axis.choices[0].label


def write_conclusions(found: Sequence[tuple[Sweep, Sequence[Row]]]) -> str:
    """The page about all sweeps, as Markdown: how each was made, its numbers, and a sentence about each axis."""
    parts = [
        "# What the experiments say",
        "",
        "Written by `gpunet gallery` from the tables beside this page.",
        "",
        RULE,
    ]
    for kind, name in KINDS.items():
        own = [(sweep, rows) for sweep, rows in found if sweep.kind == kind]
        if own:
            parts += ["", f"## {name}"]
        for sweep, rows in own:
            parts += ["", *section(sweep, rows)]
    return "\n".join(parts) + "\n"


def section(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """The lines about one sweep."""
    lines = [f"### {sweep.options.question or sweep.name}", "", _how(sweep)]
    expected: list[Trial] = []
    search = search_of(sweep) if sweep.options.search != "optuna" else None
    if isinstance(search, FixedSearch):
        expected = [trial for point in search.points for trial in sweep.trials(point)]
    missing = len(expected) - len(rows)
    if missing > 0:
        lines += ["", f"{missing} of its {len(expected)} trials have not been run yet."]
    if sweep.options.search == "grid":
        for axis in sweep.axes:
            lines += ["", *_axis_lines(sweep, axis, rows)]
    best = best_point(rows)
    if best and (len(sweep.axes) > 1 or sweep.options.search != "grid"):
        values = ", ".join(f"{axis} {value}" for axis, value in best[0].values.items())
        lines += ["", f"The best combination was {values}: {_percent(point_accuracy(best))} over {_seeds(len(best))}."]
    return lines


def _how(sweep: Sweep) -> str:
    config = sweep.base()
    seeds = _seeds(len(sweep.options.seeds))
    images = f"{config.data.train_images:,}" if config.data.train_images else "all"
    epochs = f"{config.training.epochs} epoch{'s' if config.training.epochs != 1 else ''}"
    if config.hybrid is not None:
        epochs += f" of the CNN and {config.hybrid.classifier_epochs} of the MLP"
    base = f"preset {sweep.preset}, {epochs}, {images} training images, {seeds}"
    return f"Table: [{sweep.name}.csv]({sweep.name}.csv), figure: [{sweep.name}.png]({sweep.name}.png). Base: {base}."


def _axis_lines(sweep: Sweep, axis: Axis, rows: Sequence[Row]) -> list[str]:
    found = effects(rows, axis.name)
    reference = next((effect for effect in found if effect.value == reference_label(sweep, axis)), None)
    lines = [
        f"| {axis.name} | mean (%) | spread | seeds | difference (points) |",
        "|---|---|---|---|---|",
        *(_table_row(effect, reference) for effect in found),
    ]
    sentence = _sentence(axis, found, reference)
    return [*lines, "", sentence] if sentence else lines


def _table_row(effect: Effect, reference: Effect | None) -> str:
    if effect.mean is None:
        return f"| {effect.value} | failed | | | |"
    spread = "" if effect.std is None else f"{100 * effect.std:.2f}"
    difference = ""
    if effect is reference:
        difference = "reference"
    elif reference is not None and reference.mean is not None:
        difference = f"{100 * (effect.mean - reference.mean):+.2f}"
    failed = f" ({effect.failed} failed)" if effect.failed else ""
    return f"| {effect.value}{failed} | {100 * effect.mean:.2f} | {spread} | {effect.seeds} | {difference} |"


def _sentence(axis: Axis, found: Sequence[Effect], reference: Effect | None) -> str:
    trained = [effect for effect in found if effect.mean is not None]
    failed = [effect.value for effect in found if effect.mean is None]
    lost = f" It could not be trained with {axis.name} {', '.join(failed)}." if failed else ""
    if not trained:
        return lost.strip()
    if len(trained) == 1:
        return f"Only {axis.name} {trained[0].value} has results." + lost
    best, second, *_ = sorted(trained, key=lambda effect: -(effect.mean or 0.0))
    other = reference if reference is not None and reference.mean is not None and reference is not best else second
    comparison = Comparison(best, other)
    role = "the reference" if other is reference else "the next best"
    text = (
        f"Best: {axis.name} **{best.value}**, {_percent(best.mean or 0.0)}, {100 * comparison.difference:.2f} points "
        f"more than {role}, {other.value}; "
    )
    if comparison.standard_error is None:
        text += "with one seed, its spread is not known."
    elif comparison.clear:
        text += f"spreads {_spread(best)} and {_spread(other)} over {_seeds(best.seeds)}: a clear difference."
    else:
        text += f"spreads {_spread(best)} and {_spread(other)} over {_seeds(best.seeds)}: no clear difference."
    return text + lost


def _spread(effect: Effect) -> str:
    return f"{100 * (effect.std or 0.0):.2f}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count != 1 else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
