"""Matrix products inside Numba kernels: SciPy's BLAS, called by address, one BLAS thread per Numba thread.

The address is passed as an integer argument, so that kernels can be cached on disk (an address compiled into the code
would not be valid in another process). All matrices are row-major.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import get_cython_function_address, intrinsic

logger = logging.getLogger("gpunet")

_MODULE = "scipy.linalg.cython_blas"
_ROUTINES = {np.dtype(np.float32): "sgemm", np.dtype(np.float64): "dgemm"}


@functools.cache
def gemm_address(dtype: np.dtype[Any]) -> int:
    """Address of the BLAS gemm for `dtype`, to pass to kernels that call :func:`gemm`.

    The first call limits SciPy's BLAS to one thread for the rest of the process: the threads are Numba's, and two
    thread pools would oversubscribe the cores. Other BLAS libraries (NumPy's wheel bundles one) are left alone.
    """
    _import_blas_alone()
    address = int(get_cython_function_address(_MODULE, _ROUTINES[np.dtype(dtype)]))
    _limit_blas_threads()  # after the look-up, which loads the library
    return address


def _import_blas_alone() -> None:
    """Import SciPy's module of BLAS without the rest of ``scipy.linalg``.

    The import of all of it takes twice as long as that of NumPy; it is what remains where this does not work, as the
    module is not in a file of its own.
    """
    package = importlib.util.find_spec("scipy")
    if _MODULE in sys.modules or package is None or package.submodule_search_locations is None:
        return
    for folder in package.submodule_search_locations:
        finder = FileFinder(str(Path(folder, "linalg")), (ExtensionFileLoader, EXTENSION_SUFFIXES))
        found = finder.find_spec("cython_blas")
        if found is not None and found.origin is not None:
            spec = ModuleSpec(_MODULE, ExtensionFileLoader(_MODULE, found.origin), origin=found.origin)
            module = importlib.util.module_from_spec(spec)
            sys.modules[_MODULE] = module  # where scipy.linalg finds it when it is imported
            try:
                ExtensionFileLoader(_MODULE, found.origin).exec_module(module)
            except ImportError:
                del sys.modules[_MODULE]
            return


@functools.cache
def _limit_blas_threads() -> object:
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        logger.warning(
            "threadpoolctl is not installed, so the threads of SciPy's BLAS stay as they are: pip install "
            "threadpoolctl if training is slow"
        )
        return None
    controller = ThreadpoolController().select(user_api="blas")
    folders = {"scipy", "scipy.libs"}  # where SciPy's wheels keep their BLAS
    scipys = [lib.filepath for lib in controller.lib_controllers if folders & set(Path(lib.filepath).parts)]
    # Distributions that link against a system BLAS have none in SciPy's folder: limit the shared one instead.
    return (controller.select(filepath=scipys) if scipys else controller).limit(limits=1)


@intrinsic
def gemm(
    typing_context: Any,
    address: Any,
    trans_a: Any,
    trans_b: Any,
    m: Any,
    n: Any,
    k: Any,
    a: Any,
    lda: Any,
    b: Any,
    ldb: Any,
    beta: Any,
    c: Any,
    ldc: Any,
) -> Any:
    """C (m, n) = op(A) (m, k) @ op(B) (k, n) + beta * C, all row-major.

    `a`, `b` and `c` are addresses (``array.ctypes.data``), `lda`, `ldb` and `ldc` the row strides in elements,
    `trans_a` and `trans_b` are 0 or 1. The type of `beta` (float32 or float64) is that of the matrices. Nothing is
    checked.
    """
    real = types.float64 if beta == types.float64 else types.float32
    signature = types.void(*[types.int64] * 10, real, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc = args
        byte, int32 = ir.IntType(8), ir.IntType(32)
        pointer = byte.as_pointer()

        def by_reference(value: Any) -> Any:
            slot = cgutils.alloca_once(builder, value.type)
            builder.store(value, slot)
            return builder.bitcast(slot, pointer)

        def integer(value: Any) -> Any:
            return by_reference(builder.trunc(value, int32))

        def letter(flag: Any) -> Any:
            is_set = builder.icmp_signed("!=", flag, ir.Constant(flag.type, 0))
            return by_reference(builder.select(is_set, ir.Constant(byte, ord("T")), ir.Constant(byte, ord("N"))))

        def address_of(value: Any) -> Any:
            return builder.inttoptr(value, pointer)

        routine = builder.inttoptr(address, ir.FunctionType(ir.VoidType(), [pointer] * 13).as_pointer())
        one = by_reference(ir.Constant(beta.type, 1.0))
        # BLAS is column-major and so sees the transposes: C^T = op(B)^T op(A)^T.
        builder.call(
            routine,
            [
                letter(trans_b),
                letter(trans_a),
                integer(n),
                integer(m),
                integer(k),
                one,
                address_of(b),
                integer(ldb),
                address_of(a),
                integer(lda),
                by_reference(beta),
                address_of(c),
                integer(ldc),
            ],
        )
        return context.get_dummy_value()

    return signature, codegen
