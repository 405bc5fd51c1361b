"""Pages with a generated part, between two marker lines."""

from __future__ import annotations

from gpunet.errors import DataError


def fill(page: str, begin: str, end: str, text: str) -> str:
    """`page` with `text` between the marker lines `begin` and `end`.

    Raises:
        DataError: the page does not contain each marker exactly once, in this order.
    """
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise DataError(f"the page must contain the two lines {begin!r} and {end!r}, once each and in this order")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
