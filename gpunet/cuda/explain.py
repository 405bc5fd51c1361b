"""What CuPy's errors mean and what to do about them, in words; CuPy itself is not imported."""

from __future__ import annotations

_CTK = "pip install 'cupy-cuda12x[ctk]' (or cuda13x)"
_NO_BINARY_FOR_GPU, _INVALID_PTX, _UNSUPPORTED_PTX = 209, 218, 222  # of the driver's errors, CUresult


def import_problem(error: Exception) -> str:
    """Why CuPy cannot be imported."""
    if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        return f"CuPy is not installed: {_CTK}"
    if isinstance(error, OSError):
        return f"CuPy cannot be imported because {_unwritable(error)}"
    return f"CuPy is installed but cannot be imported: {_last_line(error)}"


def compile_problem(error: Exception) -> str | None:
    """Why CuPy cannot compile a source or load what was compiled; None for an error that is not known."""
    text, status = str(error), getattr(error, "status", None)
    if "CUDA headers" in text:
        return (
            f"CuPy finds no CUDA headers, without which it compiles nothing: {_CTK}, or set CUDA_PATH to a CUDA toolkit"
        )
    if "nvrtc" in text and isinstance(error, (ImportError, OSError, RuntimeError)):
        return f"the compiler NVRTC is missing: {_CTK}, or set CUDA_PATH to a CUDA toolkit"
    if status == _NO_BINARY_FOR_GPU:
        return (
            "this GPU is newer than CuPy's compiler NVRTC, whose newest code it cannot run: install a CuPy for a newer "
            "CUDA, or set CUPY_COMPILE_WITH_PTX=1 to have the driver translate it"
        )
    if status in (_INVALID_PTX, _UNSUPPORTED_PTX):
        return (
            "the driver is older than CuPy's compiler NVRTC: install a newer driver or a CuPy for an older CUDA, or "
            "unset CUPY_COMPILE_WITH_PTX"
        )
    if isinstance(error, OSError):
        return _unwritable(error)
    if type(error).__name__ == "CompileException":
        wrong = [line for line in text.splitlines() if "error" in line] or [_last_line(error)]
        return f"NVRTC refuses the source, which may need a newer CuPy: {' '.join(wrong[0].split())}"
    return None


def _unwritable(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"its cache of compiled kernels cannot be written ({where}{error.strerror or error}): set CUPY_CACHE_DIR to a "
        "writable folder"
    )


def _last_line(error: Exception) -> str:
    """The last line of an error's text that says something; CuPy's own ends with the reason, framed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =-")]
    return lines[-1] if lines else type(error).__name__
