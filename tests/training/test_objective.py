"""Losses and metrics as arguments: PyTorch's training, scikit-learn's metrics, and the same bits when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle

from gpunet import nn
from gpunet.backend import CPU, Backend
from gpunet.data import Dataset, Loader
from gpunet.errors import ConfigError, DataError, DivergedError, DTypeError, OtherTrainingError, ShapeError
from gpunet.experiments.records import read_history
from gpunet.models import MLP
from gpunet.report.run_figures import plot_targets
from gpunet.sweep.table import read_table, write_table
from gpunet.training import METRICS, Callback, History, Metric, TensorBoard, Trainer, TrainingConfig, evaluate
from gpunet.training.snapshot import LAST, read_snapshot
from gpunet.training.trainer import METRICS as METRICS_FILE
from tests.support import assert_close, torch_or_skip
from tests.training.problems import loaders, make_trainer, without_times

UNITS, SHIFT = np.array([250.0, 0.02]), np.array([1e4, -3.0])


def rows(n: int, seed: int, task: str = "regression") -> tuple[np.ndarray, np.ndarray]:
    """(n, 5) features and two targets in units of their own, or three labels."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5)).astype(np.float32)
    if task == "regression":
        clean = np.stack([np.sin(x[:, 0]) + x[:, 1], x[:, 2] * x[:, 3]], axis=1)
        return x, (clean + 0.1 * rng.standard_normal((n, 2))) * UNITS + SHIFT
    return x, (x[:, :3] + 0.3 * rng.standard_normal((n, 3)) > 0.2).astype(np.float64)


def make(
    run_dir: Path | None = None,
    *,
    task: str = "regression",
    backend: Backend = CPU,
    weighted: bool = False,
    **options: Any,
) -> Trainer:
    extra = {name: options.pop(name) for name in ("loss", "metrics", "callbacks", "model") if name in options}
    extra.setdefault("loss", "mse" if task == "regression" else "bce_with_logits")
    config = TrainingConfig(**{"epochs": 3, "batch_size": 16, "lr": 1e-2, **options})
    data = []
    for n, seed in ((120, 0), (50, 1)):
        x, y = rows(n, seed, task)
        weights = np.linspace(0, 2, n) if weighted else None
        data.append(Loader(x, y, sample_weight=weights, backend=backend, dtype=config.dtype))
    model = extra.pop("model", None)
    if model is None:
        outputs = data[0].outputs
        assert outputs is not None
        model = MLP((5, 8, outputs)).initialize(seed=1, device=backend, dtype=config.dtype)
    return Trainer(model, config, train=data[0], validation=data[1], run_dir=run_dir, **extra)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["mse", "huber", "bce_with_logits", "focal"])
def test_three_steps_are_pytorchs(name: str, weighted: bool) -> None:
    """float64, plain gradient descent: the parameters differ by rounding alone."""
    torch = torch_or_skip()
    task = "multilabel" if name == "bce_with_logits" else "regression"
    x, y = rows(48, 2, task)
    weights = np.random.default_rng(3).uniform(0, 2, 48) if weighted else None
    if name == "focal":
        y = (y[:, 0] > 1e4).astype(np.int64)
    train = Loader(x, y, sample_weight=weights, backend=CPU, dtype="float64")
    model = MLP((5, 6, y.shape[1] if y.ndim == 2 else 2), "tanh").initialize(seed=0, dtype="float64")
    values = [torch.tensor(p.value.copy(), requires_grad=True) for _, p in model.named_parameters()]
    config = TrainingConfig(
        epochs=1,
        batch_size=16,
        optimizer="sgd",
        momentum=0.0,
        nesterov=False,
        lr=0.1,
        schedule="constant",
        dtype="float64",
    )
    Trainer(model, config, train=train, validation=train, loss=name).fit()
    inputs = torch.tensor(x.astype(np.float64))
    targets = torch.tensor((y - y.mean(0)) / y.std(0) if task == "regression" and name != "focal" else y)
    for start in (0, 16, 32):
        batch = torch.tensor(np.asarray(train._order[start : start + 16]))  # the order of that epoch
        first, first_bias, second, second_bias = values
        outputs = torch.tanh(inputs[batch] @ first + first_bias) @ second + second_bias
        wanted = targets[batch]
        if name == "mse":
            each = ((outputs - wanted) ** 2).mean(1)
        elif name == "huber":
            each = torch.nn.functional.huber_loss(outputs, wanted, reduction="none").mean(1)
        elif name == "focal":
            entropy = torch.nn.functional.cross_entropy(outputs, wanted, reduction="none")
            each = (1 - torch.exp(-entropy)) ** 2 * entropy
        else:
            each = torch.nn.functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(1)
        weight = torch.ones(16, dtype=torch.float64) if weights is None else torch.tensor(weights)[batch]
        loss = (weight * each).sum() / weight.sum()
        gradients = torch.autograd.grad(loss, values)
        with torch.no_grad():
            for value, gradient in zip(values, gradients, strict=True):
                value -= 0.1 * gradient
    for (_, parameter), value in zip(model.named_parameters(), values, strict=True):
        assert_close(parameter.value, value.detach().numpy(), scale=10.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_are_scikit_learns(weighted: bool) -> None:
    rng = np.random.default_rng(5)
    weight = rng.uniform(0, 2, 60) if weighted else np.ones(60)
    logits, classes = rng.standard_normal((60, 4)), rng.choice([0, 1, 3], 60).astype(np.int32)
    targets, outputs = rng.standard_normal((60, 3)) * 100, rng.standard_normal((60, 3)) * 100
    labels = (rng.random((60, 4)) < [0.5, 0.1, 0.9, 0.0]).astype(float)
    predicted, said = logits.argmax(1), logits * [1, 1, 1, 0] > 0
    with_weights = {"sample_weight": weight}
    # the classes that are predicted but do not occur do not count
    shares = [np.average(predicted[classes == c] == c, weights=weight[classes == c]) for c in (0, 1, 3)]
    expected = {
        "accuracy": oracle.accuracy_score(classes, predicted, **with_weights),
        "balanced_accuracy": np.mean(shares),
        "r2": oracle.r2_score(targets, outputs, **with_weights),
        "rmse": oracle.root_mean_squared_error(targets, outputs, **with_weights),
        "mae": oracle.mean_absolute_error(targets, outputs, **with_weights),
        "macro_f1": oracle.f1_score(labels, said, average="macro", zero_division=0, **with_weights),
        "micro_f1": oracle.f1_score(labels, said, average="micro", **with_weights),
        "subset_accuracy": oracle.accuracy_score(labels, said, **with_weights),
    }
    assert expected.keys() == METRICS.keys()
    given = {"classification": (logits, classes), "regression": (outputs, targets)}
    given["multilabel"] = logits * [1, 1, 1, 0], labels
    for name, kind in METRICS.items():
        np.testing.assert_allclose(kind()(*given[kind.task], weight), expected[name], rtol=1e-12, err_msg=name)


def test_r2_of_a_constant_target() -> None:
    targets, weight = np.array([[2.0, 1.0], [2.0, 5.0]]), np.ones(2)
    for outputs in (targets, targets + np.array([[0, 1], [0, 0]]), targets + np.array([[1, 0], [0, 0]])):
        assert METRICS["r2"]()(outputs, targets, weight) == oracle.r2_score(targets, outputs)


def test_a_regression_is_in_the_units_of_its_targets() -> None:
    trainer = make(epochs=60, lr=0.03)
    history = trainer.fit()
    first = history.records[0]
    assert list(first) == [
        "epoch", "step", "lr", "train_loss", "validation_loss", "validation_r2", "validation_rmse", "validation_mae",
        "seconds", "images_per_second",
    ]  # fmt: skip
    assert trainer.monitor.name == "r2" and trainer.best_score == max(history.column("validation_r2")) > 0.6
    x, y = rows(50, 1)
    found = evaluate(trainer.model, Loader(x, y, backend=CPU))
    assert found.predictions is not None and found.scores["r2"] == trainer.best_score
    own = trainer.model(x) * rows(120, 0)[1].std(0) + rows(120, 0)[1].mean(0)
    np.testing.assert_allclose(found.predictions, own, rtol=1e-5)
    np.testing.assert_allclose(found.scores["rmse"], oracle.root_mean_squared_error(y, found.predictions))
    with pytest.raises(ConfigError, match="there is no accuracy, but r2, rmse, mae"):
        _ = found.accuracy


def test_several_labels() -> None:
    trainer = make(task="multilabel", epochs=40, lr=0.03)
    trainer.fit()
    x, y = rows(50, 1, "multilabel")
    found = evaluate(trainer.model, Loader(x, y, backend=CPU), loss="bce_with_logits", keep_probabilities=True)
    assert found.scores["macro_f1"] == trainer.best_score > 0.8 and next(iter(found.scores)) == "macro_f1"
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-trainer.model(x).astype(float))), rtol=1e-6)
    assert found.scores["subset_accuracy"] == ((found.probabilities > 0.5) == (y > 0.5)).all(1).mean()


def test_the_first_metric_is_monitored_whatever_its_direction() -> None:
    trainer = make(metrics=["mae", "r2"], epochs=12, early_stopping=2, lr=0.3, schedule="constant")
    errors = trainer.fit().column("validation_mae")
    assert trainer.best_score == min(errors) and trainer.best_epoch == 1 + int(np.argmin(errors))
    best = [int(np.argmin(errors[: n + 1])) for n in range(len(errors))]
    waits = [n - first for n, first in enumerate(best)]
    assert max(waits[:-1], default=0) < 2 and (waits[-1] == 2 or len(errors) == 12)
    assert evaluate(trainer.model, trainer.validation).scores["mae"] == min(errors)


def test_weights_count_in_losses_and_metrics() -> None:
    trainer = make(weighted=True, epochs=2)
    record = trainer.fit().records[-1]
    x, y = rows(50, 1)
    weights = np.linspace(0, 2, 50)
    assert trainer.best_epoch == 2
    outputs = trainer.model(x).astype(np.float64)
    scaling = trainer.model.target_scaling
    squares = ((outputs - scaling.standardized(y)) ** 2).mean(1)
    np.testing.assert_allclose(record["validation_loss"], weights @ squares / weights.sum(), rtol=1e-5)
    predicted = scaling.original(outputs)
    expected = oracle.mean_absolute_error(y, predicted, sample_weight=weights)
    np.testing.assert_allclose(record["validation_mae"], expected, rtol=1e-6)


def test_classes_with_another_metric_and_weights() -> None:
    data = loaders()
    weights = np.linspace(0, 1, 100)
    images, labels = data["validation"].images, data["validation"].labels
    model = make_trainer(epochs=1).model
    config = TrainingConfig(epochs=2, batch_size=32)
    weighted = Loader(images, labels, sample_weight=weights, backend=CPU)
    trainer = Trainer(model, config, train=data["train"], validation=weighted, metrics="balanced_accuracy")
    record = trainer.fit().records[-1]
    assert [name for name in record if "accuracy" in name] == [
        "train_accuracy", "validation_balanced_accuracy", "validation_accuracy"
    ]  # fmt: skip
    assert trainer.best_score == max(trainer.history.column("validation_balanced_accuracy"))
    predicted = model(data["validation"].batch(0, 100)[0]).argmax(1)
    found = evaluate(model, weighted)
    assert found.correct == (predicted == labels).sum()
    np.testing.assert_allclose(found.accuracy, oracle.accuracy_score(labels, predicted, sample_weight=weights))


class _Stop(Callback):
    """Ends the training as a kill would, after a step in the middle of an epoch, once it is saved."""

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        if trainer.epoch == 1 and step == 3:
            trainer._save_last()
            raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{}, {"weighted": True, "metrics": ["mae"], "loss": "huber"}])
def test_a_killed_and_resumed_regression_has_the_same_bits(tmp_path: Path, options: dict[str, Any]) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder in (whole, part):
        folder.mkdir()
    through = make(whole, **options)
    through.fit()
    with pytest.raises(KeyboardInterrupt):
        make(part, callbacks=[_Stop()], **options).fit()
    resumed = make(part, **options)
    assert resumed.resume() and resumed.epoch == 1 and resumed._epoch_steps == 3
    resumed.fit()
    assert resumed.flat.values.tobytes() == through.flat.values.tobytes()
    assert without_times(resumed.history.records) == without_times(through.history.records)
    names = [
        [line.split('"')[1::2] for line in (folder / METRICS_FILE).read_text().splitlines()] for folder in (whole, part)
    ]
    assert names[0] == names[1]
    snapshot = read_snapshot(part)
    assert snapshot is not None
    np.testing.assert_array_equal(snapshot.tensors["target/mean"], rows(120, 0)[1].mean(0))
    with pytest.raises(OtherTrainingError, match=r"begun with other .*loss"):
        make(part, **{**options, "loss": nn.HuberLoss(delta=2.0)}).resume()
    with pytest.raises(OtherTrainingError, match=r"begun with other .*metrics"):
        make(part, **{**options, "metrics": ["rmse"]}).resume()


def test_the_identity_of_a_classification_is_as_ever(tmp_path: Path) -> None:
    """So that runs of earlier versions go on: their snapshots know neither loss nor metrics."""
    plain = make_trainer(tmp_path, epochs=1)
    plain.fit()
    names = set(plain.identity)
    assert not names & {"loss", "metric", "metrics", "target scaling"}
    assert names >= {"training data", "validation data", "label_smoothing", "seed"}
    snapshot = read_snapshot(tmp_path)
    assert snapshot is not None and snapshot.best_score == plain.best_score
    # an older version called it best_accuracy
    from gpunet.training.checkpoint import load_checkpoint, save_checkpoint

    tensors, about = load_checkpoint(tmp_path / LAST)
    about["training"]["best_accuracy"] = about["training"].pop("best_score")
    save_checkpoint(tmp_path / LAST, tensors, about)
    again = make_trainer(tmp_path, epochs=2)
    assert again.resume() and again.best_score == plain.best_score
    again.fit()


class _Worst(Metric):
    name, task, maximize = "worst", "regression", False

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        return float(np.abs(outputs - targets).max())


class _FourthPower:
    task = "regression"

    def __call__(self, outputs: Any, targets: Any, sample_weight: Any = None) -> Any:
        error = outputs - targets
        return (error**4).mean(), 4 * error**3 / error.size


class _Converting(nn.Layer):
    """A layer that returns float64, forwards or backwards."""

    def __init__(self, forward: str, backward: str) -> None:
        self.dtypes = forward, backward

    def forward(self, x: Any, ctx: nn.ForwardContext) -> Any:
        return x.astype(self.dtypes[0]), lambda dy: dy.astype(self.dtypes[1])

    def output_shape(self, input_shape: Any) -> Any:
        return input_shape


@pytest.mark.parametrize(
    ("forward", "backward", "convert", "error", "message"),
    [
        (
            "float64",
            "float32",
            None,
            DTypeError,
            "the forward of _Converting returned a float64 output for an input",
        ),
        ("float32", "float64", None, DTypeError, "the backward of _Converting returned a float64 gradient for a gradi"),
        (
            "float32",
            "float32",
            np.float64,
            DTypeError,
            r"loss Own is float64, but the outputs are float32: return",
        ),
        ("float32", "float32", np.ndarray.tolist, DTypeError, "loss Own is list, but the outputs are float32"),
        (
            "float32",
            "float32",
            lambda found: found[0],
            ShapeError,
            r"loss Own has the shape \(2,\), but the outputs",
        ),
    ],
)
def test_arrays_of_ones_own_that_do_not_fit_are_named(
    forward: str, backward: str, convert: Any, error: type[Exception], message: str
) -> None:
    class Own(nn.MSELoss):
        def __call__(self, *arguments: Any) -> Any:
            loss, gradient = super().__call__(*arguments)
            return loss, gradient if convert is None else convert(gradient)

    x, y = rows(16, 0)
    layers = [nn.Linear(x.shape[1], 4), _Converting(forward, backward), nn.Linear(4, y.shape[1])]
    model = nn.Sequential(layers).initialize(seed=0, device=CPU)
    data = {name: Loader(x, y, backend=CPU) for name in ("train", "validation")}
    config = TrainingConfig(epochs=1, batch_size=8)
    with pytest.raises(error, match=message):
        Trainer(model, config, **data, loss=Own(), progress=False).fit()


def test_a_loss_and_a_metric_of_ones_own() -> None:
    trainer = make(loss=_FourthPower(), metrics=[_Worst(), "r2"])
    losses = trainer.fit().column("train_loss")
    assert losses[-1] < losses[0] and trainer.best_score == min(trainer.history.column("validation_worst"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": None}, 'the targets are numbers, so the Trainer needs a loss: loss="mse"'),
        ({"loss": "mes"}, "loss must be one of cross_entropy, .*; got 'mes' .did you mean 'mse'"),
        ({"loss": "cross_entropy"}, r"CrossEntropyLoss takes class indices.*but the targets are numbers \(120, 2\)"),
        ({"loss": "bce_with_logits"}, r"takes targets from 0 to 1, one for each label, but they lie in \[-3"),
        ({"loss": len}, "a loss is a name of gpunet.nn.LOSSES or an object like those"),
        ({"label_smoothing": 0.1}, "the loss mse does not take label_smoothing from the training's settings"),
        ({"loss": nn.MSELoss(), "label_smoothing": 0.1}, "given as an object does not take label_smoothing"),
        ({"class_weights": "balanced"}, "class_weights balanced needs class indices"),
        ({"metrics": "accuracy"}, "the metric accuracy is for classification, but this is regression: choose r2"),
        ({"metrics": ["r2", "r2"]}, "metrics must have different names"),
        ({"metrics": []}, "at least one metric"),
        ({"metrics": "R2"}, "metric must be one of"),
        ({"metric": "r2", "metrics": "mae"}, "the metrics are given twice"),
        ({"config_loss": "huber"}, "the loss is given twice"),
        ({"model": MLP((5, 3))}, r"the model's outputs \(3,\) do not fit 2 target"),
    ],
)
def test_what_does_not_fit_is_refused_early(options: dict[str, Any], message: str) -> None:
    options = dict(options)
    if "model" in options:
        options["model"] = options["model"].initialize()
    if "config_loss" in options:
        x, y = rows(20, 0)
        data = {name: Loader(x, y, backend=CPU) for name in ("train", "validation")}
        with pytest.raises(ConfigError, match=message):
            Trainer(MLP((5, 2)).initialize(), TrainingConfig(loss="huber"), **data, loss="mse")
        return
    with pytest.raises((ConfigError, ShapeError), match=message):
        make(**options)


def test_classes_are_no_targets_of_a_regression() -> None:
    data = loaders()
    with pytest.raises(ConfigError, match=r"MSELoss takes numbers, floats \(n, K\), but the targets are class indices"):
        Trainer(make_trainer().model, TrainingConfig(), **data, loss="mse")


def test_a_batch_without_weight_is_named() -> None:
    x, y = rows(32, 0)
    weights = np.zeros(32)
    weights[0] = 1
    data = Loader(x, y, sample_weight=weights, backend=CPU)
    trainer = Trainer(
        MLP((5, 2)).initialize(), TrainingConfig(batch_size=8, epochs=1), train=data, validation=data, loss="mse"
    )
    with pytest.raises(DivergedError, match="the sample weights of the batch are all 0"):
        trainer.fit()


def test_the_loss_of_a_config() -> None:
    x, y = rows(40, 0)
    data = {name: Loader(x, y, backend=CPU) for name in ("train", "validation")}
    trainer = Trainer(MLP((5, 2)).initialize(), TrainingConfig(loss="huber", metric="mae"), **data)
    assert isinstance(trainer.loss, nn.HuberLoss) and trainer.monitor.name == "mae"
    with pytest.raises(DataError, match="targets are NaN"):
        Loader(x, np.where(y > 1e4, np.nan, y), backend=CPU)


def test_paths_may_be_strings(tmp_path: Path) -> None:
    folder = str(tmp_path)
    make(folder, epochs=1).fit()  # type: ignore[arg-type]
    found = read_snapshot(folder)
    assert found is not None and found.epoch == 1
    assert read_history(f"{folder}/{METRICS_FILE}") == found.records
    history = History(f"{folder}/again.jsonl")
    history.records = found.records
    history.write()
    assert read_history(tmp_path / "again.jsonl") == found.records
    x, y = rows(20, 0)
    data = Dataset(x.reshape(20, 1, 1, 5), y, ("a", "b"), task="regression")
    plot_targets(folder, found.records, data, y + 1)
    write_table(f"{folder}/table.csv", ["a"], [])
    assert read_table(f"{folder}/table.csv") == (["a"], [])
    assert {"residuals.png", "predicted_and_true.png", "learning_curves.png"} <= {
        one.name for one in tmp_path.iterdir()
    }
    assert TensorBoard(folder).folder == tmp_path
