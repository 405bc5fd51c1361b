"""A plug-in of pytest: a test fails if something was reported while it ran."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.cuda_double.library import problems


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    before = len(problems())
    result = yield
    found = problems(before)
    if found:
        pytest.fail("the CUDA double reports:\n" + "\n".join(found), pytrace=False)
    return result
