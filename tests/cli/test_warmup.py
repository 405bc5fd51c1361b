"""``gpunet warmup``."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

import gpunet.experiments.warmup as warmup
from gpunet import cuda
from gpunet.backend import Backend
from tests.cli.conftest import Command


@pytest.mark.slow
def test_on_the_cpu_nothing_is_left_to_compile(gpunet_command: Command) -> None:
    outcome = gpunet_command("warmup", "--device", "cpu")
    assert outcome.code == 0 and "for cpu" in outcome.out
    again = gpunet_command("warmup", "--json")
    assert {**json.loads(again.out), "seconds": 0} == {"device": "cpu", "compiled": 0, "seconds": 0}
    assert "were already compiled" in gpunet_command("warmup").out


def test_names_are_counted(gpunet_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(backend: Backend, on_compile: Callable[[str, int | None], None]) -> None:
        for name in ("relu", "gelu"):
            on_compile(name, 2)

    monkeypatch.setattr(warmup, "warm_up", pretend)
    assert gpunet_command("warmup").out.startswith("2 kernels compiled for cpu in 0.")


def test_on_a_gpu_every_variant_is_compiled_once() -> None:
    compiled: list[tuple[str, dict[str, str]]] = []

    class Compiler:
        def compile(self, source: str, defines: dict[str, str]) -> object:
            compiled.append((source, dict(defines)))
            return object()

    told: list[tuple[str, int | None]] = []
    backend = cuda.CudaBackend("warm:0", None, Compiler())  # type: ignore[arg-type]
    for _ in range(2):
        warmup.warm_up(backend, lambda name, total: told.append((name, total)))
    variants = [(source, defines) for source in cuda.source_names() for defines in cuda.specialisations(source)]
    assert compiled == variants
    assert len(told) == len(variants) and told[0][0] == "activation REAL=float"
    assert {total for _, total in told} == {len(variants)}
