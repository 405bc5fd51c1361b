"""Steps on the CPU that are recorded have the bits of those that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet import aligned, nn
from gpunet.backend import CPU, Array
from gpunet.data.loader import Loader
from gpunet.errors import DataError, DivergedError
from gpunet.models import CNN, MLP
from gpunet.nn.layer import Backward, ForwardContext
from gpunet.optim import OPTIMIZERS
from gpunet.recording import Recorded
from gpunet.training import Callback, Trainer, TrainingConfig
from tests.training.problems import images, make_trainer


@pytest.fixture(autouse=True)
def all_in_memory_of_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays, too, which else are left where they are."""
    monkeypatch.setattr(aligned, "SMALL", 0)


def convolutions(*layers: nn.Layer) -> nn.Layer:
    """A network of `layers` on 8 x 8 images, four channels wide at its end."""
    first = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential([*enumerated(first, *layers), ("features", nn.GlobalAvgPool2d()), ("linear", nn.Linear(4, 4))])


def enumerated(*layers: nn.Layer) -> list[tuple[str, nn.Layer]]:
    return [(f"layer{number}", layer) for number, layer in enumerate(layers)]


def cnn(**options: Any) -> CNN:
    return CNN((8, 8, 1), 4, **{"filters": (4, 8), "dropout": 0.1, **options})


MODELS = {
    "mlp": lambda: MLP((64, 20, 9, 4), dropout=0.2),
    "cnn": cnn,
    "cnn winograd": lambda: cnn(filters=(16, 32)),
    "cnn average": lambda: cnn(pooling="average", activation="leaky_relu", head=(6,)),
    "cnn global average": lambda: cnn(filters=(4, 8, 8, 8), pooling="global_average"),
    "cnn 5x5 and 1x1 without batch norm": lambda: cnn(kernel_sizes=(5, 1), batch_norm=False, pooling="none"),
    "strides": lambda: convolutions(nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.ReLU()),
    "dilation": lambda: convolutions(nn.Conv2d(4, 4, 3, dilation=2, padding=2), nn.Tanh()),
    "groups": lambda: convolutions(nn.Conv2d(4, 4, 3, groups=2, padding=1), nn.BatchNorm(4), nn.GELU()),
    "overlapping pools": lambda: convolutions(nn.MaxPool2d(3, stride=2, padding=1), nn.AvgPool2d(3, stride=1)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": {"ema_decay": 0.9, "clip_norm": 1.0, "weight_decay": 0.01},
    "sgd": {"optimizer": "sgd", "label_smoothing": 0.1, "class_weights": "balanced"},
    "adam": {"optimizer": "adam", "loss": "focal", "schedule": "cosine"},
    "float64": {"optimizer": "sgd", "momentum": 0.0, "nesterov": False, "dtype": "float64"},
}


def trained(model: nn.Layer, recorded: bool, *, images_of: Loader | None = None, **options: Any) -> Trainer:
    config = TrainingConfig(**{"epochs": 2, "batch_size": 32, "lr": 5e-3, **options})
    model.initialize(seed=1, dtype=config.dtype)
    loader = images_of or Loader(*images(200, 1), flip=True, shift=1, cutout=2, dtype=config.dtype)
    CPU.captures = recorded
    try:
        trainer = Trainer(model, config, train=loader, validation=loader, progress=False)
    finally:
        CPU.captures = True
    if recorded:
        fill = _poison_between_steps(trainer)
        trainer.fit()
        assert min(fill) > aligned.LINE, "no step was repeated, or it used no memory"
    else:
        trainer.fit()
    return trainer


def _poison_between_steps(trainer: Trainer) -> list[int]:
    """Have the memory of a recorded step overwritten before each repetition; the sizes of that memory."""
    captured: Any = trainer._captured
    found: list[int] = []

    def step() -> None:
        if captured.calls is not None:
            captured.memory.fill(0xFF)
            found.append(captured.memory.size)
        captured()

    assert isinstance(captured, Recorded)
    trainer._captured = step
    return found


def assert_same(one: Trainer, other: Trainer) -> None:
    others = other._arrays()
    for name, array in one._arrays().items():
        assert np.isfinite(array).all(), name
        np.testing.assert_array_equal(array, others[name], err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    assert_same(trained(MODELS[name](), True), trained(MODELS[name](), False))


@pytest.mark.parametrize("name", MODELS)
def test_inference(name: str) -> None:
    model, rng = MODELS[name]().initialize(seed=1), np.random.default_rng(0)
    x = rng.random((5, 8, 8, 1), np.float32)
    captured: Any = CPU.capture(lambda: model(x), only_ops=True)
    for _ in range(4):
        x[...] = rng.random(x.shape, np.float32)
        captured.memory.fill(0xFF)
        np.testing.assert_array_equal(captured(), model(x))
    assert captured.calls is not None


@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_activations(activation: str) -> None:
    runs = [trained(cnn(activation=activation, pooling="average"), recorded) for recorded in (True, False)]
    assert_same(*runs)


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    assert_same(trained(cnn(), True, **OPTIONS[name]), trained(cnn(), False, **OPTIONS[name]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer: str) -> None:
    runs = [trained(cnn(), recorded, optimizer=optimizer, weight_decay=0.01) for recorded in (True, False)]
    assert_same(*runs)


OF_CLASSES = {"cross_entropy", "focal"}
"""Losses that the options above train with."""


@pytest.mark.parametrize("loss", sorted(set(nn.LOSSES) - OF_CLASSES))
def test_numbers_and_labels_as_targets(loss: str) -> None:
    pixels, classes = images(200, 1)
    shape = (200,) if loss != "bce_with_logits" else (200, 4)
    targets = (np.eye(4)[classes] if len(shape) == 2 else classes).astype(np.float32)
    options: Any = {"sample_weight": np.linspace(0.5, 1, 200, dtype=np.float32), "shift": 1}
    runs = []
    for recorded in (True, False):
        model = CNN((8, 8, 1), 1 if len(shape) == 1 else 4, filters=(4, 8))
        loader = Loader(pixels, targets, **options)
        runs.append(trained(model, recorded, images_of=loader, loss=loss))
    assert_same(*runs)


def test_features_instead_of_images() -> None:
    features = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
    runs = []
    for recorded in (True, False):
        loader = Loader(features, images(200, 1)[1])
        runs.append(trained(MLP((12, 20, 4)), recorded, images_of=loader))
    assert_same(*runs)


class Doubling(nn.Layer):
    """A layer of a user's own, which computes by NumPy."""

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        return 2 * x, lambda dy: 2 * dy

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape


def test_layers_and_losses_of_users_are_not_recorded() -> None:
    model = nn.Sequential([("flatten", nn.Flatten()), ("double", Doubling()), ("linear", nn.Linear(64, 4))])
    trainer = make_trainer(model=model.initialize(seed=0))
    assert not isinstance(trainer._captured, Recorded)
    trainer.fit()
    assert trainer.history.records[-1]["train_loss"] < trainer.history.records[0]["train_loss"]


def test_a_label_that_becomes_wrong_is_found_in_a_repeated_step() -> None:
    trainer = make_trainer(epochs=3)
    trainer.fit()
    assert isinstance(trainer._captured, Recorded) and trainer._captured.calls is not None
    trainer._state.start_epoch(0, [1e-3] * trainer.steps_per_epoch)
    trainer.train._labels[:] = 9
    with pytest.raises(DataError, match=r"labels must be in \[0, 4\) for 4 classes, got 9"):
        trainer._captured()


def test_a_repeated_step_that_diverges_is_found_and_taken_back() -> None:
    model = cnn().initialize(seed=0)
    loader = Loader(*images(200, 1))
    config = TrainingConfig(epochs=3, batch_size=32)

    class Breaking(Callback):
        def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
            if epoch == 3:
                trainer.flat.values[:4] = np.inf
                self.before = trainer.flat.values.copy(), trainer.flat.state.copy()

    breaking = Breaking()
    trainer = Trainer(model, config, train=loader, validation=loader, callbacks=[breaking], progress=False)
    with pytest.raises(DivergedError, match="step 13"):
        trainer.fit()
    for found, before in zip((trainer.flat.values, trainer.flat.state), breaking.before, strict=True):
        np.testing.assert_array_equal(found, before)
