"""Self-contained HTML pages: jinja2 templates, and the formatting of numbers in them."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from gpunet.report.metrics import wilson_interval

if TYPE_CHECKING:
    from jinja2 import Environment

_SPACE = "\N{NO-BREAK SPACE}"
_DASH = "\N{EN DASH}"


def render(template: str, **content: Any) -> str:
    """`template`, a file in ``templates``, rendered with `content`; all text is escaped."""
    return _environment().get_template(template).render(**content)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gpunet.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent, "count": count, "duration": duration, "size": size, "setting": setting, "rounded": rounded
    }  # fmt: skip
    environment.globals["interval"] = interval
    return environment


def percent(share: float, digits: int = 2) -> str:
    """For example ``93.73 %``."""
    return f"{100 * share:.{digits}f}{_SPACE}%"


def interval(correct: int, total: int) -> str:
    """95 % Wilson interval of an accuracy, in percent, such as ``93.24–94.19``."""
    low, high = wilson_interval(correct, total)
    return f"{100 * low:.2f}{_DASH}{100 * high:.2f}"


def count(number: int) -> str:
    """For example ``1,574,122``."""
    return f"{number:,}"


def duration(seconds: float) -> str:
    """For example ``12.5 s``, ``3.8 min`` or ``2.1 h``."""
    if seconds < 60:
        return f"{seconds:.1f}{_SPACE}s"
    if seconds < 3600:
        return f"{seconds / 60:.1f}{_SPACE}min"
    return f"{seconds / 3600:.1f}{_SPACE}h"


def size(size_in_bytes: int) -> str:
    """For example ``812 MiB``."""
    return f"{size_in_bytes / 2**20:,.0f}{_SPACE}MiB"


def rounded(number: float | None, digits: int = 4) -> str:
    """`number` with `digits` decimals; a dash if it is None or not finite."""
    return _DASH if number is None or not math.isfinite(number) else f"{number:.{digits}f}"


def setting(value: Any) -> str:
    """The value of an option as a user would write it; a dash for None, an option that a model lacks."""
    if value is None:
        return _DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
