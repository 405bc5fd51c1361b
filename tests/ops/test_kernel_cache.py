"""The kernel cache: whatever its folder holds or refuses, kernels answer, and one line says what is wrong."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba.core.config
import numpy as np
import pytest

from gpunet.ops import _kernel_cache
from gpunet.ops._numba import jit
from tests.filesystem import largest_file, read_only_folder

SOURCE = """
def double(x):
    return x + x

def square(x):
    return x * x
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of two functions, in a folder of its own."""
    path = tmp_path / "module" / "two_functions.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return importlib.import_module(path.stem)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ``NUMBA_CACHE_DIR``."""
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def warnings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings so far, in a process that has not warned before."""
    monkeypatch.setattr(_kernel_cache, "_said", set())
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def loaded(function: Any) -> bool:
    """Call `function` as the first call of a process would; whether its code came from the cache."""
    kernel = jit(function)
    assert kernel(21) == {"double": 42, "square": 441}[function.__name__]
    return sum(kernel.stats.cache_hits.values()) == 1


def only_file(folder: Path) -> Path:
    (path,) = folder.rglob("*.nbc")
    return path


def flipped(content: bytes) -> bytes:
    """With one bit of the machine code changed."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut in the checksum": lambda content: content[:20],
    "cut behind the checksum": lambda content: content[:32],
    "cut in the code": lambda content: content[:-1],
    "a bit": flipped,
    "zeros": lambda content: bytes(len(content)),
    "garbage": lambda content: np.random.default_rng(0).bytes(len(content)),
    "longer": lambda content: content + b"\0",
}


def test_an_intact_cache_is_used(functions: Any, folder: Path, warnings: Callable[[], list[str]]) -> None:
    assert [loaded(functions.double), loaded(functions.double)] == [False, True]
    assert warnings() == []


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_replaced(
    functions: Any, folder: Path, warnings: Callable[[], list[str]], damage: Callable[[bytes], bytes]
) -> None:
    loaded(functions.double)
    path = only_file(folder)
    path.write_bytes(damage(path.read_bytes()))
    assert [loaded(functions.double), loaded(functions.double)] == [False, True]
    (line,) = warnings()
    assert str(path.parent) in line and path.name in line and "damaged" in line and "\n" not in line


def test_many_damaged_files_are_one_line(functions: Any, folder: Path, warnings: Callable[[], list[str]]) -> None:
    loaded(functions.double), loaded(functions.square)
    for path in folder.rglob("*.nbc"):
        path.write_bytes(b"")
    assert [loaded(functions.double), loaded(functions.square)] == [False, False]
    assert len(warnings()) == 1


def test_the_code_of_another_kernel_is_not_run(functions: Any, folder: Path, warnings: Callable[[], list[str]]) -> None:
    """What two processes that write at the same time could leave of Numba's own files."""
    loaded(functions.double)
    path = only_file(folder)
    content = path.read_bytes()
    path.unlink()
    loaded(functions.square)
    only_file(folder).write_bytes(content)
    assert not loaded(functions.square)
    assert warnings() == []


def test_the_code_of_other_sources_is_not_run(
    functions: Any, folder: Path, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(functions.double)
    monkeypatch.setattr(_kernel_cache, "_stamp", lambda: ("numba", "llvmlite", "sources"))
    assert [loaded(functions.double), loaded(functions.double)] == [False, True]
    assert warnings() == []


@pytest.mark.parametrize("changed", ["_simd.py", "conv2d/cpu/tap_gemm.py", "random/__init__.py"])
def test_kernels_are_compiled_from_what_they_call(tmp_path: Path, changed: str) -> None:
    for name in ("_simd.py", "conv2d/cpu/tap_gemm.py", "random/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a = 1\n")
    stamp = _kernel_cache._stamp.__wrapped__
    before = stamp(tmp_path)
    assert stamp(tmp_path) == before
    (tmp_path / changed).write_text("a = 2\n")
    assert stamp(tmp_path) != before


def test_a_folder_in_place_of_the_file(functions: Any, folder: Path, warnings: Callable[[], list[str]]) -> None:
    loaded(functions.double)
    path = only_file(folder)
    path.unlink()
    path.mkdir()
    assert [loaded(functions.double), loaded(functions.double)] == [False, False]
    assert len(warnings()) == 2  # neither read nor written
    assert all(str(path.parent) in line for line in warnings())


def test_a_full_disk(functions: Any, folder: Path, warnings: Callable[[], list[str]]) -> None:
    with largest_file(1000):
        assert not loaded(functions.double)
        assert not loaded(functions.square)
    (line,) = warnings()
    assert str(folder) in line and "File too large" in line and "NUMBA_CACHE_DIR" in line
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert [loaded(functions.double), loaded(functions.double)] == [False, True]


def test_a_folder_that_disappears(functions: Any, folder: Path, warnings: Callable[[], list[str]]) -> None:
    kernel = jit(functions.double)
    Path(kernel.stats.cache_path).rmdir()
    Path(kernel.stats.cache_path).write_bytes(b"")
    assert kernel(21) == 42
    (line,) = warnings()
    assert line.startswith(f"cannot write to the kernel cache {kernel.stats.cache_path}: ")


def test_cache_dir_that_is_a_file(functions: Any, folder: Path, warnings: Callable[[], list[str]]) -> None:
    folder.write_bytes(b"")
    assert [loaded(functions.double), loaded(functions.double), loaded(functions.square)] == [False, True, False]
    beside = Path(functions.__file__).parent / "__pycache__"
    assert warnings() == [f"NUMBA_CACHE_DIR {folder} cannot be written to: kernels are kept in {beside}"]


@pytest.mark.parametrize("given", [True, False], ids=["NUMBA_CACHE_DIR", "no NUMBA_CACHE_DIR"])
def test_no_folder_can_be_written_to(
    functions: Any, tmp_path: Path, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    beside = Path(functions.__file__).parent / "__pycache__"
    shutil.rmtree(beside, ignore_errors=True)
    beside.write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(file / "cache") if given else "")
    assert [loaded(functions.double), loaded(functions.double), loaded(functions.square)] == [False] * 3
    (line,) = warnings()
    assert str(beside) in line and "set NUMBA_CACHE_DIR" in line
    assert (str(file / "cache") in line) == given


def test_a_read_only_folder(
    functions: Any, tmp_path: Path, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files that would do, if Numba had not looked for a folder that it can write to."""
    with read_only_folder() as locked:
        monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(locked))
        monkeypatch.setenv("XDG_CACHE_HOME", str(locked))
        assert not loaded(functions.double)
    assert [str(locked) in line for line in warnings()] == [True]
