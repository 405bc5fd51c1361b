"""A text between two marker lines."""

from __future__ import annotations

import pytest

from gpunet.errors import DataError
from scripts.study.markers import fill


def test_filling() -> None:
    page = "above\n<!-- a -->\nold\n\\1 <!-- b -->\nbelow\n"
    filled = fill(page, "<!-- a -->", "<!-- b -->", "new\n\\2")
    assert filled == "above\n<!-- a -->\nnew\n\\2\n<!-- b -->\nbelow\n"
    assert fill(filled, "<!-- a -->", "<!-- b -->", "new\n\\2") == filled


@pytest.mark.parametrize("page", ["", "<a>", "<b>", "<b><a>", "<a><a><b>", "<a><b><b>", "<a><b><a><b>"])
def test_without_the_markers(page: str) -> None:
    with pytest.raises(DataError, match="must contain the two lines '<a>' and '<b>', once each and in this order"):
        fill(page, "<a>", "<b>", "")
