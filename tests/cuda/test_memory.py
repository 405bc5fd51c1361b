"""Device memory: what a training or a graph took is back when it is dropped, without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gpunet import cuda
from gpunet.backend import CPU
from gpunet.training.evaluation import Evaluator
from tests.cuda.conftest import Device
from tests.cuda.test_training import make
from tests.training.problems import make_trainer


@pytest.fixture
def without_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def live(device: Device) -> int:
    """Bytes of the device that are in use; on a GPU, according to its driver."""
    if device.backend.device.startswith("emulated"):
        from tests.emulator.array import live_bytes

        return live_bytes()
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    free, total = cupy.cuda.runtime.memGetInfo()
    return int(total - free)


def _train(device: Device, epochs: int) -> None:
    make(device.backend, "cnn", epochs=epochs, optimizer="sgd", lr=0.05, ema_decay=0.9).fit()


def test_a_dropped_training_gives_its_memory_back(device: Device, without_collection: None) -> None:
    _train(device, 1)  # kernels are loaded once, and stay
    before = live(device)
    for _ in range(2):
        training = make(device.backend, "cnn", epochs=1, optimizer="sgd", lr=0.05, ema_decay=0.9)
        training.fit()
        assert live(device) > before
        del training
        assert live(device) == before


def test_a_failed_training_gives_its_memory_back(device: Device, without_collection: None) -> None:
    _train(device, 1)
    before = live(device)
    training = make(device.backend, "mlp", epochs=1)
    training.train._labels[...] = device.array(np.full(200, 99, np.int32))
    try:
        training.fit()
    except ArithmeticError:
        del training
    assert live(device) == before


def test_a_dropped_graph_gives_its_memory_back(device: Device, without_collection: None) -> None:
    total = device.array(np.zeros(2**20, np.float32))

    def step() -> None:
        temporary = cuda.zeros(total.shape, total.dtype, total)
        cuda.launch("activation", "relu", 1, 32, temporary, total, 32, real="float32")

    device.backend.capture(step)()
    before = live(device)
    captured = device.backend.capture(step)
    for _ in range(3):
        captured()
    device.backend.synchronize()
    del captured
    assert live(device) == before


def test_many_trainings_leave_the_memory_flat(device: Device, without_collection: None) -> None:
    """50 trainings and 25 evaluations, all captured; on the emulator, which counts every byte, a few."""
    repeats = 1 if device.backend.device.startswith("emulated") else 25
    kinds = {"cnn": {"batch_size": 50}, "mlp": {"batch_size": 50, "ema_decay": 0.9}}
    evaluated = make(device.backend, "cnn")

    def once() -> None:
        for name, options in kinds.items():
            make(device.backend, name, **options).fit()
        evaluator = Evaluator(evaluated.model, evaluated.validation, keep_probabilities=True)
        assert len({evaluator().loss for _ in range(3)}) == 1

    once()  # kernels are loaded once, and stay
    before = live(device)
    taken = []
    for _ in range(repeats):
        once()
        taken.append(live(device) - before)
    assert max(map(abs, taken)) < 2**20, taken


def test_a_trainer_is_no_cycle(without_collection: None) -> None:
    """On the CPU too: its arrays go with it."""
    import weakref

    trainer = make_trainer(epochs=1)
    assert trainer.backend is CPU
    trainer.fit()
    gone: list[Callable[[], Any]] = [weakref.ref(trainer), weakref.ref(trainer.flat), weakref.ref(trainer._state)]
    del trainer
    assert [reference() for reference in gone] == [None, None, None]
