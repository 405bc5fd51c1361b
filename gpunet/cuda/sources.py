"""The CUDA sources: where they are, which kernels they hold with which parameters, and how they may be specialised.

The text in ``kernels/`` is the one source of truth: signatures and specialisations are read from it, so that a launch
can be checked against what it launches and every specialisation can be compiled ahead.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpunet.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent
_FOLDERS = (_PACKAGE / "kernels", _PACKAGE.parent / "kernels")  # an installed wheel, a checkout
_COMMON = "common.cuh"

_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "unsigned char": np.uint8,
}
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)'
)
_STRUCT = re.compile(r"struct\s+(?P<name>\w+)\s*\{(?P<members>[^{}]*)\}\s*;")
_COMPILE = re.compile(r"^//\s*compile:(?P<alternatives>.*)$", re.MULTILINE)
_NEEDS = re.compile(r"^// needs: (\S+)$", re.MULTILINE)
_QUALIFIER = re.compile(r"\b(?:__restrict__|__grid_constant__)\b")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)

Defines = Mapping[str, str]
"""What the compiler is told with ``-D``, for example ``{"REAL": "float"}``."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel."""

    name: str
    dtype: np.dtype
    """Of the target of a pointer, or of the value; a structured dtype with the layout of C++ for a struct."""
    pointer: bool
    const: bool
    """Whether a pointer's target is only read."""


@dataclass(frozen=True)
class Kernel:
    """A ``__global__`` function."""

    name: str
    parameters: tuple[Parameter, ...]


@functools.cache
def source_folder() -> Path:
    """The folder of the CUDA sources, in the installed package or else in the checkout.

    Raises:
        ConfigError: there is none: the installation is damaged.
    """
    for folder in _FOLDERS:
        if (folder / _COMMON).is_file():
            return folder
    raise ConfigError(
        f"the CUDA sources are missing: no {_COMMON} in {' or '.join(map(str, _FOLDERS))}; reinstall gpunet"
    )


@functools.cache
def source_names() -> tuple[str, ...]:
    """The names of all sources, ``conv2d`` for ``conv2d.cu``, sorted."""
    return tuple(sorted(path.stem for path in source_folder().glob("*.cu")))


@functools.cache
def source_text(name: str) -> str:
    """What is compiled: the common header, those that lines ``// needs: name.cuh`` of the file name, and the file.

    Headers are not included by the compiler because CuPy's cache of compiled code does not look into included files.
    """
    source = _read(f"{name}.cu")
    files = _COMMON, *_NEEDS.findall(source), f"{name}.cu"
    return "\n".join(f'#line 1 "{file}"\n{_read(file)}' for file in files)


def _read(file: str) -> str:
    path = source_folder() / file
    if not path.is_file():
        raise ConfigError(f"there is no CUDA source {file} in {source_folder()}")
    return path.read_text()


@functools.cache
def specialisations(name: str) -> tuple[dict[str, str], ...]:
    """The sets of defines that the lines ``// compile: A=1 B=2 | A=2`` of a source allow, in its order."""
    found = _COMPILE.findall(source_text(name))
    if not found:
        raise ConfigError(f"{name}.cu must have a line '// compile: NAME=VALUE ... | ...'")
    alternatives = "|".join(found).split("|")
    return tuple(dict(item.split("=", 1) for item in alternative.split()) for alternative in alternatives)


def kernels(name: str, defines: Defines) -> dict[str, Kernel]:
    """The kernels of a source by name, with ``real`` being what `defines` makes of it."""
    return _kernels(name, defines["REAL"])


@functools.cache
def _kernels(name: str, real: str) -> dict[str, Kernel]:
    text = _COMMENT.sub(" ", source_text(name))
    types = _types(text, real)
    found = {}
    for match in _KERNEL.finditer(text):
        parameters = tuple(_parameter(item, types, f"{name}.cu") for item in match["parameters"].split(","))
        found[match["name"]] = Kernel(match["name"], parameters)
    if len(found) != text.count("__global__"):
        raise ConfigError(
            f"{name}.cu has {text.count('__global__')} __global__ functions, of which {len(found)} can be read"
        )
    return found


def _types(text: str, real: str) -> dict[str, np.dtype]:
    """The types that parameters may have: numbers, and the source's structs of numbers, passed by value."""
    types = {name: np.dtype(dtype) for name, dtype in _TYPES.items()}
    types["real"] = types[real]
    numbers = dict(types)
    for match in _STRUCT.finditer(text):
        members = _members(match["members"], numbers)
        if members:
            types[match["name"]] = np.dtype(members, align=True)
    return types


def _members(text: str, numbers: Mapping[str, np.dtype]) -> list[tuple[str, np.dtype]] | None:
    """Read ``int a, b; float c;``; None if there is anything but numbers."""
    members = []
    for declaration in text.split(";")[:-1]:
        first, *others = declaration.split(",")
        *kind, name = first.split()
        dtype = numbers.get(" ".join(kind))
        names = [name, *map(str.strip, others)]
        if dtype is None or not all(map(str.isidentifier, names)):
            return None
        members += [(name, dtype) for name in names]
    return members


def _parameter(text: str, types: Mapping[str, np.dtype], file: str) -> Parameter:
    """Read a declaration such as ``const real* __restrict__ x``."""
    declaration, pointer, rest = _QUALIFIER.sub(" ", text).partition("*")
    words = [*declaration.split(), *rest.split()]
    const = words[0] == "const"
    name = words.pop()
    kind = " ".join(words[const:])
    if kind not in types:
        raise ConfigError(
            f"{file}: parameter {text.strip()!r} has a type that launches do not know: {', '.join(types)}"
        )
    return Parameter(name, types[kind], bool(pointer), const)
