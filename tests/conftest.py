"""Settings of the whole test run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Draw the same examples every time; numba compiles in the first example, so no deadline.
settings.register_profile("gpunet", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("gpunet")

# No test may train on a GPU by accident, nor write outside its temporary folder.
os.environ.pop("GPUNET_DEVICE", None)

# Before any OpenMP library is loaded, PyTorch's too: several pools that spin while they wait starve each other.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: two threads each show what threads do
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")

REQUIRE_GPU = "GPUNET_REQUIRE_GPU"
"""Set this environment variable where there must be a GPU: then its tests fail instead of being skipped."""


@pytest.hookimpl(tryfirst=True)  # xdist looks at the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests of a GPU where there is none, with the reason; keep together what processes must not share out."""
    from gpunet.backend import cuda_status

    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            # Files keep what they have set up. Those of the emulator are one: the last of them judges all launches.
            emulated = item.path.parent.name == "cuda" and not item.get_closest_marker("slow")
            item.add_marker(pytest.mark.xdist_group("emulator" if emulated else item.path.as_posix()))
    if not any(item.get_closest_marker("gpu") for item in items) or os.environ.get(REQUIRE_GPU):
        return
    problem = cuda_status().problem
    if problem is not None:
        skip = pytest.mark.skip(reason=f"no GPU: {problem}")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)
