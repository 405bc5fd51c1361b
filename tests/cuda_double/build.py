"""Makes the double: CuPy's wheel and its runtime module built again, once for all checkouts, and the library.

Everything lies in ``~/.cache/gpunet/cuda_double`` or ``$GPUNET_CUDA_DOUBLE_CACHE``; the environment that the tests run
in is left as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CUPY = "14.2.0"
WHEELS = (f"cupy-cuda12x=={CUPY}", "nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cuda-nvrtc-cu12==12.9.86")
CYTHON = "Cython>=3.2,<3.3"  # as CuPy's pyproject.toml says
CUDA_VERSION = 12090

_HERE = Path(__file__).resolve().parent
_CACHE = "GPUNET_CUDA_DOUBLE_CACHE"
_FLAGS = ("-std=c++17", "-O1", "-g1", "-shared", "-fPIC")


class Unavailable(RuntimeError):
    """What the double is made of cannot be had here; the message says why. Tests are skipped then."""


@dataclass(frozen=True)
class Double:
    """Where the parts are."""

    packages: Path
    """What comes before the installed packages: CuPy and CUDA's libraries and headers."""
    module: Path
    """CuPy's runtime module."""
    library: Path
    kernels: Path
    """CuPy's cache of compiled kernels."""


def missing() -> str:
    """Why the double cannot be made on this machine whatever the network says, or ''."""
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        return "the CUDA double needs Linux on x86-64"
    if not shutil.which("g++"):
        return "the CUDA double needs g++: apt-get install g++"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "the CUDA double needs Python's headers: apt-get install python3-dev"
    return ""


def build() -> Double:
    """Make what is not there yet: 230 MB are downloaded, and two minutes pass, the first time.

    Raises:
        Unavailable: something is missing, or cannot be downloaded.
        RuntimeError: something does not compile.
    """
    problem = missing()
    if problem:
        raise Unavailable(problem)
    cache = Path(os.environ.get(_CACHE) or Path.home() / ".cache" / "gpunet" / "cuda_double")
    environment = cache / f"cupy-{CUPY}-{sys.implementation.cache_tag}-{_digest(*WHEELS, CYTHON)}"
    _make(environment, _make_environment)
    sources = [path.read_text() for path in sorted([*_HERE.glob("library/*"), *_HERE.glob("headers/**/*.h")])]
    library = environment / "libraries" / _digest(*sources)
    _make(library, lambda folder: _compile_library(folder, environment / "packages"))
    module = environment / "module" / f"runtime{sysconfig.get_config_var('EXT_SUFFIX')}"
    return Double(environment / "packages", module, library / "libcuda.so.1", environment / "kernels")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder unless it is there; under another name at first, so that no process finds half of it."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as unfinished:
        made = Path(unfinished) / folder.name
        made.mkdir()
        fill(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise


def _make_environment(folder: Path) -> None:
    """`folder` with ``packages`` and ``module``."""
    packages = folder / "packages"
    _pip("install", "--no-deps", "--target", str(packages), *WHEELS)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _pip("install", "--no-deps", "--target", str(work / "tools"), CYTHON)
        # Without the variable, the source's metadata ask for an installed CUDA.
        source = ("--no-deps", "--no-binary", "cupy", "--dest", str(work), f"cupy=={CUPY}")
        _pip("download", *source, READTHEDOCS="True")
        with tarfile.open(work / f"cupy-{CUPY}.tar.gz") as archive:
            archive.extractall(work, filter="data")
        _compile_module(work / f"cupy-{CUPY}", work / "tools", folder / "module", packages)


def _pip(command: str, *args: str, **variables: str) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--retries=1", "--timeout=60")
    try:
        _call([sys.executable, "-m", "pip", command, *options, *args], **variables)
    except RuntimeError as error:
        raise Unavailable(f"the CUDA double cannot be downloaded: {error}") from error


def _call(command: Sequence[str], folder: Path | None = None, **variables: str) -> None:
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if re.search(r"error\b", line, re.IGNORECASE)]
        text = "\n".join(errors or lines)[:1000]
        raise RuntimeError(f"{' '.join(command[:4])} ... ends with {done.returncode}: {text}")


def _headers(packages: Path) -> list[str]:
    return [f"-I{_HERE / 'headers'}", "-isystem", str(packages / "nvidia" / "cuda_runtime" / "include")]


def _compile_module(source: Path, tools: Path, folder: Path, packages: Path) -> None:
    """CuPy's runtime module as its ``install/cupy_builder`` makes it. CUDA's functions are not linked: it finds them in
    the library, which is loaded before it."""
    constants = {
        "CUPY_USE_CUDA_PYTHON": False,
        "CUPY_CUFFT_STATIC": False,
        "CUPY_CUDA_VERSION": CUDA_VERSION,
        "CUPY_HIP_VERSION": 0,
    }
    directives = {"c_api_binop_methods": True, "binding": False, "freethreading_compatible": True}
    options = [f"--compile-time-env={name}={value}" for name, value in constants.items()]
    options += [f"--directive={name}={value}" for name, value in directives.items()]
    module = "cupy_backends/cuda/api/runtime"
    command = [sys.executable, "-m", "cython", "-3", "--cplus", *options, f"{module}.pyx"]
    _call(command, source, PYTHONPATH=str(tools))
    folder.mkdir()
    includes = [*_headers(packages), f"-I{sysconfig.get_path('include')}", f"-I{source / 'cupy_backends'}"]
    target = folder / f"runtime{sysconfig.get_config_var('EXT_SUFFIX')}"
    _call(["g++", *_FLAGS, "-w", *includes, str(source / f"{module}.cpp"), "-o", str(target)])


def _compile_library(folder: Path, packages: Path) -> None:
    files = [str(path) for path in sorted(_HERE.glob("library/*.cpp"))]
    flags = [*_FLAGS, "-fvisibility=hidden", "-Wall", "-Wextra", "-Wl,-soname,libcuda.so.1", "-Wl,-z,defs"]
    _call(["g++", *flags, *_headers(packages), *files, "-o", str(folder / "libcuda.so.1")])
