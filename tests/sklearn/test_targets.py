"""The regressor, several labels, and weights of rows, beside scikit-learn's own estimators."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.datasets import load_diabetes, make_multilabel_classification
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpunet.errors import ConfigError
from gpunet.sklearn import CNNClassifier, HybridClassifier, MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = load_diabetes(return_X_y=True)
PARTS = train_test_split(X, Y, random_state=0)
ROWS = train_test_split(np.arange(len(X)), random_state=0)[0]
LEARNING: dict[str, Any] = {"max_iter": 100, "learning_rate_init": 0.01, "alpha": 1.0, "early_stopping": True}


def regressor(**options: Any) -> MLPRegressor:
    return MLPRegressor(**{"hidden_layer_sizes": (32,), "max_iter": 30, "random_state": 0, "device": "cpu", **options})


@pytest.fixture(scope="module")
def fitted() -> MLPRegressor:
    train_x, _, train_y, _ = PARTS
    return regressor(**LEARNING).fit(train_x, train_y)


def test_as_good_as_scikit_learns(fitted: MLPRegressor) -> None:
    train_x, test_x, train_y, test_y = PARTS
    theirs = make_pipeline(StandardScaler(), TheirRegressor(hidden_layer_sizes=(32,), random_state=0, **LEARNING))
    assert fitted.score(test_x, test_y) >= theirs.fit(train_x, train_y).score(test_x, test_y) - 0.02
    assert fitted.score(test_x, test_y) >= LinearRegression().fit(train_x, train_y).score(test_x, test_y) - 0.05


def test_attributes_and_copies(fitted: MLPRegressor) -> None:
    assert (fitted.n_outputs_, fitted.out_activation_, fitted.n_layers_) == (1, "identity", 3)
    assert [weights.shape for weights in fitted.coefs_] == [(10, 32), (32, 1)]
    assert fitted.best_validation_score_ == max(fitted.validation_scores_) > 0
    hidden = np.maximum((X - X[ROWS].mean(0)) / X[ROWS].std(0) @ fitted.coefs_[0] + fitted.intercepts_[0], 0)
    numbers = hidden @ fitted.coefs_[1] + fitted.intercepts_[1]
    expected = numbers[:, 0] * Y[ROWS].std() + Y[ROWS].mean()
    np.testing.assert_allclose(fitted.predict(X), expected, rtol=1e-5)
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(other.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(fitted.predict(X)[7:9], fitted.predict(X[7:9]))


def test_several_targets_in_units_of_their_own() -> None:
    both = np.stack([Y, 1e-6 * X[:, 2] + 5], axis=1)
    model = regressor(max_iter=40, learning_rate_init=0.01).fit(X, both)
    errors = mean_squared_error(both, model.predict(X), multioutput="raw_values")
    assert model.predict(X).shape == both.shape and (errors < 0.6 * both.var(axis=0)).all()


def test_parts_go_on_and_the_loss_is_chosen() -> None:
    model = regressor(learning_rate_init=0.01)
    scores = [model.partial_fit(X, Y).score(X, Y) for _ in range(12)]
    assert scores[-1] > scores[0] and model.n_iter_ == 12
    with pytest.raises(ConfigError, match=r"goes on with 1 target\(s\), got 2"):
        model.partial_fit(X, np.stack([Y, Y], axis=1))
    # an outlier moves Huber's loss less
    wild = np.where(np.arange(len(Y)) == 5, 1e5, Y)
    errors = [
        np.abs(regressor(loss=loss, learning_rate_init=0.01).fit(X, wild).predict(X) - Y).mean()
        for loss in ("squared_error", "huber")
    ]
    assert errors[1] < errors[0]
    with pytest.raises(ConfigError, match="loss must be one of squared_error, huber; got 'poisson'"):
        regressor(loss="poisson").fit(X, Y)


def test_several_labels_as_scikit_learns() -> None:
    x, labels = make_multilabel_classification(300, n_classes=4, random_state=0)
    options: dict[str, Any] = {
        "hidden_layer_sizes": (30,),
        "max_iter": 40,
        "random_state": 0,
        "learning_rate_init": 0.01,
    }
    ours = MLPClassifier(**options, device="cpu").fit(x[:200], labels[:200])
    theirs = make_pipeline(StandardScaler(), TheirClassifier(**options)).fit(x[:200], labels[:200])
    wanted, predicted = labels[200:], ours.predict(x[200:])
    assert predicted.shape == wanted.shape and set(np.unique(predicted)) <= {0, 1}
    scores = [f1_score(wanted, found, average="macro") for found in (predicted, theirs.predict(x[200:]))]
    assert scores[0] >= scores[1] - 0.04
    probabilities = ours.predict_proba(x[200:])
    np.testing.assert_array_equal(probabilities > 0.5, predicted == 1)
    assert ours.out_activation_ == "logistic" and ours.classes_.tolist() == [0, 1, 2, 3] and ours.n_outputs_ == 4
    assert ours.score(x[200:], wanted) == accuracy_score(wanted, predicted)
    parts = MLPClassifier(**options, device="cpu").partial_fit(x, labels).partial_fit(x, labels)
    assert parts.predict(x).shape == labels.shape
    with pytest.raises(ConfigError, match="class_weight is for one class a row"):
        MLPClassifier(class_weight="balanced", device="cpu").fit(x, labels)
    with pytest.raises(ValueError, match="y should be a 1d array"):
        CNNClassifier(device="cpu").fit(x, labels)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor, CNNClassifier, HybridClassifier])
def test_weights_of_rows(kind: type) -> None:
    """A row of weight 0 might as well not be there; only ratios of weights count; a heavy row is fitted."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 16)), rng.integers(0, 2, 60)
    y[:30] = x[:30, 0] > 0
    y[30:] = x[30:, 0] < 0  # the other half says the opposite
    weight = np.repeat([1.0, 0.0], 30)
    sized = {"hidden_layer_sizes": (8,)} if kind is not CNNClassifier else {}
    options: dict[str, Any] = {"max_iter": 25, "random_state": 0, "learning_rate_init": 0.02, "batch_size": 10, **sized}
    if kind in (CNNClassifier, HybridClassifier):
        options |= {"filters": (4,), "image_shape": (4, 4)}

    def fit(rows: slice, sample_weight: np.ndarray | None) -> np.ndarray:
        model = kind(**options, device="cpu").fit(x[rows], y[rows], sample_weight=sample_weight)
        return np.asarray(model.predict(x))

    alone = fit(slice(30), None)
    np.testing.assert_array_equal(fit(slice(None), weight), alone)
    uneven = np.repeat([1.0, 1 / 64], 30)
    np.testing.assert_array_equal(fit(slice(None), uneven), fit(slice(None), 4 * uneven))
    agree = [np.mean((fit(slice(None), one)[:30] > 0.5) == y[:30]) for one in (uneven, uneven[::-1])]
    assert agree[0] > agree[1] + 0.2
    for wrong in (-weight, weight[:5], weight * np.nan, 0 * weight):
        with pytest.raises(ValueError):
            fit(slice(None), wrong)


def test_weights_are_routed() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        model = regressor(max_iter=3).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        search = GridSearchCV(make_pipeline(scaler, model), {"mlpregressor__alpha": [1e-4, 1e-2]}, cv=2)
        search.fit(X, Y, sample_weight=np.linspace(0, 1, len(Y)))
    assert search.best_estimator_.predict(X).shape == Y.shape
