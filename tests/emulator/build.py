"""Compiles a CUDA source for the CPU: g++, one shared library for a source and its defines, kept on disk."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_HEADER = _HERE / "cuda_on_cpu.hpp"
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\((?P<bounds>[^)]*)\)\s*)?(?P<name>\w+)\s*\('
)
_FLAGS = (
    *("-std=c++17", "-O1", "-shared", "-fPIC"),
    "-fno-math-errno",
    # CUDA sources look at memory through float4*; names stay inside of their library.
    *("-fno-strict-aliasing", "-fvisibility=hidden", "-fno-gnu-unique", "-fno-exceptions", "-fno-rtti"),
    # Large frames touch every page on their way, so that none jumps over the guard page; siglongjmp leaves a fiber's
    # stack, which the checks of distributions take for an error.
    *("-fstack-clash-protection", "-U_FORTIFY_SOURCE", "-fno-stack-protector", "-fcf-protection=none"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-parameter", "-Wno-sign-compare"),
)
# A product and the sum that takes it are one operation wherever the source allows it, as on a GPU (nvcc's -fmad=true),
# or only where it asks for that. GCC contracts as one of its expensive optimisations.
_CONTRACTED = ("-mfma", "-ffp-contract=fast", "-fexpensive-optimizations")
_NOT_CONTRACTED = ("-ffp-contract=off",)
_SANITIZE_FLAGS = (
    *("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"),
    "-fsanitize-sections=emulator_shared_*",
)
FMA = "GPUNET_EMULATOR_FMA"
"""Environment variable: 1 lets the compiler contract products and sums."""
FTZ = "GPUNET_EMULATOR_FTZ"
"""Environment variable: 1 makes kernels take and give zeros for denormal numbers."""
_SANITIZE = "GPUNET_EMULATOR_SANITIZE"
_CACHE = "GPUNET_EMULATOR_CACHE"


class EmulationError(RuntimeError):
    """A kernel did what a GPU would not define, or the emulator cannot compile or launch it."""


def missing() -> str:
    """Why the emulator cannot be used here, or ''."""
    return "" if shutil.which("g++") else "the CUDA emulator needs g++: apt-get install g++"


def sanitizing() -> bool:
    """Whether sources are compiled with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return os.environ.get(_SANITIZE) == "1"


def sanitized_environment() -> dict[str, str]:
    """The environment for a subprocess in which sources are compiled and run with the sanitizers.

    What they find ends that process, with a report on stderr.
    """
    options = {
        "detect_leaks": 0,  # Python's own
        "detect_stack_use_after_return": 0,  # moves variables to another stack than the fiber's
        "detect_odr_violation": 0,
        "abort_on_error": 0,
        "exitcode": 99,
    }
    return {
        **os.environ,
        _SANITIZE: "1",
        "LD_PRELOAD": _library_file("libasan.so"),
        "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in options.items()),
        "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=99",
        "PYTHONMALLOC": "malloc",
    }


def build(text: str, defines: Mapping[str, str], *, flags: tuple[str, ...] = ()) -> ctypes.PyDLL:
    """The shared library of a CUDA source, compiled unless it lies in the cache folder already.

    Raises:
        EmulationError: g++ is missing, or the source does not compile; the message is the compiler's first error.
    """
    problem = missing()
    if problem:
        raise EmulationError(problem)
    contraction = _CONTRACTED if os.environ.get(FMA) == "1" else _NOT_CONTRACTED
    flags = (*_FLAGS, *contraction, *(_SANITIZE_FLAGS if sanitizing() else ()), *flags)
    flags = (*flags, *(f"-D{name}={value}" for name, value in sorted(defines.items())))
    key = hashlib.sha256("\0".join([text, _headers(), _version(), *flags]).encode()).hexdigest()[:24]
    library = _folder() / f"{key}.so"
    if not library.is_file():
        _compile(_translation_unit(text), flags, library)
    # The GIL is kept: a library runs one launch at a time.
    return ctypes.PyDLL(str(library))


def kernel_names(text: str) -> list[str]:
    """The kernels that a source defines."""
    return [match["name"] for match in _KERNEL.finditer(text)]


def _translation_unit(text: str) -> str:
    """The source with the emulator's header before it, the name of its section of shared memory before each kernel, and
    the entries from Python after it. Line numbers stay the source's."""
    kernels = list(_KERNEL.finditer(text))
    parts = [f'#include "{_HEADER}"\n#line 1 "source.cu"\n']
    end = 0
    for kernel in kernels:
        line_start = text.rfind("\n", 0, kernel.start()) + 1
        parts += [text[end:line_start], _section(kernel["name"], *_position(text, line_start))]
        end = line_start
    parts += [text[end:], '\n#line 1 "entries"\n']
    parts += [f"EMULATOR_KERNEL({kernel['name']}, {kernel['bounds'] or 0})\n" for kernel in kernels]
    return "".join(parts)


def _section(kernel: str, file: str, line: int) -> str:
    name = "EMULATOR_SHARED_SECTION"
    return f'#undef {name}\n#define {name} "emulator_shared_{kernel}"\n#line {line} "{file}"\n'


def _position(text: str, offset: int) -> tuple[str, int]:
    """File and line of a place in the text, by the ``#line`` directives before it."""
    file, first, start = "source.cu", 1, 0
    for directive in re.finditer(r'^#line (\d+) "([^"]*)"\n', text[:offset], re.MULTILINE):
        file, first, start = directive[2], int(directive[1]), directive.end()
    return file, first + text.count("\n", start, offset)


def _compile(unit: str, flags: tuple[str, ...], library: Path) -> None:
    """Compile to a temporary name and move it into place, so that no process finds half a file."""
    library.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        output = Path(folder) / library.name
        done = subprocess.run(
            ["g++", *flags, "-x", "c++", "-", "-o", str(output)],
            input=unit, capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error:" in line]
            raise EmulationError(f"g++ refuses the source: {errors[0] if errors else done.stderr}")
        library.with_suffix(".log").write_text(done.stderr)
        output.replace(library)


def _folder() -> Path:
    return Path(os.environ.get(_CACHE) or _HERE / "build")


@functools.cache
def _headers() -> str:
    return "\0".join(path.read_text() for path in sorted(_HERE.glob("*.hpp")))


@functools.cache
def _version() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def _library_file(name: str) -> str:
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
