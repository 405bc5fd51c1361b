"""All settings of a run: declared in dataclasses, read from presets, a TOML file and the command line.

The file has one table per section; ``kind`` names the model. All keys are optional::

    [model]
    kind = "cnn"
    filters = [32, 64, 128]

    [data]
    flip = true

    [training]
    epochs = 20

``[hybrid]`` is for the hybrid only. Option names are unique across sections, so presets and the command line use them
without the section.
"""

from __future__ import annotations

import codecs
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpunet.data.config import DataConfig
from gpunet.errors import ConfigError
from gpunet.experiments.presets import PRESETS
from gpunet.files import PathLike, read_regular
from gpunet.models import MODELS, CNNConfig, HybridConfig
from gpunet.models.registry import kind_of
from gpunet.options import Options, check_option, did_you_mean, option_fields, option_values
from gpunet.training.config import HybridTrainingConfig, TrainingConfig

LARGEST_FILE = 2**20
"""Bytes of a configuration file; those that are written by hand have a few thousand."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run.

    Raises:
        ConfigError: `hybrid` is given for a model other than the hybrid.

    >>> from gpunet.experiments.config import RunConfig
    >>> config = RunConfig(gn.models.MLPConfig(hidden=(32,)), training=gn.training.TrainingConfig(epochs=3))
    >>> config.kind, config.model.hidden, config.training.epochs, config.data.data
    ('mlp', (32,), 3, 'fashion-mnist')
    """

    model: Options
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hybrid: HybridTrainingConfig | None = None
    """How the hybrid's MLP is trained; ``None`` for the other models, never for the hybrid."""

    def __post_init__(self) -> None:
        if isinstance(self.model, HybridConfig):
            if self.hybrid is None:
                object.__setattr__(self, "hybrid", HybridTrainingConfig())
        elif self.hybrid is not None:
            raise ConfigError(f"the section 'hybrid' is only for the hybrid, but the model is {_article(self.kind)}")

    @property
    def kind(self) -> str:
        """The name of the model in :data:`gpunet.models.MODELS`, such as ``mlp``."""
        return kind_of(self.model).name

    def cnn(self) -> RunConfig | None:
        """For a hybrid, the configuration of its first stage, a run of the CNN alone; None for other models."""
        if not isinstance(self.model, HybridConfig):
            return None
        model = CNNConfig(**{name: getattr(self.model, name) for name in option_fields(CNNConfig)})
        return RunConfig(model, self.data, self.training)


def sections(kind: str) -> dict[str, type[Options]]:
    """The sections of the model `kind` and the dataclass behind each, in the order of the file.

    Raises:
        ConfigError: no such model.
    """
    if kind not in MODELS:
        hint = did_you_mean(str(kind), MODELS)
        raise ConfigError(f"unknown model {kind!r}: expected {', '.join(MODELS)}{hint}")
    found: dict[str, type[Options]] = {"model": MODELS[kind].config, "data": DataConfig, "training": TrainingConfig}
    return {**found, "hybrid": HybridTrainingConfig} if MODELS[kind].config is HybridConfig else found


def section_of(name: str, kind: str) -> str | None:
    """The section of the option `name` of the model `kind`; None if it has no such option."""
    return next((section for section, owner in sections(kind).items() if name in option_fields(owner)), None)


def merge(
    kind: str | None = None,
    preset: str | None = None,
    toml: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    source: str = "configuration",
) -> RunConfig:
    """The settings of a run: the defaults, overridden by the preset, then the file, then `overrides`.

    Args:
        kind: a name in :data:`gpunet.models.MODELS`; if None, the file must name the model.
        preset: a name in :data:`~gpunet.experiments.presets.PRESETS`; if None, ``default``.
        toml: the content of a file, as :func:`load_toml` returns it: section -> option -> value.
        overrides: option -> value, such as from the command line.
        source: the name of the file in error messages.

    Raises:
        ConfigError: an option is unknown, misplaced, of the wrong type or out of bounds, or no model is named.

    >>> from gpunet.experiments.config import merge
    >>> config = merge("mlp", "quick", toml={"training": {"epochs": 3}}, overrides={"hidden": [32]})
    >>> config.model.hidden, config.training.epochs
    ((32,), 3)
    >>> merge("mlp", overrides={"hiden": [32]})
    Traceback (most recent call last):
    ...
    gpunet.errors.ConfigError: unknown option 'hiden' (did you mean 'hidden'?)
    """
    toml = toml or {}
    kind = _kind(kind, toml, source)
    owners = sections(kind)
    values: dict[str, dict[str, Any]] = {section: {} for section in owners}
    _apply_flat(_preset(preset or "default", kind), kind, values)
    _apply_file(toml, kind, source, values)
    _apply_flat(overrides or {}, kind, values)
    built: dict[str, Any] = {section: owner(**values[section]) for section, owner in owners.items()}
    return RunConfig(**built)


def load_toml(path: PathLike) -> dict[str, Any]:
    """The content of a TOML file, which may begin with a UTF-8 byte-order mark.

    Raises:
        ConfigError: it cannot be read or is not TOML; the message names the line.

    >>> from pathlib import Path
    >>> from gpunet.experiments.config import load_toml
    >>> size = Path("run.toml").write_text("training.epochs = 3")
    >>> load_toml(Path("run.toml"))
    {'training': {'epochs': 3}}
    """
    return parse_toml(read_toml(path), str(path))


def read_toml(path: PathLike) -> str:
    """The text of a TOML file, a regular file of at most 1 MiB.

    Raises:
        ConfigError: it cannot be read, is larger, or is not UTF-8.
    """
    try:
        data = read_regular(path, limit=LARGEST_FILE)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ConfigError(f"{path} is encoded as UTF-16, but TOML must be UTF-8: save it as UTF-8")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The content of the TOML `text`; `source` names it in messages.

    Raises:
        ConfigError: it is not TOML; the message names the line.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib's own error, a number of 5000 digits
        raise ConfigError(f"{source} is not valid TOML: {error}") from error


def load(path: PathLike) -> RunConfig:
    """The configuration in a TOML file that names its model, such as a run folder's ``config.toml``.

    Raises: as :func:`load_toml` and :func:`merge`.

    >>> from pathlib import Path
    >>> from gpunet.experiments.config import load, merge, to_toml
    >>> size = Path("run.toml").write_text(to_toml(merge("mlp", overrides={"epochs": 3})))
    >>> load(Path("run.toml")).training.epochs
    3
    """
    return merge(toml=load_toml(path), source=str(path))


def from_toml(text: str, source: str = "configuration") -> RunConfig:
    """The configuration in TOML text; the inverse of :func:`to_toml`.

    Raises: as :func:`merge`, or ConfigError if `text` is not TOML.

    >>> from gpunet.experiments.config import from_toml, merge, to_toml
    >>> config = merge("mlp", overrides={"hidden": [32]})
    >>> from_toml(to_toml(config)) == config
    True
    """
    return merge(toml=parse_toml(text, source), source=source)


def to_dict(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Section -> option -> value, with every option written out, in plain JSON and TOML types (see ``written`` of
    :func:`gpunet.options.option`)."""
    document: dict[str, dict[str, Any]] = {}
    for section in sections(config.kind):
        document[section] = option_values(getattr(config, section))
        for name, value in document[section].items():
            if isinstance(value, tuple):
                document[section][name] = list(value)
    return {**document, "model": {"kind": config.kind, **document["model"]}}


def to_toml(config: RunConfig) -> str:
    """`config` as TOML text with every option written out, so that changes of the defaults do not affect it.

    >>> from gpunet.experiments.config import merge, to_toml
    >>> print(to_toml(merge("mlp", overrides={"hidden": [32]})))
    [model]
    kind = "mlp"
    hidden = [32]
    ...
    """
    tables = (
        "\n".join([f"[{section}]", *(f"{name} = {_toml_value(value)}" for name, value in options.items())])
        for section, options in to_dict(config).items()
    )
    return "\n\n".join(tables) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):  # as in JSON, but for one more control character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def belongs_to_others(name: str, kind: str) -> str:
    """The end of an error message, if `name` is an option of other models but not of `kind`; else empty."""
    others = [_article(other) for other in MODELS if other != kind and section_of(name, other)]
    return f": it is an option of {' and '.join(others)}, not of {_article(kind)}" if others else ""


def _explain_unknown(name: str, kind: str) -> str:
    known = [option for owner in sections(kind).values() for option in option_fields(owner)]
    return belongs_to_others(name, kind) or did_you_mean(name, known)


def _kind(kind: str | None, toml: Mapping[str, Any], source: str) -> str:
    table = toml.get("model")
    named = table.get("kind") if isinstance(table, Mapping) else None
    if named is not None and (not isinstance(named, str) or named not in MODELS):
        hint = did_you_mean(str(named), MODELS)
        raise ConfigError(f"{source}: [model] kind must be one of {', '.join(MODELS)}; got {named!r}{hint}")
    if kind and named and kind != named:
        raise ConfigError(f"{source} configures {_article(named)}, but {_article(kind)} was requested")
    if not kind and not named:
        raise ConfigError(f"no model given: expected {', '.join(MODELS)}, or kind in [model] of the configuration")
    return kind or str(named)


def _preset(name: str, kind: str) -> Mapping[str, Any]:
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}: expected {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    return PRESETS[name].get(kind, {})


def _apply_flat(layer: Mapping[str, Any], kind: str, values: dict[str, dict[str, Any]]) -> None:
    for name, value in layer.items():
        section = section_of(name, kind)
        if section is None:
            raise ConfigError(f"unknown option {name!r}{_explain_unknown(name, kind)}")
        values[section][name] = check_option(sections(kind)[section], name, value)


def _apply_file(toml: Mapping[str, Any], kind: str, source: str, values: dict[str, dict[str, Any]]) -> None:
    owners = sections(kind)
    for section, table in toml.items():
        if section not in owners:
            raise ConfigError(f"{source}: {_unknown_section(section, kind)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"{source}: {section} must be a table, [{section}], got {section} = {table!r}")
        for name, value in table.items():
            if section == "model" and name == "kind":
                continue
            if name not in option_fields(owners[section]):
                raise ConfigError(f"{source}: [{section}] has no option {name!r}{_hint(name, section, kind)}")
            label = f"{source}: [{section}] {name}"
            values[section][name] = check_option(owners[section], name, value, label)


def _unknown_section(section: str, kind: str) -> str:
    if section == "kind":
        return "kind is outside of all sections; move it to [model]"
    if section in MODELS and section != "hybrid":
        return f'unknown section [{section}]; a model\'s options belong in [model], with kind = "{section}"'
    if section in sections("hybrid"):
        return f"the section [{section}] is only for the hybrid, not for {_article(kind)}"
    home = section_of(section, kind)
    if home is not None:
        return f"the option {section!r} is outside of all sections; move it to [{home}]"
    return f"unknown section or key {section!r}: expected {', '.join(f'[{known}]' for known in sections(kind))}" + (
        did_you_mean(section, sections(kind)) or _explain_unknown(section, kind)
    )


def _hint(name: str, section: str, kind: str) -> str:
    home = section_of(name, kind)
    if home is not None:
        return f"; move it to [{home}]"
    return did_you_mean(name, option_fields(sections(kind)[section])) or _explain_unknown(name, kind)


def _article(kind: str) -> str:
    return MODELS[kind].with_article
