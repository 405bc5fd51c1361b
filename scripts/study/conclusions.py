"""What the sweeps say, in plain words made from their tables."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence

from gpunet.models import MODELS
from gpunet.options import option_fields
from gpunet.sweep import Effect, Row, Sweep, effects
from gpunet.sweep.declaration import Axis, Trial, label_of
from gpunet.sweep.search import FixedSearch, search_of
from gpunet.sweep.summary import best_point, point_accuracy

RULE = (
    "All accuracies are those of the validation images, which are not the test images. A spread is the standard "
    "deviation over the seeds, with n - 1. A difference from the reference is called clear, and is bold, where "
    "Dunnett's test of all values against it (J. Am. Stat. Assoc. 50, 1955, p. 1096) gives less than 5 % for it to be "
    "chance. The test takes one spread for all values, and says nothing of other images, longer trainings or other "
    "settings; with two or three seeds it finds large differences only."
)
CLEAR = 0.05


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


def clear_differences(found: Sequence[Effect], reference: Effect) -> dict[str, bool] | None:
    """For each other value that could be trained, whether its mean is clearly not that of `reference`.

    None where no spread is known: no value has two seeds.
    """
    from scipy.stats import dunnett

    others = [effect for effect in found if effect.mean is not None and effect is not reference]
    samples = [list(effect.by_seed.values()) for effect in (reference, *others)]
    if all(len(sample) < 2 for sample in samples) or not others:
        return None
    if all(len(set(sample)) == 1 for sample in samples):  # no spread at all, where the test divides by zero
        return {effect.value: effect.mean != reference.mean for effect in others}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some value's seeds agree in all digits: its spread is 0
        p_values = dunnett(*samples[1:], control=samples[0], random_state=0).pvalue
    return {effect.value: bool(p < CLEAR) for effect, p in zip(others, p_values, strict=True)}


def write_conclusions(found: Sequence[tuple[Sweep, Sequence[Row]]]) -> str:
    """The page about all sweeps, as Markdown: the answers in short, then how each sweep was made and its numbers."""
    parts = [
        "# What the experiments say",
        "",
        "Written by `python -m scripts.study.gallery` from the tables beside this page.",
        "",
        RULE,
        "",
        "## In short",
    ]
    by_kind = {
        kind.label: [(sweep, rows) for sweep, rows in found if sweep.kind == kind.name] for kind in MODELS.values()
    }
    for name, own in by_kind.items():
        if own:
            parts += ["", f"{name}:", ""]
        parts += [f"- {_question(sweep)} {' '.join(answers(sweep, rows))}" for sweep, rows in own]
    for name, own in by_kind.items():
        if own:
            parts += ["", f"## {name}"]
        for sweep, rows in own:
            parts += ["", *section(sweep, rows)]
    return "\n".join(parts) + "\n"


def section(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """The lines about one sweep."""
    lines = [f"### {_question(sweep)}", "", _how(sweep)]
    expected: list[Trial] = []
    search = search_of(sweep) if sweep.options.search != "optuna" else None
    if isinstance(search, FixedSearch):
        expected = [trial for point in search.points for trial in sweep.trials(point)]
    missing = len(expected) - len(rows)
    if missing > 0:
        lines += ["", f"{missing} of its {len(expected)} trials have not been run yet."]
    if sweep.options.search == "grid":
        if len(sweep.axes) > 1:
            lines += ["", "Each axis averaged over the others:"]
        for axis in sweep.axes:
            lines += ["", *_axis_table(axis, *_effects_of(sweep, axis, rows))]
        if len(sweep.axes) == 2:
            lines += ["", "Both together:", "", *_crossed_table(sweep.axes[0], sweep.axes[1], rows)]
    for answer in answers(sweep, rows):
        lines += ["", answer]
    return lines


def answers(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """What one sweep says: of each axis, then of the best combination of several.

    Of two axes, the one with more values is judged at each value of the other, as means over the other hide what the
    one changes in the other's effect.
    """
    said = []
    if sweep.options.search != "grid":
        pass
    elif len(sweep.axes) == 1:
        said.append(_answer(*_effects_of(sweep, sweep.axes[0], rows)))
    elif len(sweep.axes) == 2:
        fewer, more = sorted(sweep.axes, key=lambda axis: len(axis.choices))
        for choice in fewer.choices:
            part = [row for row in rows if row.values[fewer.name] == choice.label]
            if part:
                found = _answer(*_effects_of(sweep, more, part))
                said.append(f"With {fewer.name} {choice.label}, {more.name}: {found}")
        said.append(f"{fewer.name}, averaged over {more.name}: {_answer(*_effects_of(sweep, fewer, rows))}")
    else:
        said += [
            f"{axis.name}, averaged over the others: {_answer(*_effects_of(sweep, axis, rows))}" for axis in sweep.axes
        ]
    best = best_point(rows)
    if best and (len(sweep.axes) > 1 or sweep.options.search != "grid"):
        values = ", ".join(f"{axis} {value}" for axis, value in best[0].values.items())
        said.append(f"The best combination was {values}: {_percent(point_accuracy(best))} over {_seeds(len(best))}.")
    return said


def _question(sweep: Sweep) -> str:
    return sweep.options.question or f"{sweep.name}:"


def _how(sweep: Sweep) -> str:
    config = sweep.base()
    seeds = _seeds(len(sweep.options.seeds))
    images = f"{config.data.train_images:,}" if config.data.train_images else "all"
    epochs = f"{config.training.epochs} epoch{'s' if config.training.epochs != 1 else ''}"
    if config.hybrid is not None:
        epochs += f" of the CNN and {config.hybrid.classifier_epochs} of the MLP"
    base = f"preset {sweep.preset}, {epochs}, {images} training images, {seeds}"
    return f"Table: [{sweep.name}.csv]({sweep.name}.csv), figure: [{sweep.name}.png]({sweep.name}.png). Base: {base}."


def _effects_of(sweep: Sweep, axis: Axis, rows: Sequence[Row]) -> tuple[list[Effect], Effect | None]:
    """The values of `axis`, and of them the reference, if it could be trained."""
    found = effects(rows, axis.name)
    label = reference_label(sweep, axis)
    return found, next((effect for effect in found if effect.value == label and effect.mean is not None), None)


def _axis_table(axis: Axis, found: Sequence[Effect], reference: Effect | None) -> list[str]:
    clear = clear_differences(found, reference) if reference is not None else None
    lines = [f"| {axis.name} | mean (%) | spread | seeds | difference (points) |", "|---|---|---|---|---|"]
    for effect in found:
        if effect.mean is None:
            lines.append(f"| {effect.value} | failed | | | |")
            continue
        spread = "" if effect.std is None else f"{100 * effect.std:.2f}"
        difference = ""
        if effect is reference:
            difference = "reference"
        elif reference is not None:
            difference = _difference(effect, reference)
            if clear and clear[effect.value]:
                difference = f"**{difference}**"
        failed = f" ({effect.failed} failed)" if effect.failed else ""
        lines.append(f"| {effect.value}{failed} | {100 * effect.mean:.2f} | {spread} | {effect.seeds} | {difference} |")
    return lines


def _crossed_table(down: Axis, across: Axis, rows: Sequence[Row]) -> list[str]:
    """The mean of each pair of values, in percent, and its spread."""
    columns = [choice.label for choice in across.choices]
    lines = [
        f"| {down.name} | {' | '.join(f'{across.name} {column}' for column in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for choice in down.choices:
        cells = []
        for column in columns:
            own = [row for row in rows if (row.values[down.name], row.values[across.name]) == (choice.label, column)]
            accuracies = [row.outcome.validation_accuracy for row in own if row.outcome.ok]
            known = [accuracy for accuracy in accuracies if accuracy is not None]
            cell = f"{100 * statistics.fmean(known):.2f}" if known else ("failed" if own else "")
            cells.append(cell + (f" +- {100 * statistics.stdev(known):.2f}" if len(known) > 1 else ""))
        lines.append(f"| {choice.label} | {' | '.join(cells)} |")
    return lines


def _answer(found: Sequence[Effect], reference: Effect | None) -> str:
    trained = [effect for effect in found if effect.mean is not None]
    failed = [effect.value for effect in found if effect.mean is None]
    lost = [f"It could not be trained with {', '.join(failed)}."] if failed else []
    if not trained:
        return " ".join(lost)
    best = max(trained, key=lambda effect: effect.mean or 0.0)
    parts = [
        f"Highest: **{best.value}**, {_percent(best.mean or 0.0)}" + (", the reference." if best is reference else ".")
    ]
    if reference is not None and len(trained) > 1:
        clear = clear_differences(trained, reference)
        others = [effect for effect in trained if effect is not reference]
        if clear is None:
            parts.append("With one seed, no difference can be called clear.")
        else:
            groups = {
                "Clearly better than": [e for e in others if clear[e.value] and _above(e, reference)],
                "Clearly worse than": [e for e in others if clear[e.value] and not _above(e, reference)],
                "No clear difference from": [e for e in others if not clear[e.value]],
            }
            for words, group in groups.items():
                if group:
                    listed = "; ".join(f"{e.value} ({_difference(e, reference)})" for e in group)
                    parts.append(f"{words} {reference.axis} {reference.value}: {listed}.")
    return " ".join(parts + lost)


def _above(effect: Effect, reference: Effect) -> bool:
    return (effect.mean or 0.0) > (reference.mean or 0.0)


def _difference(effect: Effect, reference: Effect) -> str:
    return f"{100 * ((effect.mean or 0.0) - (reference.mean or 0.0)):+.2f}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count != 1 else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
