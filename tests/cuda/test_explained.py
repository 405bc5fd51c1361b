"""A CuPy that cannot be imported, or cannot compile, is explained in words: by every error, and by gpunet doctor."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpunet.cli import doctor
from gpunet.cuda.backend import gpu
from gpunet.cuda.status import cuda_status
from gpunet.devices import get_backend
from gpunet.errors import DeviceError
from tests.cuda.fake_cupy import CUDARuntimeError, FakeCupy
from tests.nvrtc.compiler import CUPYS_OPTIONS


class CompileException(Exception):
    """As CuPy's is called."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what was found out about this machine, before and after."""
    for name in ("cupy", "gpunet.cuda.cupy_runtime", "gpunet.cuda.cupy_graph"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    cuda_status.cache_clear()
    gpu.cache_clear()
    yield
    cuda_status.cache_clear()
    gpu.cache_clear()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            "raise PermissionError(13, 'Permission denied', '/root/.cupy')",
            r"CuPy cannot be imported because its cache of compiled kernels cannot be written "
            r"\(/root/\.cupy: Permission denied\): set CUPY_CACHE_DIR to a writable folder",
        ),
        (
            "raise ImportError('====\\nFailed.\\n\\nOriginal error:\\n  ImportError: libnvrtc.so\\n====')",
            r"CuPy is installed but cannot be imported: ImportError: libnvrtc\.so$",
        ),
        ("import cupy_of_no_kind", "CuPy is installed but cannot be imported: No module named 'cupy_of_no_kind'"),
        ("raise RuntimeError", "CuPy is installed but cannot be imported: RuntimeError"),
    ],
)
def test_what_keeps_cupy_from_being_imported(
    failure: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cupy.py").write_text(failure + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match="not available: " + words.removesuffix("$")) as caught:
        get_backend("cuda")
    assert "\n" not in str(caught.value)
    report = doctor.examine()[0]["cuda"]
    assert re.search(words, report["problem"]), report["problem"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("Failed to find CUDA headers. Please install CUDA toolkit headers (e.g., pip ...)"),
            r"CuPy finds no CUDA headers, without which it compiles nothing: pip install 'cupy-cuda12x\[ctk\]'",
        ),
        (
            RuntimeError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12"'),
            "the compiler NVRTC is missing: pip install",
        ),
        (CUDARuntimeError(209), "this GPU is newer than CuPy's compiler NVRTC.*CUPY_COMPILE_WITH_PTX=1"),
        (CUDARuntimeError(222), "the driver is older than CuPy's compiler NVRTC"),
        (
            OSError(28, "No space left on device", "/home/a/.cupy/kernel_cache/x"),
            r"cannot be written \(/home/a/\.cupy/kernel_cache/x: No space left on device\): set CUPY_CACHE_DIR",
        ),
        (
            CompileException("kern.cu(3): warning: a\nkern.cu(7): error: identifier is undefined\n1 error"),
            r"NVRTC refuses the source, which may need a newer CuPy: kern\.cu\(7\): error: identifier is undefined$",
        ),
    ],
)
def test_what_keeps_a_source_from_being_compiled(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = FakeCupy(10**6)

    def fail() -> None:
        raise error

    cupy.RawModule = lambda code, options: types.SimpleNamespace(compile=fail)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(DeviceError, match=rf"cuda:1 cannot run activation\.cu: .*{words}") as caught:
        gpu(1).module("activation", {"REAL": "float"})
    assert "\n" not in str(caught.value) and caught.value.__cause__ is error


def test_an_unknown_error_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = FakeCupy(10**6)

    def fail() -> None:
        raise ZeroDivisionError

    cupy.RawModule = lambda code, options: types.SimpleNamespace(compile=fail)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(ZeroDivisionError):
        gpu(1).module("activation", {"REAL": "float"})


def test_the_compiler_checks_use_cupys_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gpunet gives CuPy, and what CuPy adds according to its text, where it is installed."""
    cupy, given = FakeCupy(10**6), []
    done = types.SimpleNamespace(compile=lambda: None)
    cupy.RawModule = lambda code, options: given.append(options) or done  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    gpu(1).module("activation", {"REAL": "float"})
    assert given == [("--std=c++17", "-DREAL=float")]
    added = set(CUPYS_OPTIONS) - set(given[0])
    assert added == {"-ftz=true", "--device-as-default-execution-space"}
    monkeypatch.delitem(sys.modules, "cupy")
    installed = importlib.util.find_spec("cupy")
    if installed is not None and installed.origin is not None:
        text = (Path(installed.origin).parent / "cuda" / "compiler.py").read_text()
        assert all(f"options += ('{option}',)" in text for option in added)
