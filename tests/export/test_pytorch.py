"""PyTorch's module of a model: the same logits, and a state dict that comes back to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpunet as gn
from gpunet.errors import CheckpointError, ConfigError
from gpunet.models import MLP
from gpunet.nn import AvgPool2d, BatchNorm, Conv2d, Flatten, Linear, MaxPool2d, Sequential
from tests.export.models import MODELS, SHAPE, made
from tests.support import torch_or_skip

X = np.random.default_rng(5).normal(size=(7, *SHAPE)).astype(np.float32)


def layers() -> Any:
    """Batch norm of a flattened map, strides, groups, pooling with padding."""
    body = [Conv2d(3, 6, 3, stride=2, padding=1, groups=3), MaxPool2d(2, stride=1), AvgPool2d(2, stride=1, padding=1)]
    size = int(np.prod(Sequential(body).output_shape(SHAPE)))
    return Sequential([*body, Flatten(), BatchNorm(size), Linear(size, 4, bias=False)])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [*MODELS, "layers"])
def test_module_and_state_dict(name: str) -> None:
    torch = torch_or_skip()
    model = made(name) if name in MODELS else made(name, layers)
    module = gn.to_torch(model, input_shape=SHAPE)
    with torch.no_grad():
        found = module(torch.from_numpy(np.ascontiguousarray(X.transpose(0, 3, 1, 2)))).numpy()
    expected = model(X)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    other = made(name) if name in MODELS else made(name, layers)
    other.flat.values[...], other.flat.state[...] = 0, 1
    assert gn.from_torch_state_dict(other, module.state_dict(), input_shape=SHAPE) is other
    assert (other.flat.values == model.flat.values).all() and (other.flat.state == model.flat.state).all()
    arrays = gn.to_torch_state_dict(model, input_shape=SHAPE, tensors=False)
    state = module.state_dict()
    assert list(arrays) == list(state)
    assert all(np.array_equal(arrays[key], state[key].numpy()) for key in state)


def test_what_does_not_fit() -> None:
    model = MLP((4, 3, 2)).initialize(seed=0)
    before = model.flat.values.copy()
    state = gn.to_torch_state_dict(model, tensors=False)
    assert state["linear1.weight"].shape == (3, 4)
    for wrong, message in (
        ({"linear1.weight": state["linear1.weight"]}, r"lacks linear1.bias"),
        ({**state, "more": np.zeros(1)}, "has more, which this model has not"),
        ({**state, "linear1.weight": np.zeros((4, 3), np.float32)}, r"has shape \(4, 3\), this model needs \(3, 4\)"),
        ({**state, "linear2.bias": np.full(2, np.nan, np.float32)}, "NaN or infinite"),
    ):
        with pytest.raises(CheckpointError, match=message):
            gn.from_torch_state_dict(model, wrong)
    assert (model.flat.values == before).all()
    with pytest.raises(ConfigError, match="no arrays of its own"):
        gn.to_torch_state_dict(MLP((4, 3, 2)))
    odd = Sequential([Conv2d(3, 4, 3, padding=((0, 1), (1, 1))), Flatten(), Linear(168, 2)]).initialize(seed=0)
    torch_or_skip()
    with pytest.raises(ConfigError, match=r"the layer 0 \(Conv2d\) has no PyTorch form"):
        gn.to_torch(odd, input_shape=SHAPE)
