"""Evaluation and prediction are captured: one graph for each batch size, with the results of the eager pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet.backend import CPU, Backend
from gpunet.models import CNN
from gpunet.nn import ForwardContext, Layer
from gpunet.training import Evaluation, evaluation
from gpunet.training.evaluation import Evaluator, evaluate, extract
from tests.cuda.conftest import Device
from tests.training.problems import loaders


def model_on(backend: Backend) -> Layer:
    model: Layer = CNN((8, 8, 1), 4, (4, 8)).initialize(seed=3, device=backend)
    return model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that go through Python; batches have 30 images, of 100."""
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 30)
    sizes: list[int] = []
    forward = CNN.forward

    def noted(self: CNN, x: Any, ctx: ForwardContext) -> Any:
        sizes.append(len(x))
        return forward(self, x, ctx)

    monkeypatch.setattr(CNN, "forward", noted)
    return sizes


def same(found: Evaluation, expected: Evaluation) -> None:
    assert np.isfinite(found.loss) and (found.loss, found.correct) == (expected.loss, expected.correct)
    assert found.probabilities is not None and expected.probabilities is not None
    assert np.isfinite(found.probabilities).all()
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_evaluations_are_replayed(device: Device, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with other weights: they are read where they are."""
    backend = device.backend
    model, loader = model_on(backend), loaders(backend)["validation"]
    evaluator = Evaluator(model, loader, keep_probabilities=True)
    assert model.flat is not None
    losses = []
    for repeat in range(3):
        with monkeypatch.context() as eagerly:
            eagerly.setattr(backend, "captures", False)
            expected = evaluate(model, loader, keep_probabilities=True)
        calls.clear()
        done: list[int] = []
        same(evaluator(done.append), expected)
        assert done == [30, 60, 90, 100]
        assert calls == [[30, 30, 10], [10], []][repeat], "run as it is, recorded, and from then on replayed"
        losses.append(expected.loss)
        backend.assign(model.flat.values, 1.1 * backend.to_numpy(model.flat.values))
    assert len(set(losses)) == 3


def test_the_results_are_those_of_the_cpu(device: Device, calls: list[int]) -> None:
    found, expected = (
        evaluate(model_on(backend), loaders(backend)["validation"], keep_probabilities=True)
        for backend in (device.backend, CPU)
    )
    assert found.probabilities is not None and expected.probabilities is not None
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-4, atol=1e-6)
    assert abs(found.loss - expected.loss) < 1e-4 * expected.loss
    assert found.correct == int(
        (found.probabilities.argmax(1) == CPU.to_numpy(loaders(CPU)["validation"].labels)).sum()
    )


def test_a_capture_has_the_precision_of_its_time(device: Device, calls: list[int]) -> None:
    model, loader = model_on(device.backend), loaders(device.backend)["validation"]
    evaluator = Evaluator(model, loader, keep_probabilities=True)
    plain = [evaluator() for _ in range(3)]
    with device.backend.use_precision("tf32"):
        tf32 = [evaluator() for _ in range(3)]
    same(plain[2], plain[0])
    same(tf32[2], tf32[0])
    same(evaluator(), plain[0])
    assert tf32[0].loss != plain[0].loss


def test_predictions_are_replayed(device: Device, calls: list[int]) -> None:
    model, loader = model_on(device.backend), loaders(device.backend)["validation"]
    found = extract(model, loader)
    assert calls == [30, 30, 10]
    outputs = [device.host(model(x)) for x, _ in loader.batches(30)]
    assert found.shape == (100, 4) and np.isfinite(found).all()
    np.testing.assert_array_equal(found, np.concatenate(outputs))
