"""Batch norm over all shards: as PyTorch over the whole batch, and the same bits for any number of ranks."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest

import gpunet as gn
from gpunet.backend import Array
from gpunet.data.loader import Loader
from gpunet.errors import GpunetError, OtherTrainingError
from gpunet.models import CNN
from gpunet.nn import BatchNorm, ForwardContext, Layer, Linear, Sequential
from gpunet.nn.layer import Backward
from gpunet.training import Trainer, TrainingConfig
from tests.parallel.test_shards import fitted, make
from tests.parallel.threads import run_ranks
from tests.support import assert_close, torch_or_skip
from tests.training.problems import loaders

WEIGHTS = np.array([0.2, 3.0, 1.0, 0.5])
TERMS = 40 * 8 * 8
"""Additions in the sums of batch norm on 40 images of 8 x 8, the longest of a step."""


def step(shards: int, model: Layer | None = None, **options: Any) -> tuple[Trainer, np.ndarray]:
    """A trainer in float64 after the first step, and the gradient."""
    model = model or CNN((8, 8, 1), 4, (4, 8), dropout=0.0).initialize(seed=0, dtype="float64")
    settings = {"batch_size": 40, "shards": shards, "optimizer": "sgd", "dtype": "float64", **options}
    extra = {name: settings.pop(name) for name in ("class_weights",) if name in settings}
    config = TrainingConfig(sync_batch_norm=True, **settings)
    trainer = Trainer(model, config, **loaders(shift=1, dtype="float64"), **extra)
    trainer.train.shuffle(0, 0)
    trainer._state.start_epoch(0, [0.0] * 5)
    trainer._step_once()
    return trainer, trainer.flat.gradients.copy()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_gradients_and_statistics_are_those_of_pytorch(weights: np.ndarray | None) -> None:
    torch = torch_or_skip()
    model = CNN((8, 8, 1), 4, (4, 8), dropout=0.0).initialize(seed=0, dtype="float64")
    module, turned = gn.to_torch(model).train(), copy.deepcopy(model)
    trainer, gradient = step(8, model, class_weights=weights)
    x, labels = trainer.train.training_batch(0, 40, seed=0, step=0)
    logits = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    weight = None if weights is None else torch.from_numpy(weights)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long(), weight=weight)
    loss.backward()
    state = dict(module.named_buffers())
    gn.from_torch_state_dict(turned, {**state, **{name: part.grad for name, part in module.named_parameters()}})
    assert turned.flat is not None and np.abs(turned.flat.values).max() > 0.01
    assert_close(gradient, turned.flat.values, terms=TERMS)
    assert_close(trainer.flat.state, turned.flat.state, terms=TERMS)
    assert trainer._state.totals().loss == pytest.approx(loss.item(), rel=1e-14)


def test_any_number_of_shards_is_the_whole_batch() -> None:
    """With dropout; one shard has one image, whose statistics by itself a linear layer's batch norm would not have."""

    def model() -> Layer:
        layers = [("a", gn.nn.Flatten()), ("b", Linear(64, 6)), ("norm", BatchNorm(6)), ("drop", gn.nn.Dropout(0.3))]
        return Sequential([*layers, ("c", Linear(6, 4))]).initialize(seed=0, dtype="float64")

    whole, expected = step(1, model())
    for shards in (2, 40):
        trainer, gradient = step(shards, model())
        assert_close(gradient, expected, terms=TERMS)
        assert_close(trainer.flat.state, whole.flat.state, terms=TERMS)


@pytest.mark.parametrize("options", [{"class_weights": "balanced"}, {"dtype": "float64", "shards": 4}])
def test_any_number_of_ranks_gives_the_same_bits(options: dict[str, Any]) -> None:
    settings = {"shards": 8, "epochs": 1, "sync_batch_norm": True, **options}
    alone = fitted(make("cnn", **settings))
    for ranks in (2, 4):
        found = run_ranks(ranks, lambda rank: fitted(make("cnn", rank, **settings)))
        assert all(each == alone for each in found), ranks
    assert fitted(make("cnn", **{**settings, "sync_batch_norm": False})) != alone


def test_it_belongs_to_the_training(tmp_path: Any) -> None:
    config = {"epochs": 1, "shards": 2, "run_dir": tmp_path}
    trainer = make("cnn", **config, sync_batch_norm=True)
    trainer.fit()
    assert trainer.flat.current
    with pytest.raises(OtherTrainingError, match=r"sync_batch_norm \(True, now none\)"):
        make("cnn", **config).resume()
    assert "sync_batch_norm" not in make("cnn", shards=2).identity


class Breaks(Layer):
    """Raises when it meets the row with number `at` of a batch."""

    elementwise = True

    def __init__(self, at: int) -> None:
        self.at = at

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        if ctx.training and ctx.first_row == self.at:
            raise GpunetError("broken")
        return x, lambda dy: dy


def test_an_error_in_a_shard_leaves_no_threads() -> None:
    data = {name: Loader(np.eye(8), np.arange(8) % 2, dtype="float64") for name in ("train", "validation")}
    layers = [("a", Linear(8, 3)), ("norm", BatchNorm(3)), ("breaks", Breaks(4)), ("b", Linear(3, 2))]
    model = Sequential(layers).initialize(seed=0, dtype="float64")
    config = TrainingConfig(batch_size=8, shards=4, sync_batch_norm=True, dtype="float64")
    trainer, threads = Trainer(model, config, **data), threading.active_count()
    before = trainer.flat.state.copy()
    with pytest.raises(GpunetError, match="broken"):
        trainer.fit()
    assert threading.active_count() == threads
    assert trainer.flat.current and (trainer.flat.state == before).all()
    assert all(part.grad.base is trainer.flat.gradients for part in trainer.flat.parameters.values())
