"""Models through pickle, cloudpickle and copies: all values, and nothing of the device but its name."""

from __future__ import annotations

import copy
import logging
import pickle
import pickletools
from typing import Any

import numpy as np
import pytest

import gpunet as gn
from gpunet.models import CNN, MLP, Hybrid
from gpunet.nn import CrossEntropyLoss, ForwardContext, Layer

cloudpickle = pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")


def models() -> dict[str, Any]:
    cnn = CNN((8, 8, 1), 3, (2, 4), dropout=0.2)
    return {
        "mlp": MLP((64, 7, 3), dropout=0.3).initialize(seed=1),
        "cnn": CNN((8, 8, 1), 3, (2, 4), head=(5,), dropout=0.2).initialize(seed=2, dtype="float64"),
        "hybrid": Hybrid(cnn, 3, hidden=(6,)).initialize(seed=3),
    }


def trained_for_a_step(model: Layer, x: np.ndarray) -> np.ndarray:
    """A step of SGD on `model`; its parameters after it. Batch norm and dropout take part."""
    logits, backward = model.forward(x, ForwardContext(training=True, seed=5, step=2))
    backward(CrossEntropyLoss()(logits, np.arange(len(x), dtype=np.int32) % 3)[1])
    assert model.flat is not None
    model.flat.values -= 0.1 * model.flat.gradients
    return model.flat.values.copy()


@pytest.mark.parametrize("kind", ["mlp", "cnn", "hybrid"])
@pytest.mark.parametrize(
    "through",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
        lambda model: cloudpickle.loads(cloudpickle.dumps(model)),
    ],
    ids=["deepcopy", "pickle", "pickle2", "cloudpickle"],
)
def test_a_model_comes_back_with_all_values_and_trains_on(kind: str, through: Any) -> None:
    model = models()[kind]
    x = np.random.default_rng(0).random((6, 8, 8, 1)).astype(model.flat.dtype)
    trained_for_a_step(model, x)  # the running statistics are no longer those of the start
    other = through(model)
    assert type(other) is type(model) and other.description == model.description
    before = model(x)
    assert np.isfinite(before).all() and (other(x) == before).all()
    assert other.flat is not model.flat and other.flat.current and model.flat.current
    assert not np.shares_memory(other.flat.values, model.flat.values)
    assert (trained_for_a_step(other, x) == trained_for_a_step(model, x)).all()
    assert (other.flat.state == model.flat.state).all()


@pytest.mark.parametrize("kind", ["mlp", "cnn", "hybrid"])
def test_a_pickle_holds_no_module_no_backend_and_no_array(kind: str) -> None:
    names = {
        argument for _, argument, _ in pickletools.genops(pickle.dumps(models()[kind])) if isinstance(argument, str)
    }
    assert "cpu" in names
    assert not any("numpy" in name or "gpunet.backend" in name or "gpunet.cuda" in name for name in names)


def test_models_that_share_layers_share_them_again() -> None:
    cnn = CNN((8, 8, 1), 3, (2, 4)).initialize(seed=1)
    hybrid = Hybrid(cnn, 3, hidden=(6,)).initialize(seed=2)
    other_cnn, other_hybrid = pickle.loads(pickle.dumps((cnn, hybrid)))
    assert other_cnn.layers["block1"] is other_hybrid.extractor.layers["block1"]
    alone = pickle.loads(pickle.dumps(cnn))  # whose arrays have moved into those of the hybrid
    x = np.random.default_rng(0).random((2, 8, 8, 1), dtype=np.float32)
    assert (alone(x) == cnn(x)).all() and (other_hybrid(x) == hybrid(x)).all()


def test_a_model_without_arrays_and_a_shallow_copy() -> None:
    fresh = pickle.loads(pickle.dumps(MLP((4, 3, 2))))
    assert fresh.flat is None and fresh.parameter_count == 4 * 3 + 3 + 3 * 2 + 2
    model = models()["mlp"]
    assert copy.copy(model).layers["linear1"] is model.layers["linear1"] and model.flat.current


def test_a_model_from_a_gpu_that_is_not_there_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = models()["mlp"]
    text = pickle.dumps(model, protocol=2)
    names = {name for _, name, _ in pickletools.genops(text) if isinstance(name, str)}
    assert "cpu" in names
    elsewhere = text.replace(b"X\x03\x00\x00\x00cpu", b"X\x07\x00\x00\x00cuda:98")
    assert elsewhere != text
    with caplog.at_level(logging.WARNING, logger="gpunet"):
        other = pickle.loads(elsewhere)
    assert [record.message[:42] for record in caplog.records] == ["a model was on cuda:98, but is put on the "]
    x = np.random.default_rng(0).random((2, 64), dtype=np.float32)
    assert gn.backend_of(other.flat.values).device == "cpu" and (other(x) == model(x)).all()
