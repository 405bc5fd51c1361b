"""The estimators in scikit-learn's tools, and what the checks of scikit-learn do not know: images, classes, parts."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from itertools import pairwise
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from gpunet.errors import ConfigError, DivergedError, ShapeError
from gpunet.models import MLP
from gpunet.sklearn import CNNClassifier, CNNFeatures, HybridClassifier, MLPClassifier

cloudpickle = pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

WINE, KIND = load_wine(return_X_y=True)
NAMES = np.array(["barolo", "grignolino", "barbera"])[KIND]


def mlp(**options: Any) -> MLPClassifier:
    small = {"hidden_layer_sizes": (16,), "max_iter": 30, "learning_rate_init": 0.02}
    return MLPClassifier(**{**small, "random_state": 0, "device": "cpu", **options})


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (300, 8, 8) digits 0, 1, 2, 3 and their names."""
    X, y = load_digits(n_class=4, return_X_y=True)
    return (X[:300] * 15).astype(np.uint8).reshape(-1, 8, 8), np.array(["zero", "one", "two", "three"])[y[:300]]


def small(kind: type, **options: Any) -> Any:
    return kind(**{"filters": (4, 8), "max_iter": 6, "batch_size": 32, "random_state": 0, "device": "cpu", **options})


@pytest.fixture(scope="module")
def fitted() -> MLPClassifier:
    with pytest.warns(ConvergenceWarning, match="the maximum of 30 iterations was reached"):
        return mlp().fit(WINE, NAMES)


def test_attributes_are_scikit_learns(fitted: MLPClassifier) -> None:
    assert fitted.classes_.tolist() == ["barbera", "barolo", "grignolino"] and fitted.n_features_in_ == 13
    assert fitted.n_iter_ == 30 == len(fitted.loss_curve_) == fitted.t_ and fitted.best_loss_ == min(fitted.loss_curve_)
    assert fitted.loss_ == fitted.loss_curve_[-1] and fitted.validation_scores_ is None
    assert [one.shape for one in fitted.coefs_] == [(13, 16), (16, 3)] and fitted.n_layers_ == 3
    assert [one.shape for one in fitted.intercepts_] == [(16,), (3,)]
    x = (WINE - WINE.mean(0)) / WINE.std(0)
    logits = np.maximum(x @ fitted.coefs_[0] + fitted.intercepts_[0], 0) @ fitted.coefs_[1] + fitted.intercepts_[1]
    powers = np.exp(logits)
    np.testing.assert_allclose(fitted.predict_proba(WINE), powers / powers.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
    assert (fitted.predict(WINE) == fitted.classes_[logits.argmax(1)]).all() and fitted.score(WINE, NAMES) > 0.9


@pytest.mark.parametrize(
    "through",
    [
        lambda one: pickle.loads(pickle.dumps(one)),
        lambda one: cloudpickle.loads(cloudpickle.dumps(one)),
        copy.deepcopy,
    ],
    ids=["pickle", "cloudpickle", "deepcopy"],
)
@pytest.mark.parametrize("kind", [MLPClassifier, CNNClassifier, HybridClassifier])
def test_copies_predict_the_same_bits(kind: type, through: Any) -> None:
    X, y = pictures()
    one = mlp(max_iter=3) if kind is MLPClassifier else small(kind, max_iter=2)
    other = through(one.fit(X, y))
    assert (other.predict_proba(X) == one.predict_proba(X)).all() and other.get_params() == one.get_params()
    assert (clone(one).fit(X, y).predict_proba(X) == one.predict_proba(X)).all()


def test_a_file_of_joblib(fitted: MLPClassifier, tmp_path: Any) -> None:
    joblib.dump(fitted, tmp_path / "a.joblib")
    assert (joblib.load(tmp_path / "a.joblib").predict_proba(WINE) == fitted.predict_proba(WINE)).all()


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_search_in_two_workers_finds_what_one_finds(backend: str) -> None:
    grid = {"mlpclassifier__hidden_layer_sizes": [(4,), (8, 4)], "mlpclassifier__alpha": [1e-4, 1.0]}
    found = []
    for jobs in (1, 2):
        search = GridSearchCV(make_pipeline(StandardScaler(), mlp(max_iter=5)), grid, cv=2, n_jobs=jobs)
        with joblib.parallel_backend(backend):
            found.append(search.fit(WINE, NAMES))
    assert (found[0].cv_results_["mean_test_score"] == found[1].cv_results_["mean_test_score"]).all()
    assert (found[0].predict_proba(WINE) == found[1].predict_proba(WINE)).all()


def test_in_other_tools(fitted: MLPClassifier) -> None:
    assert cross_val_score(mlp(), WINE, NAMES, cv=3).mean() > 0.9
    calibrated = CalibratedClassifierCV(mlp(), cv=2).fit(WINE, NAMES)
    assert calibrated.score(WINE, NAMES) > 0.9
    np.testing.assert_allclose(calibrated.predict_proba(WINE).sum(1), 1, rtol=1e-5)
    spoiled = np.column_stack([WINE, np.random.default_rng(0).normal(size=len(WINE))])
    importances = permutation_importance(mlp().fit(spoiled, NAMES), spoiled, NAMES, n_repeats=2, random_state=0)
    assert importances.importances_mean[-1] < importances.importances_mean.max() / 2


@pytest.mark.parametrize("kind", [MLPClassifier, CNNClassifier, HybridClassifier])
def test_images_of_any_layout(kind: type) -> None:
    X, y = pictures()
    options: dict[str, Any] = {"learning_rate_init": 0.01}

    def make(**more: Any) -> Any:
        return mlp(**options, **more) if kind is MLPClassifier else small(kind, **options, **more)

    one = make().fit(X, y)
    assert one.n_features_in_ == 64 and one.image_shape_ == (8, 8, 1) and one.score(X, y) > 0.9
    expected = one.predict_proba(X)
    for same, shape in ((X[..., None], None), (X.reshape(-1, 64), (8, 8)), (X.reshape(-1, 64), (8, 8, 1))):
        other = make(image_shape=shape).fit(same, y)
        assert (other.predict_proba(same) == expected).all() and (other.predict_proba(X) == expected).all()
    floats = make().fit(X / 255, y)
    assert floats.score(X / 255, y) > 0.9
    augmented = make(augment={"shift": 1}).fit(X, y)
    assert (augmented.predict_proba(X) != expected).any()
    for wrong, message in ((X[:, :7], r"images of shape \(8, 8, 1\)"), (X / 255, "fitted on uint8 pixels")):
        with pytest.raises(ShapeError, match=message):
            one.predict(wrong)
    with pytest.raises(ShapeError, match="64 features are no images of image_shape"):
        make(image_shape=(8, 7)).fit(X.reshape(-1, 64), y)
    with pytest.raises(ConfigError, match="image_shape must be"):
        make(image_shape=(8,)).fit(X.reshape(-1, 64), y)
    with pytest.raises(ConfigError, match="augment must be a dictionary of flip, shift, cutout, got rotate"):
        make(augment={"rotate": 1}).fit(X, y)
    with pytest.raises(ConfigError, match="need images, not features"):
        make(augment={"shift": 1}).fit(X / 255, y)


@pytest.mark.parametrize("kind", [MLPClassifier, CNNClassifier, HybridClassifier, CNNFeatures])
def test_a_prediction_has_the_same_bits_in_any_batch(kind: type) -> None:
    X, y = pictures()
    one = (mlp(max_iter=2) if kind is MLPClassifier else small(kind, max_iter=1)).fit(X, y)
    outputs = one.transform if kind is CNNFeatures else one.decision_function
    whole = outputs(X)
    assert np.isfinite(whole).all()
    for parts in (range(40), (0, 3, 40, 77, 300), (0, 17, 150, 300)):
        found = np.concatenate([outputs(X[a:b]) for a, b in pairwise(parts)])
        assert (found == whole[: len(found)]).all()


def test_features_for_another_classifier() -> None:
    X, y = pictures()
    features = small(CNNFeatures, head=(5,))
    assert make_pipeline(features, LinearSVC()).fit(X, y).score(X, y) > 0.9
    assert features.transform(X).shape == (300, 2 * 2 * 8) == (300, len(features.get_feature_names_out()))


def test_parts_and_warm_start_go_on() -> None:
    whole = mlp(max_iter=4, tol=0).fit(WINE, NAMES)
    parts = mlp()
    for _ in range(4):
        parts.partial_fit(WINE, NAMES, classes=np.unique(NAMES))
    assert parts.n_iter_ == 4 and (parts.predict_proba(WINE) == whole.predict_proba(WINE)).all()
    warm = mlp(max_iter=2, tol=0, warm_start=True).fit(WINE, NAMES)
    resumed = pickle.loads(pickle.dumps(warm)).fit(WINE, NAMES)
    assert (resumed.predict_proba(WINE) == whole.predict_proba(WINE)).all() and resumed.n_iter_ == 2
    with pytest.raises(ConfigError, match="warm_start goes on with the classes"):
        warm.fit(WINE, KIND)
    some = mlp().partial_fit(WINE[NAMES == "barolo"], NAMES[NAMES == "barolo"], classes=np.unique(NAMES))
    assert some.predict_proba(WINE).shape == (178, 3)
    for labels, classes, message in (
        (np.full(178, "merlot"), None, "labels that are not in classes"),
        (NAMES, ["a", "b"], "since the first call of partial_fit"),
    ):
        with pytest.raises(ConfigError, match=message):
            some.partial_fit(WINE, labels, classes)
    assert not hasattr(HybridClassifier(), "partial_fit") and "warm_start" not in HybridClassifier().get_params()


def test_early_stopping_keeps_the_best_weights() -> None:
    options: dict[str, Any] = {
        "early_stopping": True,
        "validation_fraction": 0.3,
        "n_iter_no_change": 3,
        "max_iter": 200,
    }
    one = mlp(**options).fit(WINE, NAMES)
    assert one.n_iter_ < 200 and len(one.validation_scores_) == one.n_iter_ and one.best_loss_ is None
    assert one.best_validation_score_ == max(one.validation_scores_) > 0.9
    best = int(np.argmax(one.validation_scores_)) + 1
    again = mlp(**{**options, "max_iter": best}).fit(WINE, NAMES)
    assert (again.predict_proba(WINE) == one.predict_proba(WINE)).all()
    X, y = pictures()
    hybrid = small(HybridClassifier, early_stopping=True, max_iter=2, classifier_max_iter=4).fit(X, y)
    assert len(hybrid.validation_scores_) == hybrid.n_iter_ <= 4 and len(hybrid.cnn_loss_curve_) == 2


def test_class_weights_move_the_predictions() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 2)), rng.integers(0, 2, 200)  # the labels are noise
    for weights, expected in (({0: 1, 1: 50}, 1), ({0: 50, 1: 1}, 0)):
        assert (mlp(class_weight=weights).fit(X, y).predict(X) == expected).mean() > 0.95
    assert (mlp(class_weight={0: 1, 1: 1}).fit(X, y).predict_proba(X) == mlp().fit(X, y).predict_proba(X)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layer_sizes": "abc"}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be at least 1"),
        ({"activation": "logistic"}, "activation"),
        ({"solver": "lbfgs"}, "optimizer"),
        ({"alpha": -1}, "alpha"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "all"}, "batch_size must be an integer"),
        ({"learning_rate_init": 0}, "learning_rate_init"),
        ({"max_iter": 0}, "max_iter"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"precision": "half"}, "precision"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"dropout": 1.0}, "must be in"),
        ({"augment": "flip"}, "augment must be a dictionary of flip, shift, cutout, got 'flip'"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mlp(**options).fit(WINE, NAMES)


def test_training_that_diverges() -> None:
    with pytest.raises(DivergedError, match=r"in iteration \d+: .* use a lower learning_rate_init"):
        mlp(solver="sgd", learning_rate_init=1e30).fit(WINE, NAMES)


def test_the_model_is_gpunets_and_scikit_learn_is_imported_last(fitted: MLPClassifier) -> None:
    assert type(fitted.model_) is MLP
    code = "import sys, gpunet.models, gpunet.training; print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_diverged_training_leaves_the_model_as_it_was_before_the_pass() -> None:
    """Whatever is not finite: weights that overflow, while the loss of their pass was finite."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), np.arange(60) % 3
    model = MLPClassifier((8,), max_iter=1, warm_start=True, random_state=0).fit(x, y)
    before = [weights.copy() for weights in (*model.coefs_, *model.intercepts_)]
    with np.errstate(over="ignore"), pytest.raises(DivergedError, match="training diverged in iteration 2"):
        model.set_params(learning_rate_init=1e39).fit(x, y)
    for found, expected in zip((*model.coefs_, *model.intercepts_), before, strict=True):
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, expected)
