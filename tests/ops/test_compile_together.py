"""Kernels are compiled in several processes, and in this one alone wherever that cannot be."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba.core.config
import numpy as np
import pytest
from numba.core.caching import NullCache

from gpunet.backend import CPU, Array
from gpunet.data.loader import Loader
from gpunet.models import CNN
from gpunet.nn import Flatten, ForwardContext, Linear, ReLU, Sequential
from gpunet.nn.layer import Backward
from gpunet.ops import _compile_together, _intercept
from gpunet.ops._numba import jit
from gpunet.ops.cross_entropy import cpu as cross_entropy
from gpunet.ops.gather import cpu as gather
from gpunet.training import Trainer, TrainingConfig

LOGITS, LABELS = np.float32([[1, 2], [3, 0], [0, 5]]), np.int64([1, 0, 0])


class Kernels:
    """Three small kernels, as a process has them that has not called them yet."""

    def __init__(self) -> None:
        functions = cross_entropy._count_correct, cross_entropy._sum, gather._all_within
        self.all = self.count, self.sum, self.within = [jit(kernel.py_func) for kernel in functions]
        self.rehearsals = 0

    def run(self) -> tuple[Any, ...]:
        return self.count(LOGITS, LABELS), self.sum(np.float64([1, 2, 4])), self.within(LABELS, 2)

    def rehearse(self) -> None:
        self.rehearsals += 1
        assert self.run() == (1, 1, 1)

    def together(self) -> tuple[Any, ...]:
        with CPU.compile_together(self.rehearse):
            return self.run()

    def compiled_here(self) -> int:
        return sum(sum(kernel.stats.cache_misses.values()) for kernel in self.all)


RIGHT = (2, 7.0, True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of kernels that were compiled by two processes."""
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_compile_together.numba, "get_num_threads", lambda: 2)
    return tmp_path / "cache"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes started."""
    found: list[Any] = []
    start = _compile_together._start
    monkeypatch.setattr(_compile_together, "_start", lambda: found.append(start()) or found[-1])
    return found


def test_another_process_helps(started: list[Any], folder: Path) -> None:
    cold = Kernels()
    assert cold.together() == RIGHT
    assert cold.rehearsals == 1 and len(started) == 1 and started[0].poll() is not None
    assert cold.compiled_here() < 3
    assert len(list(folder.rglob("*.nbc"))) == 3
    warm = Kernels()
    assert warm.together() == RIGHT
    assert warm.rehearsals == 0 and len(started) == 1 and warm.compiled_here() == 0


def test_on_one_core_no_process_is_started(monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
    monkeypatch.setattr(_compile_together.numba, "get_num_threads", lambda: 1)
    kernels = Kernels()
    assert kernels.together() == RIGHT
    assert started == [] and kernels.compiled_here() == 3


def test_without_a_cache_no_process_is_started(started: list[Any]) -> None:
    kernels = Kernels()
    for kernel in kernels.all:
        kernel._cache = NullCache()  # what kernel_cache gives if no folder can be written to
    assert kernels.together() == RIGHT
    assert started == [] and kernels.rehearsals == 1


@pytest.mark.parametrize(
    "program",
    ["", "import sys; sys.stdin.buffer.read(1)", "import sys; sys.stdin.buffer.read(1); print(end='0', flush=True)"],
    ids=["ends at once", "dies of a kernel", "cannot write"],
)
def test_a_process_that_is_no_help(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(_compile_together, "_start", start)
    kernels = Kernels()
    assert kernels.together() == RIGHT and kernels.compiled_here() == 3


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(_compile_together, "_start", start)
    kernels = Kernels()
    assert kernels.together() == RIGHT and kernels.compiled_here() == 3


def test_the_process_ends_with_its_parent() -> None:
    process = _compile_together._start()
    _, _ = process.communicate(timeout=60)  # which closes its stdin
    assert process.returncode == 0


def test_a_rehearsal_that_fails(started: list[Any]) -> None:
    kernels = Kernels()

    def rehearse() -> None:
        kernels.count(LOGITS, LABELS)
        raise ValueError("of a layer that looks at its numbers")

    with CPU.compile_together(rehearse):
        assert kernels.run() == RIGHT
    assert started == []  # for one kernel


def test_a_rehearsal_computes_with_any_numbers(started: list[Any]) -> None:
    """What a kernel did not write may overflow; here warnings are errors, which would end the rehearsal."""
    kernels, large = Kernels(), np.full(3, 1e38, np.float32)

    def rehearse() -> None:
        large * 100
        kernels.run()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(_compile_together._rehearsed(rehearse)) == 3


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "adamw": lambda: {"optimizer": "adamw", "ema_decay": 0.9, "clip_norm": 1.0},
    "momentum": lambda: {"optimizer": "sgd", "momentum": 0.9, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_a_rehearsed_step_is_the_step(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls the kernels of a step with arguments of the same types, and leaves everything as it was."""
    monkeypatch.undo()
    loader = Loader(np.arange(512, dtype=np.uint8).reshape(8, 8, 8, 1), np.arange(8) % 3, flip=True, shift=1)
    model = CNN((8, 8, 1), 3, filters=(4, 4), dropout=0.1).initialize(device=CPU)
    config = TrainingConfig(batch_size=4, epochs=1, **CASES[case]())
    trainer = Trainer(model, config, train=loader, validation=loader, progress=False)
    trainer.train.shuffle(0, 0)
    trainer._state.start_epoch(0, [0.1, 0.1])
    before = {name: array.copy() for name, array in trainer._arrays().items()}
    rehearsed = _compile_together._rehearsed(trainer._rehearse)
    for name, array in trainer._arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)

    called: dict[Any, None] = {}

    def code_for(kernel: Any, args: tuple[Any, ...]) -> Any:
        called[kernel, _compile_together._types(kernel, args)] = None
        return _intercept.code_of(kernel, args)

    with _intercept.intercepted(code_for):
        trainer._training_step()
    assert {str(call) for call in called} == {str(call) for call in rehearsed}


@pytest.mark.parametrize("options", [{"shards": 1}, {"shards": 2}, {"shards": 2, "sync_batch_norm": True}], ids=str)
def test_a_step_that_a_rehearsal_interrupts_anywhere(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends in the same bits, whichever kernel is the first that is not cached: each of them in turn."""
    monkeypatch.undo()
    loader = Loader(np.arange(512, dtype=np.uint8).reshape(8, 8, 8, 1), np.arange(8) % 3, flip=True, shift=1)

    def step(kernels_before: int | None) -> tuple[dict[str, np.ndarray], int]:
        model = CNN((8, 8, 1), 3, filters=(4, 4), dropout=0.1).initialize(device=CPU)
        config = TrainingConfig(batch_size=4, epochs=1, ema_decay=0.9, **options)
        trainer = Trainer(model, config, train=loader, validation=loader, progress=False)
        trainer.train.shuffle(0, 0)
        trainer._state.start_epoch(0, [0.1, 0.1])
        found = 0

        def code_of(kernel: Any, args: tuple[Any, ...]) -> Any:
            nonlocal found
            found += 1
            if found - 1 == kernels_before:
                _compile_together._rehearsed(trainer._rehearse)
            return _intercept.code_of(kernel, args)

        with monkeypatch.context() as patch:
            patch.setattr(_compile_together, "code_of", code_of)
            for kernel in _intercept.kernels:
                kernel._clear()
            trainer._captured()
        return {name: array.copy() for name, array in trainer._arrays().items()}, found

    expected, kernels = step(None)
    assert kernels > 15
    for before in range(kernels):
        for name, array in step(before)[0].items():
            np.testing.assert_array_equal(array, expected[name], err_msg=f"{name}, kernel {before}")


class Counting(ReLU):
    """A layer of a user's own, with a state."""

    calls = 0

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        self.calls += 1
        return super().forward(x, ctx)


def test_no_rehearsal_for_layers_that_may_have_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    loader = Loader(np.arange(512, dtype=np.uint8).reshape(8, 8, 8, 1), np.arange(8) % 3)
    counting = Counting()
    model = Sequential([("flatten", Flatten()), ("linear", Linear(64, 3)), ("counting", counting)])
    config = TrainingConfig(batch_size=4, epochs=1)
    trainer = Trainer(model.initialize(device=CPU), config, train=loader, validation=loader, progress=False)
    trainer.train.shuffle(0, 0)
    trainer._state.start_epoch(0, [0.1, 0.1])
    monkeypatch.setattr(trainer, "_rehearse", trainer._training_step)
    monkeypatch.setattr(_compile_together, "_is_cached", lambda kernel, types: False)
    for kernel in _intercept.kernels:  # so that each of them would start a rehearsal
        kernel._clear()
    trainer._first_step()
    assert counting.calls == 1
