"""The declaration of a sweep in a TOML file: what is fixed, what varies, and how the points are chosen.

::

    [sweep]
    question = "Which activation suits the MLP?"
    seeds = [0, 1, 2]            # each point is trained with each seed

    [base]                       # kind, preset, and any options of a run by name
    kind = "mlp"
    preset = "default"
    epochs = 20

    [axes]
    activation = ["relu", "gelu", "tanh"]      # an option and its values, or
    schedule = [                               # a name, and groups of settings
        { name = "constant", schedule = "constant", lr = 1e-3 },
        { name = "one cycle", schedule = "one_cycle" },
    ]

``search = "grid"`` (the default) trains every combination; ``"random"`` and ``"optuna"`` choose ``points`` of them, and
an axis may then be a range as well: ``lr = { low = 1e-3, high = 1e-1, log = true }``. A sweep has at most 10,000
trials: points times seeds.

The objective is the validation accuracy. With ``evaluate_test = true`` the point with the best mean is evaluated once
on the test images, after the end of the sweep; a sweep uses them for nothing else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpunet.errors import ConfigError
from gpunet.experiments.config import RunConfig, merge, parse_toml, read_toml, section_of, sections, to_toml
from gpunet.files import PathLike
from gpunet.options import Options, check_option, did_you_mean, option, option_fields, option_type

SEARCHES = ("grid", "random", "optuna")
LARGEST_SWEEP = 10_000
"""Trials of a sweep: many more than can be trained, few enough that declaring them costs no memory."""
_OWN = ("kind", "preset")
_TABLE_COLUMNS = ("trial", "status", "validation_accuracy", "validation_loss", "chosen_epoch", "stage", "parameters")


@dataclass(frozen=True)
class SweepOptions(Options):
    """The section ``[sweep]``."""

    question: str = option("", "the question to answer, in a sentence")
    search: str = option("grid", "how the points are chosen", choices=SEARCHES)
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds to train each point with", low=0, high=2**32 - 1)
    points: int = option(20, "random, optuna: number of points", low=1)
    batch: int = option(4, "optuna: points proposed at a time, given the results of all earlier ones", low=1)
    search_seed: int = option(0, "random, optuna: seed for choosing the points", low=0, high=2**32 - 1)
    evaluate_test: bool = option(False, "evaluate the best point on the test images, once, after the end")


@dataclass(frozen=True)
class Choice:
    """One value of an axis: its label in tables, and its settings.

    >>> from gpunet.sweep import Choice
    >>> Choice("wide and regular", {"hidden": [512], "dropout": 0.5}).label
    'wide and regular'
    """

    label: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; uniform on a logarithmic scale if `log`.

    >>> from gpunet.sweep import Range
    >>> Range(1e-4, 1e-1, log=True)
    Range(low=0.0001, high=0.1, log=True, whole=False)
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Axis:
    """One thing that varies: either `choices`, or the values of the option `name` in `range`.

    >>> from gpunet.sweep import Axis
    >>> axis = Axis("dropout")
    >>> axis.choice(0.2)
    Choice(label='0.2', settings={'dropout': 0.2})
    """

    name: str
    choices: tuple[Choice, ...] = ()
    range: Range | None = None

    def choice(self, value: Any) -> Choice:
        """The choice `value` for the option that the axis is named after."""
        return Choice(label_of(value), {self.name: value})


@dataclass(frozen=True)
class Point:
    """One choice for every axis."""

    choices: Mapping[str, Choice]
    """By name of the axis."""

    @property
    def labels(self) -> dict[str, str]:
        return {axis: choice.label for axis, choice in self.choices.items()}


@dataclass(frozen=True)
class Trial:
    """One training run: a point and a seed."""

    point: Point
    seed: int
    config: RunConfig | None
    """None if the settings are incompatible; `error` then says why."""
    error: str = ""

    @property
    def digest(self) -> str:
        """A hash of all settings: trials with equal digests are the same training run."""
        if self.config is None:
            return ""
        return hashlib.sha256(to_toml(self.config).encode()).hexdigest()[:12]

    @property
    def cnn_digest(self) -> str:
        """The same for a hybrid's CNN alone, which several hybrids may share; empty for other models."""
        cnn = self.config.cnn() if self.config else None
        return hashlib.sha256(to_toml(cnn).encode()).hexdigest()[:12] if cnn else ""

    @property
    def epochs(self) -> int:
        """Maximum number of epochs, over all stages of a hybrid."""
        if self.config is None:
            return 0
        hybrid = self.config.hybrid
        return self.config.training.epochs + (hybrid.classifier_epochs + hybrid.joint_epochs if hybrid else 0)


@dataclass(frozen=True)
class Sweep:
    """A declared sweep.

    >>> from gpunet.sweep import Axis, Sweep
    >>> dropout = Axis("dropout", tuple(map(Axis("dropout").choice, (0.0, 0.2))))
    >>> sweep = Sweep("dropout", "mlp", "default", {"epochs": 3}, (dropout,))
    >>> sweep.base().training.epochs
    3
    """

    name: str
    kind: str
    preset: str
    settings: Mapping[str, Any]
    """Of the base, option -> value, on top of the preset."""
    axes: tuple[Axis, ...]
    options: SweepOptions = field(default_factory=SweepOptions)
    text: str = ""
    """The content of the file."""

    def base(self) -> RunConfig:
        """The configuration that the points vary."""
        return merge(self.kind, self.preset, overrides=self.settings)

    def trials(self, point: Point) -> list[Trial]:
        """The trials of `point`, one per seed."""
        settings = {**self.settings}
        for choice in point.choices.values():
            settings.update(choice.settings)
        made = []
        for seed in self.options.seeds:
            try:
                made.append(Trial(point, seed, merge(self.kind, self.preset, overrides={**settings, "seed": seed})))
            except ConfigError as error:
                made.append(Trial(point, seed, None, str(error)))
        return made


def load_sweep(path: PathLike) -> Sweep:
    """The sweep in the TOML file at `path`, named after the file.

    Raises:
        ConfigError: not readable, not TOML, or an entry is unknown, misplaced, of the wrong type or out of bounds.

    >>> from pathlib import Path
    >>> from gpunet.sweep import load_sweep
    >>> lines = ["[base]", 'kind = "mlp"', "[axes]", 'activation = ["relu", "gelu"]', "dropout = [0.0, 0.2]"]
    >>> size = Path("activations.toml").write_text("\\n".join(lines))
    >>> sweep = load_sweep(Path("activations.toml"))
    >>> {axis.name: [choice.label for choice in axis.choices] for axis in sweep.axes}
    {'activation': ['relu', 'gelu'], 'dropout': ['0', '0.2']}
    """
    path = Path(path)
    text = read_toml(path)
    return replace(parse(parse_toml(text, str(path)), path.stem, source=str(path)), text=text)


def parse(document: Mapping[str, Any], name: str, *, source: str = "sweep") -> Sweep:
    """The sweep that `document`, the content of a file, declares.

    Raises: as :func:`load_sweep`.
    """
    known = ("sweep", "base", "axes")
    for section, table in document.items():
        if section not in known:
            hint = did_you_mean(section, known)
            raise ConfigError(f"{source}: unknown section or key {section!r}: expected [sweep], [base], [axes]{hint}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"{source}: {section} must be a table, [{section}], got {section} = {table!r}")
    options = _options(document.get("sweep", {}), source)
    kind, preset, settings = _base(document.get("base", {}), source)
    axes = tuple(_axis(axis, values, kind, options, source) for axis, values in document.get("axes", {}).items())
    if not axes:
        raise ConfigError(f"{source}: nothing varies: give at least one option and its values in [axes]")
    _check_overlap(axes, source)
    sweep = Sweep(name, kind, preset, settings, axes, options)
    _check_size(sweep, source)
    sweep.base()  # raises if the model or preset is unknown
    return sweep


def _check_size(sweep: Sweep, source: str) -> None:
    """Count the trials before any is made."""
    grid = sweep.options.search == "grid"
    points = math.prod(len(axis.choices) for axis in sweep.axes) if grid else sweep.options.points
    seeds = len(sweep.options.seeds)
    if points * seeds > LARGEST_SWEEP:
        advice = 'fewer values, or search = "random"' if grid else "fewer points"
        raise ConfigError(
            f"{source}: {points} points with {seeds} seeds are {points * seeds} trials, expected at most "
            f"{LARGEST_SWEEP}: give {advice}"
        )


def label_of(value: Any) -> str:
    """The label of a value in tables."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return "-".join(map(label_of, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _options(table: Mapping[str, Any], source: str) -> SweepOptions:
    known = option_fields(SweepOptions)
    values = {}
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"{source}: [sweep] has no option {name!r}{did_you_mean(name, known)}")
        values[name] = check_option(SweepOptions, name, value, f"{source}: [sweep] {name}")
    options = SweepOptions(**values)
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise ConfigError(f"{source}: [sweep] seeds must be distinct, and at least one; got {list(options.seeds)}")
    return options


def _base(table: Mapping[str, Any], source: str) -> tuple[str, str, dict[str, Any]]:
    kind, preset = table.get("kind"), table.get("preset", "default")
    if not isinstance(kind, str) or not isinstance(preset, str):
        raise ConfigError(f'{source}: [base] must name the model, such as kind = "mlp", and may name a preset')
    sections(kind)
    settings = {name: value for name, value in table.items() if name not in _OWN}
    return kind, preset, {name: _checked(name, value, kind, f"{source}: [base]") for name, value in settings.items()}


def _checked(name: str, value: Any, kind: str, where: str) -> Any:
    """`value` of the option `name`, or ConfigError."""
    if name == "seed":
        raise ConfigError(f"{where} cannot set the seed: give seeds = [...] in [sweep]")
    section = section_of(name, kind)
    if section is None:
        known = [option for owner in sections(kind).values() for option in option_fields(owner)]
        raise ConfigError(f"{where} has no option {name!r} of the model {kind}{did_you_mean(name, known)}")
    return check_option(sections(kind)[section], name, value, f"{where} {name}")


def _axis(name: str, values: Any, kind: str, options: SweepOptions, source: str) -> Axis:
    where = f"{source}: [axes] {name}"
    if name == "seed":
        raise ConfigError(f"{where}: the seeds are already an axis: give seeds = [...] in [sweep]")
    if name in _TABLE_COLUMNS:
        raise ConfigError(f"{where}: every table has a column of this name; give the axis another one")
    if isinstance(values, Mapping):
        return Axis(name, range=_range(name, values, kind, options, where))
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where} must be a list of values, got {values!r}")
    if any(isinstance(value, Mapping) for value in values):
        choices = tuple(_named(value, kind, where) for value in values)
    else:
        choices = tuple(Axis(name).choice(_checked(name, value, kind, f"{source}: [axes]")) for value in values)
    labels = [choice.label for choice in choices]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"{where} has a value twice: {', '.join(labels)}")
    return Axis(name, choices)


def _named(value: Any, kind: str, where: str) -> Choice:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ConfigError(f"{where}: each entry must be a table with a name and settings, got {value!r}")
    settings = {option: _checked(option, entry, kind, where) for option, entry in value.items() if option != "name"}
    return Choice(value["name"], settings)


def _range(name: str, table: Mapping[str, Any], kind: str, options: SweepOptions, where: str) -> Range:
    if options.search == "grid":
        raise ConfigError(f'{where}: a range needs search = "random" or "optuna"; a grid needs a list of values')
    if set(table) - {"low", "high", "log"} or not {"low", "high"} <= set(table):
        raise ConfigError(f"{where}: a range has low, high and optionally log, got {', '.join(table)}")
    low, high = (_checked(name, table[bound], kind, where) for bound in ("low", "high"))
    section = section_of(name, kind)
    assert section is not None
    base = option_type(sections(kind)[section], name)
    if base.many or base.base not in (int, float):
        raise ConfigError(f"{where}: only a numeric option can have a range")
    log = table.get("log", False)
    if not isinstance(log, bool) or not low < high or (log and low <= 0):
        raise ConfigError(f"{where}: expected low < high, and 0 < low with log = true; got {dict(table)!r}")
    return Range(low, high, log, base.base is int)


def _check_overlap(axes: tuple[Axis, ...], source: str) -> None:
    """Each option belongs to one axis only: a later axis would override an earlier one."""
    owners: dict[str, str] = {}
    for axis in axes:
        names = {name for choice in axis.choices for name in choice.settings} or {axis.name}
        for name in names:
            if name in owners:
                raise ConfigError(f"{source}: the axes {owners[name]} and {axis.name} both set {name}")
            owners[name] = axis.name
