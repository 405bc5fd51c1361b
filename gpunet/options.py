"""Declared options: dataclass fields with help text, choices and bounds.

The Python API, the command line, the TOML file and the error messages all derive from one declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from gpunet.errors import ConfigError


def option(
    default: Any,
    help: str,  # noqa: A002 - named as in argparse
    *,
    choices: Collection[Any] | None = None,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
    lengths: Collection[int] | None = None,
    written: bool = True,
) -> Any:
    """A dataclass field with help text, bounds and choices (for a tuple: those of each entry, and its `lengths`).

    The default need not be one of the choices: it may stand for one that depends on other things.

    written: whether the default is written to files, too; without it they are those of a version before the option.

    >>> from dataclasses import dataclass
    >>> from gpunet.options import Options, option
    >>> @dataclass(frozen=True)
    ... class Mixing(Options):
    ...     kind: str = option("linear", "how two images are mixed", choices=("linear", "cut"))
    >>> Mixing().kind
    'linear'
    """
    metadata = {
        "help": help,
        "choices": choices,  # not a copy: a registry may grow
        "low": low,
        "high": high,
        "low_open": low_open,
        "high_open": high_open,
        "lengths": lengths,
        "written": written,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class OptionType:
    """What a field accepts: `base` is bool, int, float or str; a tuple of them if `many`; None if `optional`."""

    base: type
    many: bool
    optional: bool


def option_type(owner: type, name: str) -> OptionType:
    """The type of the field `name` of the dataclass `owner`, read from its annotation."""
    hint = _type_hints(owner)[name]
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [item for item in typing.get_args(hint) if item is not type(None)]
        optional, hint = len(inner) < len(typing.get_args(hint)), inner[0]
    many = typing.get_origin(hint) is tuple
    base = typing.get_args(hint)[0] if many else hint
    return OptionType(base, many, optional)


@functools.cache
def _type_hints(owner: Any) -> dict[str, Any]:
    return typing.get_type_hints(owner)


class Options:
    """Base class of option dataclasses: converts lists to tuples and ints to floats, and checks every field.

    >>> from dataclasses import dataclass
    >>> from gpunet.options import Options, option
    >>> @dataclass(frozen=True)
    ... class Mixing(Options):
    ...     share: float = option(0.5, "share of the second image", low=0, high=1)
    >>> Mixing(share=1)
    Mixing(share=1.0)
    >>> Mixing(share=2)
    Traceback (most recent call last):
    ...
    gpunet.errors.ConfigError: share must be at least 0 and at most 1, got 2.0
    """

    def __post_init__(self) -> None:
        for name in option_fields(type(self)):
            object.__setattr__(self, name, check_option(type(self), name, getattr(self, name)))


def option_fields(owner: type) -> dict[str, dataclasses.Field[Any]]:
    """The declared options of the dataclass `owner`, by name, in order of declaration."""
    return {item.name: item for item in dataclasses.fields(owner) if item.metadata}


def option_values(options: Any) -> dict[str, Any]:
    """The options that are written to files, by name: all but those at a default that is not."""
    pairs = [(item, getattr(options, name)) for name, item in option_fields(type(options)).items()]
    return {item.name: value for item, value in pairs if item.metadata["written"] or value != item.default}


def check_option(owner: type, name: str, value: Any, label: str | None = None) -> Any:
    """`value`, validated and converted for the option `name` of the dataclass `owner`.

    Args:
        label: name of the option in the message, such as ``--batch-size``; by default `name`.

    Raises:
        ConfigError: wrong type, not one of the choices, or out of bounds.
    """
    item, kind, label = option_fields(owner)[name], option_type(owner, name), label or name
    if value is None:
        if kind.optional:
            return None
        raise ConfigError(f"{label} must be given")
    if kind.many:
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise ConfigError(f"{label} must be a list of {kind.base.__name__}, got {_shown(value)}")
        lengths = item.metadata["lengths"]
        if lengths is not None and len(value) not in lengths:
            raise ConfigError(f"{label} must be {' or '.join(map(str, lengths))} values, got {_shown(value)}")
        return tuple(_checked_scalar(item, kind.base, entry, label) for entry in value)
    return _checked_scalar(item, kind.base, value, label)


def check_entry(owner: type, name: str, value: Any, label: str) -> Any:
    """As :func:`check_option` for a single value: for a tuple, of one of its entries."""
    return _checked_scalar(option_fields(owner)[name], option_type(owner, name).base, value, label)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` with the word in `known` closest to `word`; empty if none is close."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _checked_scalar(item: dataclasses.Field[Any], base: type[Any], value: Any, label: str) -> Any:
    value = _normalised(base, value)
    if not isinstance(value, base) or (base is not bool and isinstance(value, bool)):
        raise ConfigError(f"{label} must be of type {base.__name__}, got {_shown(value)}")
    choices = item.metadata["choices"]
    if choices and value not in choices and value != item.default:
        hint = did_you_mean(value, choices) if base is str else ""
        raise ConfigError(f"{label} must be one of {', '.join(map(str, choices))}; got {_shown(value)}{hint}")
    if base is str and ("\0" in value or value.encode("utf-8", "ignore").decode() != value):
        raise ConfigError(f"{label} must be valid UTF-8 without NUL characters; got {_shown(value)}")
    if base is int and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{label} must fit into 64 bits")  # too long to print
    if base in (int, float):
        low, high = item.metadata["low"], item.metadata["high"]
        low_open, high_open = item.metadata["low_open"], item.metadata["high_open"]
        if (
            (base is float and not math.isfinite(value))
            or value < low
            or value > high
            or (low_open and value == low)
            or (high_open and value == high)
        ):
            raise ConfigError(f"{label} must be {_bounds(low, high, low_open, high_open)}, got {_shown(value)}")
    return value


def _normalised(base: type, value: Any) -> Any:
    """`value` as a plain `base` if the conversion is lossless: a NumPy number, an int for a float, a path."""
    if isinstance(value, bool):  # bool is a subclass of int
        return value
    if base is int and isinstance(value, numbers.Integral):
        return int(value)
    if base is float and isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            return math.inf  # rejected by the bounds check
    if base is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _shown(value: Any) -> str:
    """repr, truncated: a number may have thousands of digits."""
    return _short.repr(value)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def _bounds(low: float, high: float, low_open: bool, high_open: bool) -> str:
    parts = []
    if low > -math.inf:
        parts.append(f"{'greater than' if low_open else 'at least'} {low:.12g}")
    if high < math.inf:
        parts.append(f"{'less than' if high_open else 'at most'} {high:.12g}")
    return " and ".join(parts) or "finite"
