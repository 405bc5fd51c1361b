"""The CUDA sources through NVIDIA's own compiler, which needs no GPU, and what they take of the hardware."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpunet.cuda import source_names, source_text, specialisations

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""Turing, Ampere (data centre, consumer), Ada, Hopper, Blackwell (data centre, consumer)."""
CUPYS_OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")
"""What gpunet gives ``cupy.RawModule``, and what CuPy adds (``cupy/cuda/compiler.py``)."""
BUDGETS = Path(__file__).parent / "budgets.json"

_FUNCTION = re.compile(r"Compiling entry function '(\w+)' for 'sm_\w+'")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Usage:
    """What a kernel takes: registers and spilled bytes a thread, bytes of static shared memory a block."""

    registers: int
    spilled: int
    shared: int


def missing() -> str | None:
    """Why NVRTC cannot be used here, or None if it can."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except Exception as error:  # no package, or no library behind it
        return f"NVRTC is not installed ({error}): pip install cuda-bindings nvidia-cuda-nvrtc"
    return None


def variants() -> list[tuple[str, dict[str, str]]]:
    """All sources with all their specialisations."""
    return [(name, dict(defines)) for name in source_names() for defines in specialisations(name)]


def label(source: str, defines: Mapping[str, str]) -> str:
    return " ".join([source, *(f"{name}={value}" for name, value in defines.items())])


def compile_for(source: str, defines: Mapping[str, str], architecture: str) -> dict[str, Usage]:
    """Compile a source down to machine code; the usage of its kernels by name.

    Raises:
        AssertionError: it does not compile, or with a warning; says the compiler's words.
    """
    from cuda.bindings import nvrtc

    def call(function: Any, *args: Any) -> Any:
        status, *results = function(*args)
        assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, f"{function.__name__}: {status}"
        return results[0] if results else None

    program = call(nvrtc.nvrtcCreateProgram, source_text(source).encode(), f"{source}.cu".encode(), 0, [], [])
    options = [*CUPYS_OPTIONS, f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    options += [f"-D{name}={value}" for name, value in defines.items()]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    log = bytes(call(nvrtc.nvrtcGetProgramLogSize, program))
    call(nvrtc.nvrtcGetProgramLog, program, log)
    text = log.rstrip(b"\0").decode()
    call(nvrtc.nvrtcDestroyProgram, program)
    what = f"{label(source, defines)} for {architecture}"
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, f"{what} does not compile:\n{text}"
    assert "warning" not in text, f"{what} compiles with warnings:\n{text}"
    return _usages(text)


def compile_for_all(source: str, defines: Mapping[str, str]) -> dict[str, dict[str, Usage]]:
    """The usages by architecture and kernel; the compiler works on several architectures at a time.

    sm_75 has no TF32: there such a variant is the code of the one without.
    """
    architectures = ARCHITECTURES[1:] if "TF32" in defines else ARCHITECTURES
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        compiled = pool.map(lambda architecture: compile_for(source, defines, architecture), architectures)
        return dict(zip(architectures, compiled, strict=True))


def _usages(report: str) -> dict[str, Usage]:
    pieces = _FUNCTION.split(report)[1:]
    usages = {}
    for name, text in zip(pieces[::2], pieces[1::2], strict=True):
        spills, used, shared = _SPILLS.search(text), _USED.search(text), _SHARED.search(text)
        assert spills and used, f"ptxas says nothing about {name}: {text}"
        usages[name] = Usage(int(used[1]), int(spills[1]) + int(spills[2]), int(shared[1]) if shared else 0)
    return usages


def read_budgets() -> dict[str, dict[str, dict[str, Usage]]]:
    """The committed usages: by variant, kernel and architecture."""
    return {
        variant: {
            kernel: {architecture: Usage(*numbers) for architecture, numbers in by_architecture.items()}
            for kernel, by_architecture in kernels.items()
        }
        for variant, kernels in json.loads(BUDGETS.read_text())["variants"].items()
    }


def measure() -> dict[str, dict[str, dict[str, Usage]]]:
    """The usages of all kernels as they are now, laid out as the budgets."""
    found: dict[str, dict[str, dict[str, Usage]]] = {}
    for source, defines in variants():
        kernels = found.setdefault(label(source, defines), {})
        for architecture, usages in compile_for_all(source, defines).items():
            for kernel, usage in usages.items():
                kernels.setdefault(kernel, {})[architecture] = usage
    return found


def write_budgets() -> None:
    """Make what the kernels take now the budget."""
    lines = []
    for variant, kernels in measure().items():
        inner = ",\n".join(
            f"      {json.dumps(kernel)}: {{"
            + ", ".join(f'"{a}": [{u.registers}, {u.spilled}, {u.shared}]' for a, u in usages.items())
            + "}"
            for kernel, usages in sorted(kernels.items())
        )
        lines.append(f"    {json.dumps(variant)}: {{\n{inner}\n    }}")
    about = "registers a thread, bytes spilled a thread, bytes of static shared memory a block; python -m tests.nvrtc"
    BUDGETS.write_text(f'{{\n  "about": "{about}",\n  "variants": {{\n' + ",\n".join(lines) + "\n  }\n}\n")
