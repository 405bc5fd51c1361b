"""Too little memory: what is unused is given back first; then there is one clear error, and nothing is lost."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.cuda.runtime import Runtime
from gpunet.errors import DeviceMemoryError
from gpunet.training import Callback, Trainer
from tests.cuda.fake_cupy import FakeCupy
from tests.cuda.test_training import bits, make


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """A GPU with 100 bytes."""
    found = FakeCupy(100)
    monkeypatch.setitem(sys.modules, "cupy", found)
    for name in ("gpunet.cuda.cupy_runtime", "gpunet.cuda.cupy_graph"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return found


def runtime() -> Runtime:
    from gpunet.cuda.cupy_runtime import CupyRuntime

    return CupyRuntime(1)


class Step:
    """A step that takes the memory of `sizes` at once; a function may change them before a call."""

    def __init__(self, cupy: FakeCupy, *sizes: int) -> None:
        self.cupy, self.sizes, self.calls = cupy, sizes, 0

    def __call__(self) -> None:
        self.calls += 1
        held = [self.cupy.allocator(size) for size in self.sizes]
        assert len(held) == len(self.sizes) and self.cupy.current == 1


def test_a_first_run_takes_what_other_pools_hold_unused(cupy: FakeCupy) -> None:
    del [cupy.default.malloc(60)][:]
    assert cupy.used == 60
    step = Step(cupy, 40, 30)
    captured = runtime().capture(step)
    for _ in range(4):
        captured()
    assert (step.calls, cupy.replays, cupy.used) == (2, 3, 70)
    del captured
    assert cupy.used == 0 and cupy.current == 0


def test_a_capture_that_does_not_fit_starts_again(cupy: FakeCupy) -> None:
    """The second call needs another 50 bytes, which the default pool has: it runs as it is, the third is captured."""
    step = Step(cupy, 40)
    captured = runtime().capture(step)
    captured()
    del [cupy.default.malloc(30)][:]
    step.sizes = 40, 50
    captured()
    assert (step.calls, cupy.replays, cupy.used) == (3, 0, 90), "tried to capture, ran as it is"
    captured()
    captured()
    assert (step.calls, cupy.replays) == (4, 2)
    assert cupy.freed_in_capture == 0, "captured kernels compute in what a pool holds unused"


def test_what_does_not_fit_is_one_error_of_gpunets(cupy: FakeCupy) -> None:
    step = Step(cupy, 40)
    captured = runtime().capture(step)
    for sizes in ((40, 61), (40,), (40, 61)):
        step.sizes = sizes
        if len(sizes) == 1:
            captured()
            continue
        with pytest.raises(DeviceMemoryError) as caught:
            captured()
        message = "cuda:1 has too little memory: 61 bytes were wanted, 60 of its 100 bytes are free. Close other"
        assert str(caught.value).startswith(message)
        assert (caught.value.wanted, caught.value.free, caught.value.exit_code) == (61, 60, 4)
        assert not cupy.capturing and cupy.current == 0
    step.sizes = (40,)
    for _ in range(3):
        captured()
    assert cupy.replays == 2
    assert cupy.freed_in_capture == 0


def test_what_somebody_holds_is_given_back_with_the_next_graph(cupy: FakeCupy) -> None:
    held = []
    captured = runtime().capture(lambda: cupy.allocator(40))
    for _ in range(3):
        held = [captured()]
    del captured
    assert len(held) == 1 and cupy.used == 40
    held.clear()
    assert cupy.used == 40, "its pool is gone to CuPy, but not to gpunet"
    runtime().capture(lambda: None)
    assert cupy.used == 0


def test_other_errors_stay_what_they_are(cupy: FakeCupy) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    captured = runtime().capture(fail)
    with pytest.raises(ZeroDivisionError):
        captured()
    assert cupy.current == 0


@pytest.mark.emulator
@pytest.mark.parametrize("fails_in_epoch", [1, 2])
def test_a_training_that_does_not_fit_loses_nothing(
    fails_in_epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the batch size to try, the model and the last checkpoint are as before, and it can go on."""
    from tests.emulator import EMULATED, array, missing

    if missing():
        pytest.skip(missing())

    class Full(Callback):
        """Memory is short from the start of an epoch."""

        def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
            if epoch == fails_in_epoch:
                gc.collect()
                monkeypatch.setattr(array, "memory_limit", array.live_bytes() + 20_000)

    options: dict[str, Any] = {"epochs": 2, "optimizer": "sgd", "lr": 0.05, "ema_decay": 0.9}
    for name in ("whole", "short"):
        (tmp_path / name).mkdir()
    whole = make(EMULATED, "cnn", run_dir=tmp_path / "whole", **options)
    whole.fit()
    training = make(EMULATED, "cnn", run_dir=tmp_path / "short", callbacks=[Full()], **options)
    before = bits(training)
    with pytest.raises(DeviceMemoryError, match="or train with batch_size 5 instead of 10") as caught:
        training.fit()
    assert caught.value.wanted is not None and 0 <= caught.value.free < caught.value.wanted
    assert training.epoch == fails_in_epoch - 1
    if fails_in_epoch == 1:
        assert before.keys() == bits(training).keys()
        assert all(np.array_equal(value, before[name]) for name, value in bits(training).items())
    assert isinstance(caught.value, MemoryError), "a trial of a sweep fails with it, the sweep does not"
    assert (tmp_path / "short" / "last.safetensors").is_file() == (fails_in_epoch == 2)
    monkeypatch.undo()
    training.callbacks.clear()
    training.fit()
    for name, value in bits(whole).items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(bits(training)[name], value, err_msg=name)
