"""SciPy's BLAS is found without importing the rest of its linear algebra, which still works when it is imported."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import numpy as np
from gpunet.ops._blas import gemm_address
address = gemm_address(np.dtype(np.float32))
assert address and "scipy.linalg" not in sys.modules
import scipy.linalg
from numba.extending import get_cython_function_address
assert get_cython_function_address("scipy.linalg.cython_blas", "sgemm") == address
from scipy.linalg import cython_blas
assert cython_blas is sys.modules["scipy.linalg.cython_blas"]
assert (scipy.linalg.inv(np.float32([[2, 0], [0, 4]])) == [[0.5, 0], [0, 0.25]]).all()
"""


def test_only_blas_is_imported() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
