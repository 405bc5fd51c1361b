"""Settings of the whole test run."""

from __future__ import annotations

import os

from hypothesis import settings

# Draw the same examples every time; numba compiles in the first example, so no deadline.
settings.register_profile("gpunet", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("gpunet")

# No test may train on a GPU by accident, nor write outside its temporary folder.
os.environ.pop("GPUNET_DEVICE", None)

# Before any OpenMP library is loaded, PyTorch's too: several pools that spin while they wait starve each other.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
