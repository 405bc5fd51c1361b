"""Construction by name, with those of many options that a class takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from gpunet.errors import ConfigError

T = TypeVar("T")


def look_up(what: str, name: str, registry: Mapping[str, type[T]]) -> type[T]:
    """The class called `name`.

    Raises:
        ConfigError: there is none; the message lists the names of the `registry`.
    """
    if name not in registry:
        raise ConfigError(f"unknown {what} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]


def select(what: str, name: str, arguments: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the class called `name`: `arguments` maps the options that it takes to their names.

    Raises:
        ConfigError: an option is not given.
    """
    for option in arguments:
        if option not in options:
            raise ConfigError(f"the {what} {name} needs the option {option}, which was not given")
    return {argument: options[option] for option, argument in arguments.items()}
