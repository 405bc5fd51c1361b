"""Text for a terminal."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from gpunet.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Sneaker/Boot, 8½ — Çizme 靴 👟", "Sneaker/Boot, 8½ — Çizme 靴 👟"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("\x9b2J\x7f\0", "\\x9b2J\\x7f\\x00"),
        ("a\r\n\tb", "a\\r\\n\\tb"),
        ("\u202ecod.exe\u2069", "\\u202ecod.exe\\u2069"),
        ("\u2028", "\\u2028"),
        ("\udcff.png", "\\udcff.png"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_are_kept_on_request() -> None:
    assert printable("a\n\tb\r\x1b\x85", lines=True) == "a\n\tb\\r\\x1b\\x85"


@pytest.mark.parametrize("lines", [False, True])
def test_no_control_character_is_left(lines: bool) -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    left = {c for c in printable(every, lines=lines) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    assert left == (set("\n\t") if lines else set())
    printable(every).encode()
