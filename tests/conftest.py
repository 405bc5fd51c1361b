"""Settings of the whole test run."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from hypothesis import settings

# Draw the same examples every time; numba compiles in the first example, so no deadline.
settings.register_profile("gpunet", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("gpunet")

# No test may train on a GPU by accident, nor write outside its temporary folder.
os.environ.pop("GPUNET_DEVICE", None)

# Tests send these, also to processes that they start: nohup, and a shell without job control, have them ignored.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _default)

# Before any OpenMP library is loaded, PyTorch's too: several pools that spin while they wait starve each other.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: two threads each show what threads do
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")

REQUIRE_GPU = "GPUNET_REQUIRE_GPU"
"""Set this environment variable where there must be a GPU: then its tests fail instead of being skipped."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of a GPU where there is none, with the reason."""
    from gpunet.devices import cuda_status

    if not any(item.get_closest_marker("gpu") for item in items) or os.environ.get(REQUIRE_GPU):
        return
    problem = cuda_status().problem
    if problem is not None:
        skip = pytest.mark.skip(reason=f"no GPU: {problem}")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out files; those of the CUDA path are one, since the last of their tests judges all launches."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            if file.startswith("tests/cuda/") and "sanitizers" not in test:
                return "tests/cuda"
            return nodeid if "sanitizers" in test else file

    return ByFile(config, log)
