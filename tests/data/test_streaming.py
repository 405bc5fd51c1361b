"""A stream of images from the disk: the batches, and the training, of the same images in memory, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.backend import CPU, Backend
from gpunet.data import streaming
from gpunet.data.config import DataConfig
from gpunet.data.loader import WINDOW, Loader
from gpunet.data.pack import pack
from gpunet.data.shards import PackedImages
from gpunet.data.streaming import StreamingLoader
from gpunet.errors import ConfigError, DataError
from gpunet.experiments.config import RunConfig
from gpunet.experiments.inference import evaluate as run_evaluate
from gpunet.experiments.prepare import RunData, loader_of, prepare
from gpunet.experiments.run import fit
from gpunet.models import CNN, MLP, MLPConfig
from gpunet.nn import Layer
from gpunet.report.run_figures import _of_evaluation
from gpunet.training import Callback, Trainer, TrainingConfig, evaluate
from gpunet.training.evaluation import with_mirror_images
from tests.training.problems import images, without_times

AUGMENTED = {"flip": True, "shift": 1, "cutout": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The problem of the trainer's tests, as a file and packed: 160 training images, 40 to test, nine to a shard."""
    folder = tmp_path_factory.mktemp("data")
    pixels, labels = images(200, 1)
    np.savez(folder / "a.npz", X=pixels, y=labels)
    pack(folder / "a.npz", folder / "packed", images_per_shard=9)
    return folder


@pytest.fixture(autouse=True, params=[0, float("inf")], ids=["ahead", "when needed"])
def _small_chunks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 11 * 64)
    monkeypatch.setattr(streaming, "DISK_SECONDS", request.param)


def both(folder: Path, **options: Any) -> tuple[RunData, RunData]:
    """In memory, and streaming."""
    whole = prepare(DataConfig(data=str(folder / "a.npz"), **options))
    return whole, prepare(DataConfig(data=str(folder / "packed"), stream="always", **options))


def loaders(folder: Path, backend: Backend = CPU, **options: Any) -> tuple[Loader, Loader]:
    """Of the training images."""
    one, other = (data.loader("train", backend, "float32", data.config) for data in both(folder, **options))
    assert type(one) is Loader and isinstance(other, StreamingLoader)
    return one, other


def assert_same(one: Any, other: Any) -> None:
    for first, second in zip(one, other, strict=True):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


def test_the_split_and_the_scaling_are_those_in_memory(folder: Path) -> None:
    for standardize in ("none", "channel", "pixel"):
        one, other = both(folder, standardize=standardize)
        assert one.split.digest() == other.split.digest()
        np.testing.assert_array_equal(one.scaling.scale, other.scaling.scale)
        np.testing.assert_array_equal(one.scaling.offset, other.scaling.offset)
        assert isinstance(other.split.train.images, PackedImages), "nothing was loaded"
        np.testing.assert_array_equal(one.split.validation.images, other.split.validation.in_memory())


@pytest.mark.parametrize("options", [{}, AUGMENTED, {"alternate_flip": True, "shift": 1}, {"refit": True}])
@pytest.mark.parametrize("size", [1, 10, 32, 128])
def test_batches(folder: Path, options: dict[str, Any], size: int) -> None:
    one, other = loaders(folder, **options)
    for epoch in (0, 1):
        for loader in (one, other):
            loader.shuffle(3, epoch)
        for step in range(one.size // size):
            start = np.array([step * size])
            other.prepare(step * size, size, training=True)
            assert_same(*(loader.training_batch(start, size, seed=3, step=step) for loader in (one, other)))
        assert_same(one.batch(5, 7), other.batch(5, 7))  # while an epoch runs
    assert_same(*(loader.training_batch(0, size, seed=3, step=9) for loader in (one, other)))  # back, without prepare
    for pair in zip(one.batches(size), other.batches(size), strict=True):
        assert_same(*pair)
    assert_same(next(one.mirrored().batches(size)), next(other.mirrored().batches(size)))
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_a_larger_batch_gets_arrays_of_its_own(folder: Path) -> None:
    """A captured step of the smaller batch refers to the first ones."""
    _, loader = loaders(folder)
    windows = [loader._window(size, True)[0] for size in (8, 20, 8)]  # type: ignore[attr-defined]
    assert windows[0] is windows[2] is not windows[1]


def test_only_the_rows_of_a_rank_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = loaders(folder)
    read: list[int] = []
    original = PackedImages.read

    def counted(self: PackedImages, rows: np.ndarray, out: np.ndarray, **options: Any) -> None:
        read.append(len(rows))
        original(self, rows, out, **options)

    monkeypatch.setattr(PackedImages, "read", counted)
    assert isinstance(other, StreamingLoader)
    other.serve(5, 12, 16)
    for epoch in (0, 1):
        for loader in (one, other):
            loader.shuffle(0, epoch)
        for step in range(8):
            other.prepare(16 * step, 16, training=True)
            whole = one.training_batch(16 * step, 16, seed=0, step=0)
            own = other._batch(np.array([16 * step + 5]), 7, True)
            assert_same((array[5:12] for array in whole), own)
    assert sum(read) <= 2 * 7 * 8 + 2 * streaming.READERS * 11, "and those that are read ahead"
    with pytest.raises(ConfigError, match=r"0 <= first < last <= of"):
        other.serve(3, 3, 16)


class Stop(Callback):
    """Raises after a step, as a kill would."""

    def __init__(self, epoch: int, step: int) -> None:
        self.at = epoch, step

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        if (trainer.epoch + 1, step) == self.at:
            raise KeyboardInterrupt


MODELS: dict[str, Callable[[], Layer]] = {
    "mlp": lambda: MLP((64, 12, 4), dropout=0.1),
    "cnn": lambda: CNN((8, 8, 1), 4, (4, 8), dropout=0.1),
}


def trainer(data: RunData, name: str, backend: Backend = CPU, **more: Any) -> Trainer:
    model = MODELS[name]().initialize(0, device=backend)
    config = TrainingConfig(epochs=2, batch_size=10, optimizer="adamw", class_weights="balanced", ema_decay=0.9)
    parts = {
        "train": data.loader("train", backend, "float32", data.config),
        "validation": data.loader("validation", backend, "float32"),
    }
    return Trainer(model, config, **parts, **more)


@pytest.mark.parametrize("name", MODELS)
def test_training_has_the_bits_of_data_in_memory_also_resumed(folder: Path, tmp_path: Path, name: str) -> None:
    memory, disk = both(folder, alternate_flip=True, shift=1, standardize="channel")
    one, whole = trainer(memory, name), trainer(disk, name, run_dir=tmp_path)
    one.fit()
    whole.fit()
    assert one.flat.values.tobytes() == whole.flat.values.tobytes()
    assert without_times(one.history.records) == without_times(whole.history.records)

    (tmp_path / "cut").mkdir()
    with pytest.raises(KeyboardInterrupt):
        trainer(disk, name, run_dir=tmp_path / "cut", callbacks=[Stop(2, 6)], checkpoint_minutes=1e-9).fit()
    held = replace(disk, config=replace(disk.config, stream="never"))
    for data in (disk, held):  # where the images are does not matter to the run
        resumed = trainer(data, name, run_dir=tmp_path / "cut")
        assert resumed.resume() and resumed.step == one.steps_per_epoch + 5
    resumed = trainer(disk, name, run_dir=tmp_path / "cut")
    resumed.resume()
    resumed.fit()
    assert resumed.flat.values.tobytes() == whole.flat.values.tobytes()

    found = []
    for data in (memory, disk):
        test = data.loader("test", CPU, "float32")
        probabilities = evaluate(whole.model, test, keep_probabilities=True).probabilities
        assert probabilities is not None
        found.append((probabilities, with_mirror_images(whole.model, test, probabilities)))
    assert_same(*found)


def test_a_run_and_its_evaluation(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results on packed data are those on their source; figures read no more than they show."""
    options = DataConfig(data=str(folder / "packed"), stream="always", shuffle="blocks", flip=True, train_images=30)
    config = RunConfig(MLPConfig(hidden=(8,)), options, TrainingConfig(epochs=1, batch_size=8))
    found = fit(config, run_dir=tmp_path, device="cpu")
    results = [run_evaluate(tmp_path, data=data, tta=True) for data in (None, str(folder / "a.npz"))]
    assert results[0] == results[1] and results[0].total == 40
    seen: list[int] = []
    monkeypatch.setattr(PackedImages, "read", lambda self, rows, out: seen.append(len(rows)))
    monkeypatch.setattr(
        "gpunet.report.figures.plot_confident_mistakes", lambda images, *_: [len(images), images[3].shape, images[0]]
    )
    probabilities = np.full((40, 4), 0.25)
    _of_evaluation(tmp_path, found.data.test, probabilities, "")["confident_mistakes.png"](tmp_path / "a.png")
    assert seen == [1, 1]


def test_blocks_are_shuffled_and_a_few_of_them_among_each_other(folder: Path) -> None:
    data = prepare(DataConfig(data=str(folder / "packed"), shuffle="blocks", stream="always"))
    held = replace(data, config=replace(data.config, stream="never"))
    streams, whole = (one.loader("train", CPU, "float32", one.config) for one in (data, held))
    shard_of = data.split.train.images.shard_of()  # type: ignore[union-attr]
    orders = [whole._shuffled(0, epoch) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(streams.size))
        shards = shard_of[order]
        first = [int(np.flatnonzero(shards == shard)[0]) for shard in range(shards.max() + 1)]
        by_window = np.argsort(first)
        sizes = np.bincount(shards)
        start = 0
        for begin in range(0, len(first), WINDOW):
            window = by_window[begin : begin + WINDOW]
            own = shards[start : start + sizes[window].sum()]
            assert set(own) == set(window), "the images of a window follow each other"
            assert len(window) == 1 or (np.diff(own) != 0).sum() > len(window), "and are mixed"
            start += len(own)
    assert (orders[0] != orders[1]).any()
    for loader in (streams, whole):
        loader.shuffle(0, 1)
    assert_same(*(loader.training_batch(0, 128, seed=0, step=0) for loader in (streams, whole)))
    plain = prepare(DataConfig(data=str(folder / "packed"))).loader("train", CPU, "float32", DataConfig())
    assert plain.digest() != whole.digest() == streams.digest()


def test_the_digest_is_of_the_content_and_of_what_is_chosen(folder: Path, tmp_path: Path) -> None:
    data = prepare(DataConfig(data=str(folder / "packed")))
    digests = [
        loader_of(part, data.scaling, CPU, "float32", stream=stream).digest()
        for part in (data.split.train, data.split.validation)
        for stream in ("always", "never")
    ]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    images = data.split.train.images
    assert isinstance(images, PackedImages)
    assert images.mirrored().digest() != images.digest() == images.mirrored().mirrored().digest()
    with np.load(folder / "a.npz") as file:
        np.savez(tmp_path / "b.npz", X=255 - file["X"], y=file["y"])
    pack(tmp_path / "b.npz", tmp_path / "packed")
    other = prepare(DataConfig(data=str(tmp_path / "packed"))).split.train.images
    assert isinstance(other, PackedImages) and other.digest() != images.digest()


def test_a_small_part_is_held_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = prepare(DataConfig(data=str(folder / "packed")))
    size = 128 * 64
    for left, streams in ((4 * size, False), (4 * size - 1, True), (None, True)):
        monkeypatch.setattr(type(CPU), "memory_left", lambda self, left=left: left)
        with caplog.at_level("INFO", "gpunet"):
            assert isinstance(data.loader("train", CPU, "float32"), StreamingLoader) == streams
        assert ("streamed from the disk" if streams else "held in memory") in caplog.messages[-1]


def test_what_only_packed_data_can_do(folder: Path) -> None:
    for options in ({"stream": "always"}, {"shuffle": "blocks"}):
        data = prepare(DataConfig(data=str(folder / "a.npz"), **options))
        with pytest.raises(ConfigError, match="need packed data: make them with gpunet data pack"):
            data.loader("train", CPU, "float32", data.config)


def test_a_shard_that_shrinks_ends_the_epoch_and_leaves_the_model(folder: Path, tmp_path: Path) -> None:
    pack(folder / "a.npz", tmp_path / "packed")
    data = prepare(DataConfig(data=str(tmp_path / "packed"), stream="always"))
    found = trainer(data, "mlp")
    before = found.flat.values.tobytes()
    path = tmp_path / "packed" / "train-00000.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1000])
    with pytest.raises(DataError, match=r"train-00000.npy is truncated: of image \d+"):
        found.fit()
    assert found.flat.values.tobytes() == before
    path.write_bytes(content)
    found.fit()
    whole = trainer(prepare(DataConfig(data=str(folder / "a.npz"))), "mlp")
    whole.fit()
    assert found.flat.values.tobytes() == whole.flat.values.tobytes()
