"""Command-line flags generated from the options declared in dataclasses."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gpunet.cli.parser import Parser, UsageError
from gpunet.errors import ConfigError
from gpunet.experiments.config import belongs_to_others, merge, sections
from gpunet.options import Options, check_entry, option_fields, option_type

_TITLES = {
    "model": "model",
    "data": "data",
    "training": "training",
    "hybrid": "training of the hybrid's MLP, and joint training",
}
_PREFIX = "option."
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def add_flags(parser: Parser, kind: str) -> None:
    """Add a flag to `parser` for every option of the model `kind`, one group per section."""
    defaults = merge(kind)
    for section, owner in sections(kind).items():
        group = parser.add_argument_group(_TITLES[section])
        for name in option_fields(owner):
            add_flag(group, owner, name, getattr(getattr(defaults, section), name))
    parser.explain_unknown = lambda flag: belongs_to_others(flag.removeprefix("--").replace("-", "_"), kind)


def add_flag(group: Any, owner: type[Options], name: str, default: Any) -> None:
    """Add the flag of the option `name` of the dataclass `owner` to an argparse group."""
    flag = "--" + name.replace("_", "-")
    field, kind = option_fields(owner)[name], option_type(owner, name)
    settings: dict[str, Any] = {
        "dest": _PREFIX + name,
        "help": f"{field.metadata['help']} (default: {_shown(default)})".replace("%", "%%"),
    }
    if kind.base is bool:
        settings["action"] = argparse.BooleanOptionalAction
    else:
        choices = field.metadata["choices"]
        settings["metavar"] = f"{{{','.join(map(str, choices))}}}" if choices else _METAVARS[kind.base]
        settings["type"] = _reader(owner, name, flag)
    if kind.many:
        settings["nargs"] = "*"
    group.add_argument(flag, **settings)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options given on the command line, by name."""
    return {name.removeprefix(_PREFIX): value for name, value in vars(args).items() if name.startswith(_PREFIX)}


def _reader(owner: type[Options], name: str, flag: str) -> Callable[[str], Any]:
    kind = option_type(owner, name)

    def read(text: str) -> Any:
        try:
            value = kind.base(text)
        except ValueError:
            expected = "a whole number" if kind.base is int else "a number"
            raise UsageError(f"{flag} must be {expected}, got {text!r:.80}") from None
        try:
            return check_entry(owner, name, value, flag)
        except ConfigError as error:
            raise UsageError(str(error)) from None

    return read


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)
