"""Pages that are partly generated: a text between two marker lines."""

from __future__ import annotations

from gpunet.errors import DataError


def fill(page: str, begin: str, end: str, text: str) -> str:
    """`page` with `text` on lines of its own between the markers `begin` and `end`.

    Raises:
        DataError: the markers are not there, once each and in this order.
    """
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise DataError(f"the page must hold the two lines {begin!r} and {end!r}, once each and in this order")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
