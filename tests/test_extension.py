"""What CONTRIBUTING.md says of adding a thing: a class and one entry, and everything else knows it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import gpunet as gn
from gpunet.errors import ConfigError
from gpunet.models.registry import ModelKind
from gpunet.options import Options, option
from tests.cli.conftest import Command, assert_refused, gpunet_command

__all__ = ["gpunet_command"]


class SignSGD(gn.optim.Optimizer):
    """Steps by the sign of the gradient, in array expressions that any device takes."""

    options = ("weight_decay",)

    def update(self, lr: Any, step: Any, scale: Any = None) -> None:
        xp = self.flat.backend.xp
        change = lr * (xp.sign(self.flat.gradients) + self.weight_decay * self.flat.values)
        self.flat.values -= change if scale is None else xp.where(xp.isfinite(scale), change, 0)


class Halving(gn.optim.schedules.Schedule):
    """The peak, and half of it in the second half."""

    options: ClassVar[dict[str, str]] = {"lr_factor": "factor"}

    def __init__(self, lr: float, *, total_steps: int, steps_per_epoch: int, factor: float) -> None:
        super().__init__(lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        self.factor = factor

    def lr(self, step: int) -> float:
        return self.peak * (self.factor if 2 * step >= self.total_steps else 1.0)


class Square(gn.nn.Activation):
    """x * max(x, 0)."""

    non_decreasing = True
    gain = math.sqrt(2 / 3)

    def forward(self, x: Any, ctx: gn.nn.ForwardContext) -> Any:
        y = gn.ops.relu(x)
        return y * y, lambda dy: 2 * dy * y


@dataclass(frozen=True)
class ToyConfig(Options):
    """A linear classifier on an activation of the pixels."""

    activation: str = option("square", "what comes first", choices=gn.nn.ACTIVATIONS)
    init: str = option("tiny", "initialisation", choices=gn.nn.INITIALIZERS)


class Toy(gn.nn.Sequential):
    @classmethod
    def from_config(cls, config: ToyConfig, input_shape: Sequence[int], classes: int) -> Toy:
        linear = gn.nn.Linear(math.prod(input_shape), classes, init=gn.nn.INITIALIZERS[config.init])
        return cls([gn.nn.make_activation(config.activation), gn.nn.Flatten(), linear])


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gn.optim.OPTIMIZERS, "sign", SignSGD)
    monkeypatch.setitem(gn.optim.SCHEDULES, "halving", Halving)
    monkeypatch.setitem(gn.nn.ACTIVATIONS, "square", Square)
    monkeypatch.setitem(gn.nn.INITIALIZERS, "tiny", gn.nn.Random(scale=1e-3))
    kind = ModelKind("toy", "Toy", "a", "a linear classifier", ToyConfig, Toy.from_config)
    monkeypatch.setitem(gn.models.MODELS, "toy", kind)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures 6 x 6, the left or the right half bright."""
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    x = rng.integers(0, 100, (160, 6, 6))
    x[y == 0, :, :3] += 150
    x[y == 1, :, 3:] += 150
    path = tmp_path / "data.npz"
    np.savez(path, x_train=x[:120].astype(np.uint8), y_train=y[:120], x_test=x[120:].astype(np.uint8), y_test=y[120:])
    return path


def test_toys_are_trained_tested_and_reported_by_their_names(gpunet_command: Command, data: Path) -> None:
    common = ["--data", data, "--epochs", 8, "--batch-size", 16, "--lr", 0.01, "-q"]
    toys = ["--optimizer", "sign", "--schedule", "halving", "--weight-decay", 0.1]
    outcome = gpunet_command("train", "toy", *common, *toys, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["model"] == "toy" and result["test_accuracy"] > 0.95
    run = Path(result["run_dir"])
    rates = [json.loads(line)["lr"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rates == [0.01] * 4 + [0.005] * 4
    again = gpunet_command("evaluate", run, "--json", "-q")
    assert json.loads(again.out)["accuracy"] == result["test_accuracy"]
    assert gpunet_command("report", run, "-q").code == 0
    assert "Toy" in (run / "report.html").read_text()

    mlp = gpunet_command("train", "mlp", *common, "--hidden", 8, "--activation", "square", "--optimizer", "sign")
    assert mlp.code == 0, mlp.err


def test_messages_and_help_know_the_toys(gpunet_command: Command) -> None:
    for words, text in (
        (("train", "--help"), "a linear classifier"),
        (("train", "toy", "--help"), "{relu,leaky_relu,tanh,gelu,gelu_tanh,square}"),
        (("train", "cnn", "--help"), "{sgd,adam,adamw,sign}"),
    ):
        assert text in gpunet_command(*words).out
    assert_refused(gpunet_command("train", "toi"), 2, "unknown model 'toi': expected mlp, cnn, hybrid, toy")
    assert_refused(gpunet_command("train", "toy", "--schedule", "halv"), 2, "(did you mean 'halving'?)")


def test_an_option_that_no_training_declares() -> None:
    class Wrong(gn.optim.SGD):
        options = ("momentun",)

    gn.optim.OPTIMIZERS["sign"] = Wrong
    with pytest.raises(ConfigError, match="the optimizer sign needs the option momentun, which was not given"):
        gn.optim.create("sign", **vars(gn.training.TrainingConfig()))
