"""Declared sweeps: what the files mean, and every way in which one can be wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gpunet.errors import ConfigError
from gpunet.experiments.config import merge
from gpunet.models import create
from gpunet.sweep.declaration import Axis, Range, Sweep, label_of, load_sweep, parse
from gpunet.sweep.search import search_of
from gpunet.training.config import TrainingConfig
from tests.memory import at_most
from tests.sweep.conftest import Declare

DECLARED = sorted((Path(__file__).parents[2] / "scripts" / "experiments").glob("*.toml"))


def sweep_of(text: str) -> Sweep:
    return parse(tomllib.loads(text), "test", source="test.toml")


SWEEP = "[sweep]\n"
BASE = '[base]\nkind = "mlp"\n'


def test_a_grid_is_every_combination_with_every_seed(declare: Declare) -> None:
    sweep = declare('activation = ["relu", "tanh"]\nhidden = [[4], [4, 3]]')
    points = search_of(sweep).more([])
    assert [point.labels for point in points] == [
        {"activation": "relu", "hidden": "4"},
        {"activation": "relu", "hidden": "4-3"},
        {"activation": "tanh", "hidden": "4"},
        {"activation": "tanh", "hidden": "4-3"},
    ]
    trials = [trial for point in points for trial in sweep.trials(point)]
    assert [(t.seed, t.config.model.activation, t.config.model.hidden) for t in trials if t.config] == [
        (seed, activation, hidden) for activation in ("relu", "tanh") for hidden in ((4,), (4, 3)) for seed in (0, 1)
    ]
    assert all(t.config is not None and t.config.training.epochs == 2 for t in trials)
    assert all(t.config is not None and t.config.training.seed == t.seed for t in trials)
    assert len({t.digest for t in trials}) == 8


def test_settings_that_belong_together() -> None:
    sweep = sweep_of(
        BASE + 'preset = "baseline"\n[axes]\n'
        'schedule = [{ name = "flat", schedule = "constant", lr = 1e-3 }, { name = "as it is" }]'
    )
    flat, plain = search_of(sweep).more([])
    one, two = (sweep.trials(point)[0].config for point in (flat, plain))
    assert one is not None and two is not None
    assert flat.labels == {"schedule": "flat"} and plain.labels == {"schedule": "as it is"}
    assert (one.training.schedule, one.training.lr) == ("constant", 1e-3)
    assert two == merge("mlp", "baseline")


def test_labels() -> None:
    assert [label_of(value) for value in (True, False, 0.1, 1e-05, 3, "x", (1, 2), ())] == [
        "yes", "no", "0.1", "1e-05", "3", "x", "1-2", "none"
    ]  # fmt: skip


def test_defaults() -> None:
    sweep = sweep_of(BASE + "[axes]\ndropout = [0.1]")
    assert sweep.options.seeds == (0, 1, 2) and sweep.preset == "default" and not sweep.options.evaluate_test
    assert sweep.axes[0] == Axis("dropout", (Axis("dropout").choice(0.1),))


def test_range() -> None:
    text = BASE + "[axes]\nlr = { low = 1e-4, high = 1e-1, log = true }\nepochs = { low = 1, high = 3 }"
    sweep = sweep_of('[sweep]\nsearch = "random"\n' + text)
    assert [axis.range for axis in sweep.axes] == [Range(1e-4, 1e-1, True, False), Range(1, 3, False, True)]


def test_hybrids_with_one_cnn_in_common() -> None:
    sweep = sweep_of(
        '[base]\nkind = "hybrid"\n[axes]\nlayer = [{ name = "a", feature_layer = "block1" }, '
        '{ name = "b", classifier_hidden = [5] }, { name = "c", joint_epochs = 3 }, { name = "d", dropout = 0.4 }]'
    )
    digests = [sweep.trials(point)[0].cnn_digest for point in search_of(sweep).more([])]
    assert digests[0] == digests[1] == digests[2] != digests[3]
    assert sweep.trials(search_of(sweep).more([])[0])[1].cnn_digest != digests[0], "another seed is another CNN"
    mlp = sweep_of(BASE + "[axes]\ndropout = [0.1]")
    assert mlp.trials(search_of(mlp).more([])[0])[0].cnn_digest == ""


def test_settings_that_do_not_fit_are_a_trial_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(BASE + "[axes]\nlr = [0.1]")

    def refuse(*args: object, **options: object) -> None:
        raise ConfigError("these do not fit")

    monkeypatch.setattr("gpunet.sweep.declaration.merge", refuse)
    (trial, *_) = sweep.trials(search_of(sweep).more([])[0])
    assert trial.config is None and trial.error == "these do not fit" and trial.epochs == 0


TEN = str([round(0.01 * value, 2) for value in range(1, 11)])
TWELVE_AXES = "".join(
    f"{name} = {TEN}\n"
    for name in ("lr", "dropout", "validation_fraction", "label_smoothing", "momentum", "weight_decay")
) + "".join(f"{name} = {list(range(1, 11))}\n" for name in ("epochs", "batch_size", "split_seed", "shift", "cutout"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{BASE}[axes]\n{TWELVE_AXES}", "100000000000 points with 3 seeds are 300000000000 trials, expected at most"),
        (f"{SWEEP}seeds = {list(range(101))}\n{BASE}[axes]\nlr = {TEN}\ndropout = {TEN}", "10100 trials"),
        (f"{SWEEP}search = 'random'\npoints = 3334\n{BASE}[axes]\nlr = {TEN}", "10002 trials, .*: give fewer points"),
    ],
)
def test_more_trials_than_can_be_trained(text: str, message: str) -> None:
    with at_most(2**20), pytest.raises(ConfigError, match=message):
        search_of(sweep_of(text)).more([])


def test_as_many_trials_as_allowed() -> None:
    sweep = sweep_of(f"{SWEEP}seeds = {list(range(100))}\n{BASE}[axes]\nlr = {TEN}\ndropout = {TEN}")
    assert len(search_of(sweep).more([])) == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[axes]\nlr = [1.0]", r"\[base\] must name the model"),
        ('[base]\nkind = "mpl"\n[axes]\nlr = [1.0]', "unknown model 'mpl'"),
        ('[base]\nkind = "mlp"\npreset = "bset"\n[axes]\nlr = [1.0]', "unknown preset 'bset'"),
        (BASE, "nothing varies"),
        (BASE + "[axis]\nlr = [1.0]", r"unknown section or key 'axis': expected .*did you mean 'axes'"),
        ("axes = 3", r"axes must be a table, \[axes\], got axes = 3"),
        (BASE + "lr = -1\n[axes]\nepochs = [1]", r"\[base\] lr must be greater than 0, got -1"),
        (BASE + "epohcs = 1\n[axes]\nlr = [1.0]", r"no option 'epohcs' of the model mlp \(did you mean 'epochs'"),
        (BASE + "[axes]\nfilters = [[1]]", r"\[axes\] has no option 'filters' of the model mlp"),
        (BASE + "[axes]\nlr = [1.0, -1.0]", r"\[axes\] lr must be greater than 0, got -1.0"),
        (BASE + "[axes]\nlr = []", r"\[axes\] lr must be a list of values"),
        (BASE + "[axes]\nlr = 1.0", r"\[axes\] lr must be a list of values, got 1.0"),
        (BASE + "[axes]\nlr = [1.0, 1]", "lr has a value twice: 1, 1"),
        (BASE + "[axes]\nseed = [1, 2]", r"give seeds = \[...\] in \[sweep\]"),
        (BASE + "seed = 1\n[axes]\nlr = [1.0]", r"\[base\] cannot set the seed"),
        (BASE + "[axes]\nstatus = [{ name = 'a' }]", "status: every table has a column of this name"),
        (BASE + "[axes]\nx = [{ lr = 1.0 }]", "each entry must be a table with a name and settings"),
        (BASE + "[axes]\nx = [{ name = 'a', lr = 1.0 }, 3]", "must be a table with a name and settings, got 3"),
        (BASE + "[axes]\nx = [{ name = 'a', lrr = 1.0 }]", "x has no option 'lrr'"),
        (BASE + "[axes]\nlr = [1.0]\nx = [{ name = 'a', lr = 2.0 }]", "the axes lr and x both set lr"),
        (BASE + "[axes]\nlr = { low = 1.0, high = 2.0 }", 'a range needs search = "random" or "optuna"'),
        (SWEEP + "search = 'random'\n" + BASE + "[axes]\nlr = { low = 1.0 }", "a range has low, high and opt"),
        (SWEEP + "search = 'random'\n" + BASE + "[axes]\nlr = { low = 2.0, high = 1.0 }", "expected low < high"),
        (
            SWEEP + "search = 'random'\n" + BASE + "[axes]\ndropout = { low = 0.0, high = 0.5, log = true }",
            "0 < low with log = true",
        ),
        (
            SWEEP + "search = 'random'\n" + BASE + "[axes]\nactivation = { low = 'relu', high = 'tanh' }",
            "only a numeric option can have a range",
        ),
        (SWEEP + "seeds = [1, 1]\n" + BASE + "[axes]\nlr = [1.0]", r"distinct, and at least one; got \[1, 1\]"),
        (SWEEP + "seeds = []\n" + BASE + "[axes]\nlr = [1.0]", "seeds must be distinct"),
        (SWEEP + "serch = 'grid'\n" + BASE + "[axes]\nlr = [1.0]", r"has no option 'serch' \(did you mean 'search'"),
        (SWEEP + "search = 'gird'\n" + BASE + "[axes]\nlr = [1.0]", "search must be one of grid, random, optuna"),
    ],
)  # fmt: skip
def test_bad_declarations(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep_of(text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_sweep(tmp_path / "none.toml")


@pytest.mark.parametrize("path", DECLARED, ids=[path.stem for path in DECLARED])
def test_the_projects_own_sweeps_can_be_trained(path: Path) -> None:
    """Every trial has a configuration and a model, on its training options; one question a file."""
    sweep = load_sweep(path)
    assert sweep.options.question.endswith("?") and 2 <= len(sweep.options.seeds) <= 5
    assert not sweep.options.evaluate_test, "the test images are for the published presets alone"
    trials = [trial for point in search_of(sweep).more([]) for trial in sweep.trials(point)]
    assert 4 <= len(trials) <= 40
    for trial in trials:
        assert trial.config is not None, trial.error
        assert isinstance(trial.config.training, TrainingConfig)
        assert trial.config.data.data == "fashion-mnist"
        model = create(trial.config.model, (28, 28, 1), 10)
        assert model.output_shape((28, 28, 1)) == (10,)
    assert path.name.startswith((f"{sweep.kind}_",))
