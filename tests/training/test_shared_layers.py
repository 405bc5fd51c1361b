"""Models that share layers, or are initialised again: what is trained is what the forward pass reads, or an error."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

from gpunet import optim
from gpunet.errors import ConfigError
from gpunet.models import CNN, MLP, Hybrid
from gpunet.nn import CrossEntropyLoss, ForwardContext, Sequential
from gpunet.training import Trainer, TrainingConfig
from tests.training.problems import images, loaders

CONFIG = TrainingConfig(epochs=2, batch_size=25, lr=0.02)


def small_cnn() -> CNN:
    return CNN((8, 8, 1), 4, (4,)).initialize(seed=0)


def test_a_second_initialize_keeps_values_and_arrays() -> None:
    """The training is that of a model that was initialised once."""
    losses = []
    for again in (False, True):
        model = MLP((64, 12, 4)).initialize(seed=0)
        flat, trainer = model.flat, Trainer(model, CONFIG, **loaders())
        if again:
            assert model.initialize(seed=5) is model and model.flat is flat
        losses.append([record["train_loss"] for record in trainer.fit().records])
    assert losses[0] == losses[1] and losses[0][1] < losses[0][0]


def test_another_dtype_is_another_array() -> None:
    model = MLP((64, 12, 4)).initialize(seed=0)
    trainer, values = Trainer(model, CONFIG, **loaders()), model.flat.values.copy()
    model.initialize(dtype="float64")
    np.testing.assert_array_equal(model.flat.values, values)
    assert model.flat.dtype == np.float64 and not trainer.flat.current
    with pytest.raises(ConfigError, match="make the Trainer after that"):
        trainer.fit()


def test_a_cnn_inside_an_initialised_hybrid_is_trained() -> None:
    cnn = small_cnn()
    hybrid = Hybrid(cnn, 4, hidden=(8,)).initialize(seed=0)
    assert hybrid.flat.current and not cnn.flat.current
    weight = cnn.layers["block1"].layers["conv"].weight
    before = weight.value.copy()
    trainer = Trainer(cnn, CONFIG, **loaders())
    losses = [record["train_loss"] for record in trainer.fit().records]
    assert losses[1] < losses[0] and not np.array_equal(weight.value, before)
    alone = small_cnn()
    expected = Trainer(alone, CONFIG, **loaders()).fit().records
    assert losses == [record["train_loss"] for record in expected], "as if there were no hybrid"

    x = images(9, 3)[0] / np.float32(255)
    np.testing.assert_array_equal(hybrid.extract_features(x), cnn.extract_features(x).reshape(9, -1))
    saved = hybrid.flat.state_dict()  # its arrays are not those that are computed with, but what it saves is
    np.testing.assert_array_equal(saved["cnn.block1.conv.weight"], weight.value)
    copy = Hybrid(small_cnn(), 4, hidden=(8,)).initialize(seed=1)
    copy.flat.load_state_dict(saved)
    np.testing.assert_array_equal(copy(x), hybrid(x))
    hybrid.flat.load_state_dict({name: np.zeros_like(value) for name, value in saved.items()})
    assert not weight.value.any(), "loaded into what is computed with"


def test_an_optimizer_whose_parameters_have_moved() -> None:
    cnn, optimizer = small_cnn(), optim.SGD()
    optimizer.bind(cnn.flat)
    x, labels = images(8, 3)
    _, backward = cnn.forward(x / np.float32(255), ForwardContext(training=True))
    backward(CrossEntropyLoss()(np.zeros((8, 4), np.float32), labels)[1])
    optimizer.update(0.1, 1)
    Hybrid(cnn, 4).initialize(seed=0)
    with pytest.raises(ConfigError, match="have moved to the arrays of another model"):
        optimizer.update(0.1, 2)


@pytest.mark.parametrize("make", [small_cnn, lambda: Hybrid(small_cnn(), 4, hidden=(8,)).initialize(seed=0)])
def test_a_deep_copy_is_a_model_of_its_own(make: Callable[[], Sequential]) -> None:
    model = make()
    twin = copy.deepcopy(model)
    before = model.flat.values.copy()
    np.testing.assert_array_equal(twin.flat.values, before)
    assert twin.flat.current and model.flat.current and type(twin) is type(model)
    losses = [[record["train_loss"] for record in Trainer(each, CONFIG, **loaders()).fit().records] for each in (twin,)]
    np.testing.assert_array_equal(model.flat.values, before)
    losses.append([record["train_loss"] for record in Trainer(model, CONFIG, **loaders()).fit().records])
    assert losses[0] == losses[1] and losses[0][1] < losses[0][0]
    assert copy.deepcopy(MLP((4, 3))).flat is None
