"""Text for a terminal: names from files are data, and must not move its cursor or forge its lines."""

from __future__ import annotations

import re

# Control characters (C0, DEL, C1: terminals obey all three), line separators, changes of the direction of writing, and
# surrogates, which stand for bytes that are no text.
_UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_ANY = re.compile(f"[{_UNPRINTABLE}]")
_IN_LINES = re.compile(f"(?![\\n\\t])[{_UNPRINTABLE}]")


def printable(text: object, *, lines: bool = False) -> str:
    """``str(text)`` with control characters as Python's escapes, such as ``\\x1b``; with `lines`, but \\n and \\t."""
    return (_IN_LINES if lines else _ANY).sub(_escape, str(text))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
