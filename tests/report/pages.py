"""A page as the tests read it: parsed by Python's own parser, with its tables, pictures and all it could load."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Raises where an element is not closed in its turn.

    Attributes:
        text: all text outside of scripts and styles, in single spaces.
        tables: by id, rows of cells; a cell is its text and its ``data-sort``.
        images: (alt, src) of each img element.
        attributes: all (element, attribute, value).
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.images: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self._table: list[list[tuple[str, str | None]]] | None = None
        self._cell: list[str] | None = None
        self.feed(self.source)
        self.close()
        assert self._open == [], f"not closed: {self._open}"
        self.text = " ".join("".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in given.items()]
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "img":
            self.images.append((given["alt"], given["src"]))
        elif tag == "table":
            self._table = self.tables.setdefault(given.get("id", f"table {len(self.tables)}"), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th"):
            self._cell, self._sort = [], given.get("data-sort")
        elif tag == "br":
            self.handle_data(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> in {self._open}"
        self._open.pop()
        if tag in ("td", "th"):
            assert self._table is not None and self._cell is not None
            self._table[-1].append((" ".join("".join(self._cell).split()), self._sort))
            self._cell = None
        elif tag == "table":
            self._table = None
        self._words.append(" ")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            return
        self._words.append(data)
        if self._cell is not None:
            self._cell.append(data)

    @property
    def data_uris(self) -> list[str]:
        """All data URIs, those inside the drawings included."""
        return re.findall(r'(?:src|href)="(data:[^"]*)"', self.source)


def pixels(uri: str) -> np.ndarray:
    """The pixels of a PNG file in a data URI."""
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(re.sub(r"\s", "", body), validate=True))) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def assert_self_contained(page: Page, *, pictures: bool = True) -> None:
    """Assert that nothing on the page is loaded from anywhere, and that each picture in it can be decoded."""
    assert "://" not in page.source
    assert re.search(r"@import|<link|<iframe|<object|<embed|fetch\(|XMLHttpRequest", page.source) is None
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:80])
        assert not name.startswith("on"), "scripts are in one place"
    for target in re.findall(r"url\(([^)]*)\)", page.source):
        assert target.startswith("#"), target
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers)), "an id is given twice"
    for reference in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page.source):
        assert "".join(reference) in identifiers
    assert bool(page.data_uris) == pictures
    for uri in page.data_uris:
        assert pixels(uri).size > 0
