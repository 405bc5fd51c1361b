"""A Sphinx extension: the help, bounds and choices of declared options, which are no docstrings, become parameters."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

from gpunet.options import Options, option_fields

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def describe(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Add a parameter for each option of a class of options to the `lines` of its docstring."""
    if inspect.isclass(value) and issubclass(value, Options):
        examples = next((number for number, line in enumerate(lines) if line.startswith(">>> ")), len(lines))
        lines[examples:examples] = [*map(_parameter, option_fields(value).values()), ""]


def _parameter(field: Any) -> str:
    facts = field.metadata
    choices = facts["choices"] or ()
    limits = [f"at least {facts['low']:g}" * (not facts["low_open"]) or f"greater than {facts['low']:g}"]
    limits += [f"at most {facts['high']:g}" * (not facts["high_open"]) or f"less than {facts['high']:g}"]
    bounds = [text for text, end in zip(limits, (facts["low"], facts["high"]), strict=True) if math.isfinite(end)]
    more = ", ".join([*(f"``{choice}``" for choice in choices), *bounds])
    return f":param {field.name}: {facts['help']}{f' ({more})' if more else ''}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", describe)
    return {"parallel_read_safe": True}
