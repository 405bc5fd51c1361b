"""Steps in shards: the mean over the batch by another way, and the same bits for any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from gpunet import ops
from gpunet.backend import CPU
from gpunet.data import streaming
from gpunet.data.config import DataConfig
from gpunet.data.loader import Loader
from gpunet.data.pack import pack
from gpunet.data.streaming import StreamingLoader
from gpunet.errors import ConfigError, DivergedError, Interrupted, OtherTrainingError
from gpunet.experiments.prepare import prepare
from gpunet.models import CNN, MLP, Hybrid, HybridConfig
from gpunet.nn import BatchNorm, Conv2d, ForwardContext
from gpunet.parallel.shards import ShardedStep, shard_count
from gpunet.training import Callback, HybridTrainingConfig, Trainer, TrainingConfig, fit_hybrid
from gpunet.training.trainer import METRICS
from tests.parallel.threads import ThreadCommunicator, run_ranks
from tests.training.problems import images, loaders, make_trainer, without_times

MODELS: dict[str, Any] = {
    "mlp": lambda: MLP((64, 24, 4), "relu", 0.3),
    "cnn": lambda: CNN((8, 8, 1), 4, (4, 8), dropout=0.1),
    "hybrid": lambda: Hybrid(CNN((8, 8, 1), 4, (4, 8)), 4, hidden=(12,), dropout=0.1),
}


def make(name: str, communicator: Any = None, **options: Any) -> Trainer:
    extra = {key: options.pop(key) for key in ("run_dir", "callbacks") if key in options}
    if isinstance(options.get("class_weights"), np.ndarray):
        extra["class_weights"] = options.pop("class_weights")
    settings = {"epochs": 2, "batch_size": 40, "lr": 5e-3, "shards": 8, "keep": "last", **options}
    dtype = settings.get("dtype", "float32")
    model = MODELS[name]().initialize(seed=0, dtype=dtype)
    data = loaders(shift=1, cutout=2, flip=name == "mlp", alternate_flip=name == "cnn", dtype=dtype)
    return Trainer(model, TrainingConfig(**settings), **data, communicator=communicator, **extra)


def outcome(trained: Trainer) -> tuple[Any, ...]:
    weights = b"".join(array.tobytes() for array in trained.flat.state_dict().values())
    slots = b"".join(np.asarray(slot).tobytes() for slot in trained.optimizer.slots().values())
    return weights, slots, without_times(trained.history.records), trained.best_epoch


def fitted(trainer: Trainer) -> tuple[Any, ...]:
    trainer.fit()
    return outcome(trainer)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"class_weights": "balanced", "label_smoothing": 0.1, "clip_norm": 0.5}),
        ("cnn", {"ema_decay": 0.9, "optimizer": "sgd", "lr": 0.05, "early_stopping": 5}),
        ("hybrid", {"schedule": "plateau", "dtype": "float64"}),
    ],
)
def test_any_number_of_ranks_gives_the_same_bits(name: str, options: dict[str, Any]) -> None:
    alone = fitted(make(name, **options))
    for ranks in (2, 8):
        found = run_ranks(ranks, lambda rank: fitted(make(name, rank, **options)))
        assert all(each == alone for each in found), (name, ranks)


def test_ranks_that_do_not_divide_the_parameters() -> None:
    """The columns of the gradients are padded: 1956 parameters over three ranks, and 26 over four."""
    alone = fitted(make("mlp", shards=6, batch_size=30))
    assert run_ranks(3, lambda rank: fitted(make("mlp", rank, shards=6, batch_size=30)))[1] == alone


def expected_gradients(name: str, shards: int, weights: np.ndarray | None) -> tuple[np.ndarray, float]:
    """The gradient and loss of the first batch, from those of each row by itself in float64.

    For the MLP, whose rows do not depend on each other. The dropout masks of a row are those of the whole batch.
    """
    trainer = make(name, shards=1, dtype="float64")
    trainer.train.shuffle(0, 0)
    x, labels = trainer.train.training_batch(0, 40, seed=0, step=0)
    total, loss, divisor = np.zeros(trainer.flat.gradients.size), 0.0, 0.0
    for row in range(40):
        ctx = ForwardContext(training=True, seed=0, step=0, first_row=row)
        logits, backward = trainer.model.forward(x[row : row + 1], ctx)
        value, dlogits = ops.softmax_cross_entropy(logits, labels[row : row + 1])
        backward(dlogits)
        weight = 1.0 if weights is None else weights[labels[row]]
        total, loss, divisor = total + weight * trainer.flat.gradients, loss + weight * float(value), divisor + weight
    return total / divisor, loss / divisor


@pytest.mark.parametrize("weights", [None, np.array([0.2, 3.0, 1.0, 0.5])])
def test_the_gradient_is_the_mean_over_the_batch(weights: np.ndarray | None) -> None:
    """Summed row by row; with class weights the mean of the shards' means would be another number."""
    expected, loss = expected_gradients("mlp", 8, weights)
    trainer = make("mlp", dtype="float64", **({} if weights is None else {"class_weights": weights}))
    trainer.train.shuffle(0, 0)
    trainer._state.start_epoch(0, [0.0] * 5)
    found: list[np.ndarray] = []
    trainer.optimizer.update = lambda *args: found.append(trainer.flat.gradients.copy())  # type: ignore[method-assign]
    trainer._step_once()
    assert len(found) == 1
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    assert trainer._state.totals().loss == pytest.approx(loss, rel=1e-14)


def test_running_statistics_are_the_mean_of_the_shards() -> None:
    """One step from mean 0 and variance 1: a tenth of the mean over the shards of each one's statistics."""
    trainer = make("cnn", shards=4, dtype="float64")
    trainer.train.shuffle(0, 0)
    layers = [layer for _, layer in trainer.model.named_layers() if isinstance(layer, (Conv2d, BatchNorm))]
    conv, norm = layers[:2]
    assert isinstance(norm, BatchNorm)
    means, variances = [], []
    for first in range(0, 40, 10):
        x, _ = trainer.train.training_batch(0, 10, seed=0, step=0, first_row=first)
        y = conv.forward(x, ForwardContext())[0].reshape(-1, norm.gamma.size)
        means.append(y.mean(0))
        variances.append(y.var(0, ddof=1))
    trainer._state.start_epoch(0, [0.0] * 5)
    trainer._step_once()
    np.testing.assert_allclose(norm.running_mean.value, 0.1 * np.mean(means, 0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(norm.running_var.value, 0.9 + 0.1 * np.mean(variances, 0), rtol=1e-12)


@pytest.mark.parametrize("loss", ["mse", "bce_with_logits"])
def test_numbers_as_targets(loss: str) -> None:
    """The first gradient is that of the whole batch, and ranks do not matter."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 5)), rng.random((80, 2))

    def trainer(shards: int, communicator: Any = None) -> Trainer:
        data = {name: Loader(x, y, dtype="float64") for name in ("train", "validation")}
        config = TrainingConfig(epochs=1, batch_size=40, shards=shards, dtype="float64", keep="last")
        model = MLP((5, 8, 2)).initialize(seed=0, dtype="float64")
        return Trainer(model, config, **data, loss=loss, communicator=communicator)

    gradients = []
    for shards in (1, 8):
        one = trainer(shards)
        one.train.shuffle(0, 0)
        one._state.start_epoch(0, [0.0] * 2)
        one._step_once()
        gradients.append(one.flat.gradients.copy())
    assert np.abs(gradients[0]).max() > 1e-3
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0, atol=1e-14)
    alone = fitted(trainer(8))
    assert all(found == alone for found in run_ranks(4, lambda rank: fitted(trainer(8, rank))))


def test_each_rank_streams_its_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bits of one process with the images in memory; none reads the rows of another for training."""
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 11 * 64)
    pixels, labels = images(200, 1)
    np.savez(tmp_path / "a.npz", X=pixels, y=labels)
    pack(tmp_path / "a.npz", tmp_path / "packed", images_per_shard=9)

    def trainer(stream: str, communicator: Any = None) -> Trainer:
        found = prepare(DataConfig(data=str(tmp_path / "packed"), stream=stream, shift=1, alternate_flip=True))
        data = {name: found.loader(name, CPU, "float32", found.config) for name in ("train", "validation")}
        config = TrainingConfig(epochs=2, batch_size=32, shards=8, keep="last")
        return Trainer(MODELS["mlp"]().initialize(seed=0), config, **data, communicator=communicator)

    alone = fitted(trainer("never"))
    assert fitted(trainer("always")) == alone
    made: list[Trainer] = []

    def rank(communicator: Any) -> tuple[Any, ...]:
        made.append(trainer("always", communicator))
        return fitted(made[-1])

    assert all(found == alone for found in run_ranks(4, rank))
    assert sorted(cast(StreamingLoader, each.train)._rows for each in made) == [
        (0, 8, 32), (8, 16, 32), (16, 24, 32), (24, 32, 32)
    ]  # fmt: skip


def test_one_shard_is_the_plain_step() -> None:
    trainer = make_trainer(epochs=1, shards=1)
    assert make_trainer(epochs=1).config.shards == 1
    assert fitted(trainer) == fitted(make_trainer(epochs=1))


def test_eight_shards_by_default_with_several_ranks() -> None:
    assert shard_count(0, 40, 1) == 1 and shard_count(0, 40, 4) == 8 and shard_count(6, 30, 3) == 6


def test_what_cannot_be_shared_out() -> None:
    with pytest.raises(ConfigError, match=r"8 shards cannot be shared out evenly over 3 ranks.* --shards 9"):
        shard_count(8, 72, 3)
    with pytest.raises(ConfigError, match=r"4 shards cannot be shared out evenly over 8 ranks.* --shards 8"):
        shard_count(4, 64, 8)
    with pytest.raises(ConfigError, match=r"a batch of 50 images cannot be cut into 8 equal shards.* --batch-size 48"):
        shard_count(8, 50, 1)
    with pytest.raises(ConfigError, match="shards must be at least 0"):
        TrainingConfig(shards=-1)


def test_ranks_that_differ_are_refused_before_the_first_step() -> None:
    def work(rank: ThreadCommunicator) -> None:
        make("mlp", rank, lr=0.01 if rank.rank == 2 else 0.02).fit()

    found = run_ranks(4, work)
    assert {type(error) for error in found} == {ConfigError} and len({str(error) for error in found}) == 1
    assert "rank 2 has another lr than rank 0 (0.02 and 0.01)" in str(found[0])


def test_other_data_are_refused() -> None:
    def work(rank: ThreadCommunicator) -> None:
        model = MODELS["mlp"]().initialize(seed=0)
        data = loaders() | ({"train": Loader(*images(200, 9))} if rank.rank else {})
        Trainer(model, TrainingConfig(batch_size=40), **data, communicator=rank).fit()

    assert "rank 1 has another training data than rank 0" in str(run_ranks(2, work)[0])


class Disturb(Callback):
    """Changes a weight on one rank, stops it, or sends it a signal's number."""

    def __init__(self, rank: ThreadCommunicator, what: str) -> None:
        self.mine, self.what = rank.rank == 1, what

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        if self.mine and step == 3 and self.what == "weight":
            trainer.flat.values[5] += 1e-3
        if self.mine and step == 3 and self.what == "nan":
            trainer.flat.values[5] = np.nan

    def on_epoch_end(self, trainer: Trainer, record: Any) -> None:
        if self.mine and self.what == "stop":
            trainer.stop = True


def test_weights_that_come_apart_are_found_after_the_epoch() -> None:
    found = run_ranks(2, lambda rank: make("mlp", rank, callbacks=[Disturb(rank, "weight")]).fit())
    for error in found:
        assert isinstance(error, ConfigError) and "after epoch 1 the weights of rank 1 are not those of" in str(error)


def test_a_rank_that_diverges_ends_all_in_the_same_step() -> None:
    found = run_ranks(2, lambda rank: make("mlp", rank, callbacks=[Disturb(rank, "nan")]).fit())
    assert all(isinstance(error, DivergedError) and "step 4 " in str(error) for error in found), found


def test_a_callback_that_stops_one_rank_stops_all() -> None:
    found = run_ranks(2, lambda rank: make("mlp", rank, epochs=4, callbacks=[Disturb(rank, "stop")]).fit())
    assert [len(history.records) for history in found] == [1, 1]


def test_only_the_first_rank_writes_and_any_number_resumes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four ranks, of which one gets a signal in the second epoch; then two, then one."""
    alone = fitted(make("cnn", epochs=4))

    class Signal(Callback):
        def __init__(self, rank: Any, at: int) -> None:
            self.rank, self.at = rank, at

        def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
            if trainer.step == self.at and self.rank.rank == self.rank.size - 1:
                agreed_with.append(self.rank.rank)

    agreed_with: list[int] = []
    from gpunet.training import trainer as module

    real = module.agreed

    def agreed(communicator: Any, interrupts: Any, save: bool) -> Any:
        if agreed_with and agreed_with[0] == communicator.rank:
            interrupts.number = 15
            agreed_with.clear()
        return real(communicator, interrupts, save)

    monkeypatch.setattr(module, "agreed", agreed)

    def work(at: int) -> Any:
        def run(rank: ThreadCommunicator) -> Any:
            folder = tmp_path if rank.rank == 0 else tmp_path / "not there"
            trainer = make("cnn", rank, epochs=4, run_dir=folder, callbacks=[Signal(rank, at)])
            trainer.resume()
            return fitted(trainer)

        return run

    for ranks, at in ((4, 7), (2, 13)):
        found = run_ranks(ranks, work(at))
        assert all(isinstance(error, Interrupted) and error.number == 15 for error in found), found
    last = make("cnn", epochs=4, run_dir=tmp_path)
    assert last.resume() and last.step == 14
    assert fitted(last) == alone
    assert not (tmp_path / "not there").exists()
    assert len((tmp_path / METRICS).read_text().splitlines()) == 4
    with pytest.raises(OtherTrainingError, match=r"shards \(8, now 4\)"):
        make("cnn", epochs=4, run_dir=tmp_path, shards=4).resume()


def test_all_stages_of_the_hybrid() -> None:
    def work(rank: Any) -> Any:
        data = loaders(shift=1)
        found = fit_hybrid(
            HybridConfig(filters=(4, 8), classifier_hidden=(12,)),
            TrainingConfig(epochs=1, batch_size=40, shards=4),
            HybridTrainingConfig(classifier_epochs=2, joint_epochs=1),
            classes=4,
            communicator=rank,
            **data,
        )
        assert found.hybrid.flat is not None
        return found.hybrid.flat.values.tobytes(), without_times(found.records), found.stage

    alone = work(None)
    assert run_ranks(2, work) == [alone, alone]


def test_what_is_sent() -> None:
    """The arithmetic of docs/several_machines.md: gradients to and fro, and the facts of each shard."""

    def work(rank: ThreadCommunicator) -> tuple[int, int, int]:
        trainer = make("mlp", rank, shards=8)
        trainer.train.shuffle(0, 0)
        trainer._state.start_epoch(0, [0.0] * 5)
        trainer._step_once()
        return rank.sent, trainer.flat.gradients.size, trainer.flat.state.size

    for ranks in (2, 8):
        sent, parameters, statistics = run_ranks(ranks, work)[0]
        columns, local = -(-parameters // ranks), 8 // ranks
        facts = local * (3 + statistics) * 4
        assert sent == (ranks - 1) * ((local + 1) * columns * 4 + facts)


def test_gradients_are_sent_while_the_next_shard_computes() -> None:
    """And awaited after the last one."""

    def work(rank: ThreadCommunicator) -> list[str]:
        trainer, log = make("mlp", rank, shards=4), list[str]()
        send = rank.all_to_all

        def logged(*args: Any) -> Any:
            log.append("send")
            send(*args)
            return lambda: log.append("wait")

        def compute(first_row: int, rows: int, gather: Any) -> Any:
            log.append("compute")
            return trainer._gradients(first_row, rows)

        rank.all_to_all = logged  # type: ignore[method-assign]
        trainer.train.shuffle(0, 0)
        trainer._state.start_epoch(0, [0.0] * 5)
        ShardedStep(trainer.flat, rank, count=4, batch_size=40).run(compute, trainer._update)
        return log

    assert run_ranks(2, work) == [["compute", "send"] * 2 + ["wait"] * 2] * 2
