"""A Sphinx extension: what autodoc does not know of gpunet's docstrings.

The help, bounds and choices of declared options are no docstrings; constants are documented where they are defined,
not where they are exported; base classes that are private are not shown; type aliases keep their names.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from typing import TYPE_CHECKING, Any

from gpunet.options import Options, option_fields

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def describe(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the `lines` of a docstring: a parameter for each declared option; a constant's own text."""
    if isinstance(value, type) and issubclass(value, Options) and dataclasses.is_dataclass(value):
        examples = next((number for number, line in enumerate(lines) if line.startswith(">>> ")), len(lines))
        lines[examples:examples] = [*map(_parameter, option_fields(value).values()), ""]
    elif what == "data":
        lines[:] = _text_of_constant(name, value) or lines


def _parameter(field: Any) -> str:
    facts = field.metadata
    limits = (
        (facts["low"], "greater than" if facts["low_open"] else "at least"),
        (facts["high"], "less than" if facts["high_open"] else "at most"),
    )
    more = [f"``{choice}``" for choice in facts["choices"] or () if choice != ""]
    more += [f"{words} {bound:.12g}" for bound, words in limits if math.isfinite(bound)]
    bounds = f" ({', '.join(more)})" if more else ""
    return f":param {field.name}: {facts['help']}{bounds}"


def _text_of_constant(name: str, value: Any) -> list[str]:
    """The string below the constant `name` in the module that defines it."""
    from sphinx.pycode import ModuleAnalyzer

    package, _, own = name.rpartition(".")
    for module in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        if getattr(sys.modules[module], own, None) is value:
            found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", own))
            if found:
                return list(found)
    return []


def name_aliases(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """``Array | None``, where autodoc has ``TypeAliasForwardRef('Array') | None``."""
    pattern = r"TypeAliasForwardRef\('(\w+)'\)"
    shown = [None if text is None else re.sub(pattern, r"\1", text) for text in (signature, result)]
    return shown[0], shown[1]


def hide_private_bases(app: Sphinx, name: str, value: Any, options: Any, bases: list[Any]) -> None:
    """Remove the classes from `bases` that are no part of the API."""
    bases[:] = [base for base in bases if not getattr(base, "__name__", "").startswith("_")] or [object]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", describe)
    app.connect("autodoc-process-signature", name_aliases)
    app.connect("autodoc-process-bases", hide_private_bases)
    return {"parallel_read_safe": True}
