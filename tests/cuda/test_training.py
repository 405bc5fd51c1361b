"""Whole trainings on the CUDA path: they follow the CPU's, and a replayed graph gives the bits of the eager step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.backend import CPU, Backend
from gpunet.data import DataConfig, streaming
from gpunet.data.pack import pack
from gpunet.errors import DivergedError
from gpunet.experiments.prepare import prepare
from gpunet.models import CNN, MLP, Hybrid
from gpunet.nn import Layer
from gpunet.training import Callback, HybridTrainingConfig, Trainer, TrainingConfig, fit_hybrid
from tests.cuda.conftest import Device
from tests.training import test_objective
from tests.training.problems import images, loaders

MODELS: dict[str, Callable[[], Layer]] = {
    "mlp": lambda: MLP((64, 24, 4), "gelu", 0.2),
    "cnn": lambda: CNN((8, 8, 1), 4, (4, 8), dropout=0.1),
    "hybrid": lambda: Hybrid(CNN((8, 8, 1), 4, (4, 8)), 4, hidden=(12,), dropout=0.1),
}


class Losses(Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.sums = [0.0]

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        self.sums.append(loss * step)

    @property
    def values(self) -> np.ndarray:
        return np.diff(self.sums)


def make(backend: Backend, name: str, *, callbacks: Any = (), run_dir: Path | None = None, **options: Any) -> Trainer:
    settings = {"epochs": 1, "batch_size": 10, "lr": 5e-3, "optimizer": "adamw", "label_smoothing": 0.1, **options}
    dtype = settings.get("dtype", "float32")
    model = MODELS[name]().initialize(seed=0, device=backend, dtype=dtype)
    data = loaders(backend, shift=1, cutout=2, dtype=dtype)
    return Trainer(model, TrainingConfig(**settings), **data, callbacks=callbacks, run_dir=run_dir)


def losses(backend: Backend, name: str, **options: Any) -> np.ndarray:
    found = Losses()
    make(backend, name, callbacks=[found], **options).fit()
    return found.values


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_follows_the_cpus(device: Device, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 steps in float32; what rounding does to their losses is what it does to those of the CPU."""
    monkeypatch.setattr(device.backend, "steps_between_reads", 1)
    ours, cpu, exact = losses(device.backend, name), losses(CPU, name), losses(CPU, name, dtype="float64")
    assert ours.shape == (20,) and np.isfinite(ours).all()
    assert exact[-5:].mean() < exact[:5].mean(), "there is something to learn"
    rounding = np.maximum(np.abs(cpu - exact), np.finfo(np.float32).eps * exact)
    # Rounding grows with the steps; two float32 paths differ from the exact one by as much, but not at the same step.
    allowed = 8 * np.maximum.accumulate(rounding)
    assert (np.abs(ours - exact) <= allowed).all(), (ours - exact, allowed)


def test_tf32_is_near_and_other(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors lose 13 bits of mantissa: the losses move by about 2**-11 of their size and more as steps add up."""
    monkeypatch.setattr(device.backend, "steps_between_reads", 1)
    exact, tf32 = losses(device.backend, "cnn"), losses(device.backend, "cnn", precision="tf32")
    np.testing.assert_array_equal(losses(CPU, "cnn", precision="tf32"), losses(CPU, "cnn"))  # the CPU has none
    difference = np.abs(tf32 - exact)
    assert 1e-6 < difference[0] < 2e-3 * exact[0]
    assert (difference < 0.05 * exact).all()


def bits(trained: Trainer) -> dict[str, np.ndarray]:
    """All that a training leaves behind."""
    host = trained.backend.to_numpy
    arrays = {"values": trained.flat.values, "state": trained.flat.state, **trained.optimizer.slots()}
    if trained.average is not None:
        arrays |= {f"average {name}": slot for name, slot in trained.average.slots().items()}
    return {name: host(array).copy() for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn", {"optimizer": "sgd", "lr": 0.05, "clip_norm": 1.0, "ema_decay": 0.9}),
        ("mlp", {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "one_cycle"}),
        ("hybrid", {"optimizer": "adam", "ema_decay": 0.9}),
        ("cnn", {"precision": "tf32"}),
    ],
)
def test_a_replayed_graph_has_the_bits_of_the_eager_step(device: Device, name: str, options: dict[str, Any]) -> None:
    captured = make(device.backend, name, epochs=2, **options)
    eager = make(device.backend, name, epochs=2, **options)
    eager._step_once = eager._training_step
    called = 0

    def counted(step: Callable[[], None] = captured._training_step) -> None:
        nonlocal called
        called += 1
        step()

    captured._step_once = device.backend.capture(counted)
    histories = [training.fit().records for training in (captured, eager)]
    assert called == 2, "run once as it is, recorded once, and from then on replayed"
    for field in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "lr"):
        assert [record[field] for record in histories[0]] == [record[field] for record in histories[1]], field
    left, right = bits(captured), bits(eager)
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)
        assert np.isfinite(left[key]).all()


def test_a_stopped_and_resumed_training_has_the_same_bits(device: Device, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_epoch_end(self, trainer: Trainer, record: Any) -> None:
            trainer.stop = True

    whole = make(device.backend, "cnn", epochs=2, ema_decay=0.9)
    whole.fit()
    make(device.backend, "cnn", epochs=2, ema_decay=0.9, run_dir=tmp_path, callbacks=[Stop()]).fit()
    resumed = make(device.backend, "cnn", epochs=2, ema_decay=0.9, run_dir=tmp_path)
    assert resumed.resume()
    resumed.stop = False
    resumed.fit()
    assert resumed.epoch == whole.epoch == 2
    for key, value in bits(whole).items():
        np.testing.assert_array_equal(bits(resumed)[key], value, err_msg=key)


def test_divergence_is_found_and_placed(device: Device) -> None:
    """The host looks only now and then, yet names the step, and the weights are those before the epoch."""
    training = make(device.backend, "mlp", epochs=1)
    good = make(device.backend, "mlp", epochs=1)
    labels = training.train.labels
    order = np.arange(200)
    for one in (training, good):
        one.train.shuffle = lambda *unused, loader=one.train: loader._order.__setitem__(..., device.array(order))
    bad = device.host(labels).copy()
    bad[75] = 99  # out of range: on a GPU, the loss of its step is NaN
    training.train._labels[...] = device.array(bad)
    with pytest.raises(DivergedError, match=r"training diverged in step 8 \(epoch 1, "):
        training.fit()
    expected, found = (device.host(one.flat.values) for one in (good, training))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, expected)


def test_hybrid_pipeline(device: Device) -> None:
    """CNN, features, classifier, joint training: all stages on the device."""
    from gpunet.models import HybridConfig

    model = HybridConfig(filters=[4, 8], kernel_sizes=[3], classifier_hidden=[12])
    training = TrainingConfig(epochs=1, batch_size=20, lr=5e-3)
    stages = HybridTrainingConfig(classifier_epochs=1, joint_epochs=1)
    found = {
        backend.device: fit_hybrid(model, training, stages, **loaders(backend), classes=4)
        for backend in (device.backend, CPU)
    }
    ours, cpu = found[device.backend.device], found["cpu"]
    assert [record["stage"] for record in ours.records] == ["cnn", "classifier", "joint"]
    for ours_record, cpu_record in zip(ours.records, cpu.records, strict=True):
        # a hundred images: rounding may turn a borderline one
        assert abs(ours_record["validation_loss"] - cpu_record["validation_loss"]) < 1e-3
        assert abs(ours_record["validation_accuracy"] - cpu_record["validation_accuracy"]) <= 0.02


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("task", "loss"), [("regression", "huber"), ("multilabel", "bce_with_logits")])
def test_numbers_with_weights(device: Device, task: str, loss: str, dtype: str) -> None:
    """A captured step gathers targets and weights as the eager one does, and follows the CPU's."""
    options: dict[str, Any] = {"task": task, "loss": loss, "weighted": True, "dtype": dtype, "epochs": 1}
    captured, eager, cpu = (test_objective.make(backend=on, **options) for on in (device.backend, device.backend, CPU))
    eager._step_once = eager._training_step
    records = [training.fit().records[-1] for training in (captured, eager, cpu)]
    for key, value in bits(captured).items():
        np.testing.assert_array_equal(value, bits(eager)[key], err_msg=key)
    tolerance = 1e-4 if dtype == "float32" else 1e-11  # seven steps of Adam, which magnifies the rounding of gradients
    for name, value in records[2].items():
        if name.startswith(("train", "validation")):
            np.testing.assert_allclose(records[0][name], value, rtol=tolerance, atol=tolerance, err_msg=name)
            assert records[0][name] == records[1][name]


def test_a_captured_step_reads_what_streams_in(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph refers to arrays that stay in place; what is in them changes from chunk to chunk."""
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 12 * 64)
    pixels, labels = images(60, 1)
    np.savez(tmp_path / "a.npz", X=pixels, y=labels)
    pack(tmp_path / "a.npz", tmp_path / "packed", images_per_shard=7)
    found = []
    for stream in ("never", "always"):
        data = prepare(DataConfig(data=str(tmp_path / "packed"), stream=stream, shift=1, alternate_flip=True))
        parts = {name: data.loader(name, device.backend, "float32", data.config) for name in ("train", "validation")}
        model = MODELS["mlp"]().initialize(seed=0, device=device.backend)
        trainer = Trainer(model, TrainingConfig(epochs=2, batch_size=8), **parts)
        trainer.fit()
        found.append((device.backend.to_numpy(trainer.flat.values).tobytes(), trainer.history.records[-1]["step"]))
    assert found[0] == found[1]
