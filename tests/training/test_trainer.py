"""The trainer: it learns, repeats itself to the bit, resumes to the bit, stops early, and names what diverges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet import nn
from gpunet.data import Loader
from gpunet.errors import ConfigError, DivergedError, OutputError
from gpunet.models import CNN
from gpunet.training import Callback, EarlyStopping, Trainer, TrainingConfig, evaluate, load_checkpoint
from gpunet.training.checkpoint import under
from gpunet.training.evaluation import with_mirror_images
from gpunet.training.history import Record
from gpunet.training.snapshot import LAST
from gpunet.training.trainer import BEST
from tests.support import assert_close, torch_or_skip
from tests.training.problems import images, loaders, make_trainer, without_times


def test_it_learns_and_ends_with_the_best_weights() -> None:
    trainer = make_trainer(epochs=8)
    history = trainer.fit()
    assert [record["epoch"] for record in history.records] == list(range(1, 9))
    assert history.records[-1]["train_loss"] < history.records[0]["train_loss"]
    best = max(history.column("validation_accuracy"))
    assert best > 0.6  # chance is 0.25 with a standard deviation of 0.04
    assert trainer.best_score == best
    assert trainer.best_epoch == 1 + int(np.argmax(history.column("validation_accuracy")))
    assert evaluate(trainer.model, trainer.validation).accuracy == best


def test_same_seed_same_bits_and_another_seed_other_bits() -> None:
    results = []
    for seed in (3, 3, 4):
        trainer = make_trainer(seed=seed, epochs=2)
        trainer.fit()
        results.append(trainer.flat.values.tobytes())
    assert results[0] == results[1] != results[2]


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    from gpunet.ops._numba import numba

    results = []
    most = numba.get_num_threads()
    for threads in (1, most):
        numba.set_num_threads(threads)
        try:
            model = CNN((8, 8, 1), 4, (16, 32), dropout=0.1).initialize(seed=1)
            trainer = make_trainer(model=model, epochs=2, batch_size=64, clip_norm=1.0, ema_decay=0.9)
            trainer.fit()
        finally:
            numba.set_num_threads(most)
        results.append((trainer.flat.values.tobytes(), without_times(trainer.history.records)))
    if most == 1:
        pytest.skip("one core: nothing to compare")
    assert results[0] == results[1]


def test_early_stopping_counts_epochs_without_progress() -> None:
    stopping = EarlyStopping(2)
    trainer = make_trainer()
    for accuracy, stop in ((0.5, False), (0.4, False), (0.6, False), (0.6, False), (0.3, True)):
        stopping.on_epoch_end(trainer, {"validation_accuracy": accuracy})
        assert trainer.stop is stop
    ended = make_trainer(epochs=50, early_stopping=1)
    assert len(ended.fit().records) < 50


def test_evaluation_by_hand() -> None:
    model = nn.Sequential([nn.Flatten(), nn.Linear(64, 4)]).initialize(seed=0)
    model.flat.values[:] = 0
    model.layers["1"].bias.value[:] = np.log([0.1, 0.2, 0.3, 0.4])
    loader = loaders()["validation"]
    labels = images(100, 2)[1]
    found = evaluate(model, loader, keep_probabilities=True)
    assert found.correct == int((labels == 3).sum()) and found.total == 100
    assert found.loss == pytest.approx(-np.log((labels + 1) / 10).mean(), rel=1e-6)
    assert found.probabilities is not None
    assert_close(found.probabilities, np.tile([0.1, 0.2, 0.3, 0.4], (100, 1)), terms=4)


def test_one_step_of_sgd_matches_pytorch() -> None:
    torch = torch_or_skip()
    model = nn.Sequential([nn.Flatten(), nn.Linear(64, 4)]).initialize(seed=0, dtype=np.float64)
    weight = model.layers["1"].weight.value.copy()
    pixels, labels = images(16, 5)
    from gpunet.backend import CPU
    from gpunet.data.loader import Loader

    data = Loader(pixels, labels, backend=CPU, dtype="float64")
    config = TrainingConfig(
        epochs=1, batch_size=16, optimizer="sgd", lr=0.5, momentum=0, nesterov=False, weight_decay=0.1,
        schedule="constant", clip_norm=0.05, label_smoothing=0.2, dtype="float64",
    )  # fmt: skip
    Trainer(model, config, train=data, validation=data).fit()

    tw = torch.tensor(weight, requires_grad=True)
    tb = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    x = torch.tensor(pixels.reshape(16, 64) / 255.0)
    loss = torch.nn.functional.cross_entropy(x @ tw + tb, torch.tensor(labels.astype(np.int64)), label_smoothing=0.2)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([tw, tb], 0.05)
    groups = [{"params": [tw], "weight_decay": 0.1}, {"params": [tb], "weight_decay": 0.0}]
    torch.optim.SGD(groups, lr=0.5).step()
    assert_close(model.layers["1"].weight.value, tw.detach().numpy(), terms=64)
    assert_close(model.layers["1"].bias.value, tb.detach().numpy(), terms=64)


def test_divergence_names_step_and_layer_and_keeps_the_weights() -> None:
    model = nn.Sequential([nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 4)]).initialize(seed=0)
    model.layers["2"].bias.value[1] = np.inf
    before = model.flat.values.copy()
    trainer = make_trainer(model=model)
    with pytest.raises(DivergedError, match=r"step 1 \(epoch 1, .*parameter 2\.bias is not finite") as caught:
        trainer.fit()
    assert caught.value.exit_code == 5
    np.testing.assert_array_equal(model.flat.values, before)


def test_divergence_in_a_forward_pass_names_the_layer() -> None:
    model = nn.Sequential([nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 4)]).initialize(seed=0)
    model.flat.values[:] = 3e38  # finite, but the products are not
    with pytest.raises(DivergedError, match=r"the output of layer 1 \(Linear\) is not finite"):
        make_trainer(model=model).fit()


class Exploding(nn.Layer):
    """The identity, whose gradient is infinite in one step."""

    elementwise = True

    def forward(self, x: Any, ctx: nn.ForwardContext) -> Any:
        return x, lambda dy: dy * (np.float32(np.inf) if ctx.training and int(np.ravel(ctx.step)[0]) == 2 else 1)


def test_an_infinite_gradient_of_a_finite_loss_stops_the_training_before_its_update() -> None:
    def model() -> nn.Sequential:
        return nn.Sequential([nn.Flatten(), nn.Linear(64, 4), Exploding()]).initialize(seed=0)

    exploding = make_trainer(model=model(), clip_norm=1.0, schedule="constant")
    with pytest.raises(DivergedError, match=r"step 3 \(epoch 1, .*: the gradient of 1\.weight is not finite"):
        exploding.fit()
    np.testing.assert_array_equal(exploding.flat.values, model().flat.values)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_failed_epoch_leaves_everything_as_it_was_before_it(clip_norm: float, bad: float) -> None:
    """Weights, running statistics, their average and the optimiser: one value that is not finite reaches them all."""

    def everything(trainer: Trainer) -> list[np.ndarray]:
        assert trainer.average is not None
        slots = [*trainer.optimizer.slots().values(), *trainer.average.slots().values()]
        return [array.copy() for array in (trainer.flat.values, trainer.flat.state, *slots)]

    class Spoil(Callback):
        after_1: list[np.ndarray]

        def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
            self.after_1 = everything(trainer)

        def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
            if trainer.epoch == 1 and step == 3:
                trainer.flat.state[1] = bad  # of the running statistics, which training writes but does not read
            elif trainer.epoch == 1 and step == 4:
                trainer.flat.values[7] = bad

    spoil = Spoil()
    trainer = make_trainer(callbacks=(spoil,), clip_norm=clip_norm, ema_decay=0.9)
    with pytest.raises(DivergedError, match=r"step 11 \(epoch 2, .*The model is as it was after epoch 1"):
        trainer.fit()
    for found, expected in zip(everything(trainer), spoil.after_1, strict=True):
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, expected)
    assert trainer.epoch == 1 and trainer.step == 6


def test_validation_data_that_are_not_finite_are_named() -> None:
    features = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    labels = np.arange(60) % 3
    broken = features.copy()
    broken[7, 2] = np.nan
    model = nn.Sequential([nn.Linear(5, 3)]).initialize(seed=0)
    config, parts = TrainingConfig(epochs=1, batch_size=20), [Loader(part, labels) for part in (features, broken)]
    trainer = Trainer(model, config, train=parts[0], validation=parts[1])
    with pytest.raises(DivergedError, match=r"validation loss after epoch 1 .*: the input of the model is not finite"):
        trainer.fit()


def test_a_huge_learning_rate_stops_with_an_error_and_leaves_whole_files(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, optimizer="sgd", lr=1e30, schedule="constant", momentum=0.0, nesterov=False)
    with pytest.raises(DivergedError, match="lower --lr"):
        trainer.fit()
    for path in tmp_path.glob("*.safetensors"):
        for tensor in load_checkpoint(path)[0].values():
            assert np.isfinite(tensor).all()


def test_unwritable_run_folder(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "missing", epochs=1)
    with pytest.raises(OutputError, match="missing"):
        trainer.fit()


def test_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=1, ema_decay=0.9)
    trainer.fit()
    best = under("model", load_checkpoint(tmp_path / BEST)[0])
    tensors, facts = load_checkpoint(tmp_path / LAST)
    assert facts["training"]["best_epoch"] == 1
    assert any((best[name] != value).any() for name, value in under("model", tensors).items())
    averages = under("average", tensors).values()
    assert trainer.flat.values.tobytes() in {average.tobytes() for average in averages}
    assert evaluate(trainer.model, trainer.validation).accuracy == trainer.best_score


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"call model\.initialize"):
        make_trainer(model=nn.Sequential([nn.Flatten(), nn.Linear(64, 4)]))
    with pytest.raises(ConfigError, match="epochs must be at least 1"):
        TrainingConfig(epochs=0)
    with pytest.raises(ConfigError, match="optimizer must be one of"):
        TrainingConfig(optimizer="adamax")


def test_small_data_sets_make_one_batch() -> None:
    trainer = make_trainer(batch_size=1000, epochs=1)
    assert trainer.batch_size == 200 and trainer.steps_per_epoch == 1
    trainer.fit()


def test_the_last_weights_where_those_are_wanted(tmp_path: Path) -> None:
    class Spoil(Callback):
        """Remembers the weights of each epoch, and starts the last one from zero."""

        def __init__(self) -> None:
            self.weights: list[np.ndarray] = []

        def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
            if epoch == 4:
                trainer.flat.values[...] = 0

        def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
            self.weights.append(trainer.flat.values.copy())

    for keep in ("best", "last"):
        (tmp_path / keep).mkdir()
        spoil = Spoil()
        trainer = make_trainer(tmp_path / keep, (spoil,), keep=keep, epochs=4)
        accuracies = trainer.fit().column("validation_accuracy")
        best = int(np.argmax(accuracies))
        assert best < 3, "the last epoch was spoilt"
        chosen = best if keep == "best" else 3
        np.testing.assert_array_equal(trainer.flat.values, spoil.weights[chosen])
        assert trainer.best_epoch == chosen + 1 and trainer.best_score == accuracies[chosen]
        assert load_checkpoint(tmp_path / keep / BEST)[1]["epoch"] == chosen + 1


def test_probabilities_averaged_over_mirror_images() -> None:
    trainer = make_trainer()
    model, loader = trainer.model, trainer.validation
    plain = evaluate(model, loader, keep_probabilities=True).probabilities
    assert plain is not None
    x = images(100, 2)[0] / np.float32(255)
    logits = np.concatenate(
        [model.forward(x[i : i + 1, :, ::-1].astype(np.float32), nn.ForwardContext())[0] for i in range(100)]
    )
    mirrored = np.exp(logits.astype(np.float64))
    mirrored /= mirrored.sum(1, keepdims=True)
    assert np.abs(plain - mirrored).max() > 1e-3, "the images are not symmetric"
    # each logit is a sum of at most 72 products; the softmax adds a few roundings
    assert_close(with_mirror_images(model, loader, plain), (plain + mirrored) / 2, terms=72, dtype=np.float32)


def test_balanced_class_weights_are_scikit_learns_and_none_for_an_absent_class() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([1, 1, 1, 3, 3, 4], np.int32)
    expected = compute_class_weight("balanced", classes=np.array([1, 3, 4]), y=labels)
    found = nn.balanced_class_weights(labels, 6)
    np.testing.assert_allclose(found, [0, expected[0], 0, *expected[1:], 0], rtol=1e-12)


def test_class_weights_of_the_configuration_are_those_given_by_hand() -> None:
    weights = nn.balanced_class_weights(loaders()["train"].labels, 4).astype(np.float32)
    assert len(set(weights.tolist())) > 1
    found, by_hand = make_trainer(epochs=1, class_weights="balanced"), make_trainer(epochs=1)
    plain = make_trainer(epochs=1)
    by_hand.loss.weight = weights
    for trainer in (found, by_hand, plain):
        trainer.fit()
    assert found.flat.values.tobytes() == by_hand.flat.values.tobytes() != plain.flat.values.tobytes()


def test_the_dtype_of_the_configuration_must_be_that_of_the_model() -> None:
    with pytest.raises(ConfigError, match="arrays are float32, but the training is configured for float64: initialise"):
        make_trainer(dtype="float64")
