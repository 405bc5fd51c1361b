"""A device that is not the current one: all of gpunet works on it, and leaves the current one as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.backend import Backend, backend_of
from gpunet.data.loader import Loader
from gpunet.devices import get_backend
from gpunet.models import CNN, HybridConfig
from gpunet.nn import ForwardContext
from gpunet.training import (
    HybridTrainingConfig,
    Trainer,
    TrainingConfig,
    evaluate,
    fit_hybrid,
)
from gpunet.training.evaluation import extract, with_mirror_images
from tests.training.problems import loaders


class Pair:
    """Two devices, of which the first is current."""

    def __init__(self, first: Backend, second: Backend, current: Callable[[], int]) -> None:
        self.first, self.second, self.current = first, second, current


def _emulated() -> Pair:
    from tests.emulator import EMULATED, SECOND, array, missing

    reason = missing()
    if reason:
        pytest.skip(reason)
    return Pair(EMULATED, SECOND, lambda: array._current)


def _gpus() -> Pair:
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is only one GPU")
    return Pair(get_backend("cuda:0"), get_backend("cuda:1"), lambda: cupy.cuda.Device().id)


@pytest.fixture(
    params=[
        pytest.param(_emulated, marks=pytest.mark.emulator, id="emulator"),
        pytest.param(_gpus, marks=(pytest.mark.gpu, pytest.mark.multi_gpu), id="gpu"),
    ]
)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    devices: Pair = request.param()
    assert devices.current() == 0
    yield devices
    assert devices.current() == 0, "left as it was"


def test_arrays_are_made_moved_and_copied_there(pair: Pair) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    for backend in (pair.second, pair.first):
        other = pair.first if backend is pair.second else pair.second
        made = [backend.asarray(values), backend.zeros((2, 3)), backend.empty((2, 3))]
        moved = backend.asarray(other.asarray(values))
        converted = backend.asarray(other.asarray(values), "float64")
        assert all(backend_of(array) is backend for array in (*made, moved, converted, backend.copy(made[0].T)))
        assert converted.dtype == np.float64
        for array in (moved, converted, backend.copy(made[0])):
            np.testing.assert_array_equal(backend.to_numpy(array), values)
        backend.assign(made[1][:, 1], values[:, 1])
        backend.assign(made[1][:, 2], 7)
        np.testing.assert_array_equal(backend.to_numpy(made[1]), [[0, 1, 7], [0, 4, 7]])
        assert backend.asarray(made[0]) is made[0]


def _trained(backend: Backend, run_dir: Path) -> dict[str, Any]:
    """All that a training and the use of its model give, on the host."""
    config = TrainingConfig(
        epochs=2, batch_size=25, optimizer="adamw", ema_decay=0.9, clip_norm=1.0, class_weights="balanced"
    )
    data = loaders(backend, alternate_flip=True, shift=1, cutout=2)
    model = CNN((8, 8, 1), 4, (4, 8), dropout=0.1).initialize(seed=0, device=backend)
    trainer = Trainer(model, config, **data, run_dir=run_dir)
    trainer.fit()
    resumed = Trainer(
        CNN((8, 8, 1), 4, (4, 8), dropout=0.1).initialize(seed=1, device=backend), config, **data, run_dir=run_dir
    )
    assert resumed.resume()
    found = evaluate(model, data["validation"], keep_probabilities=True)
    assert found.probabilities is not None
    return {
        **trainer.flat.state_dict(),
        **{f"resumed {name}": array for name, array in resumed.flat.state_dict().items()},
        **{f"slot {name}": backend.to_numpy(array) for name, array in trainer.optimizer.slots().items()},
        "probabilities": found.probabilities,
        "mirrored": with_mirror_images(model, data["validation"], found.probabilities),
        "features": extract(lambda x: model.forward(x, ForwardContext())[0], data["validation"]),
        "losses": np.array([[record["train_loss"], record["validation_loss"]] for record in trainer.history.records]),
    }


def test_a_training_there_has_the_bits_of_one_on_the_current_device(pair: Pair, tmp_path: Path) -> None:
    found = []
    for index, backend in enumerate((pair.second, pair.first)):
        (tmp_path / str(index)).mkdir()
        found.append(_trained(backend, tmp_path / str(index)))
    assert found[0].keys() == found[1].keys()
    for name, expected in found[1].items():
        assert np.isfinite(expected).all(), name
        np.testing.assert_array_equal(found[0][name], expected, err_msg=name)


def test_the_hybrids_stages_there(pair: Pair) -> None:
    model = HybridConfig(filters=[4], kernel_sizes=[3], classifier_hidden=[12])
    training = TrainingConfig(epochs=1, batch_size=50)
    stages = HybridTrainingConfig(classifier_epochs=1, joint_epochs=1)
    hybrid = fit_hybrid(model, training, stages, **loaders(pair.second), classes=4).hybrid
    assert backend_of(hybrid.flat.values) is pair.second


def test_strided_arguments_are_copied_there(pair: Pair) -> None:
    from gpunet import ops

    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 5)).astype(np.float32)
    for backend in (pair.first, pair.second):
        on_device = backend.asarray(np.ascontiguousarray(x.T)).T
        loss, _ = ops.softmax_cross_entropy(on_device, backend.asarray(np.arange(6) % 5))  # int64 labels
        assert backend_of(loss) is backend
        shifted = x - x.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        expected = -log_p[np.arange(6), np.arange(6) % 5].mean()
        assert np.isclose(backend.to_numpy(loss), expected, rtol=1e-5)


def test_loader_of_images_that_are_on_another_device(pair: Pair) -> None:
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    loader = Loader(pair.first.asarray(images), [0, 1], backend=pair.second, alternate_flip=True)
    assert backend_of(loader.images) is pair.second
    np.testing.assert_array_equal(pair.second.to_numpy(loader._images)[2:], images[:, :, ::-1])
