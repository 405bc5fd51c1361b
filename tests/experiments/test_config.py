"""Run configurations: layers, files and their error messages."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from gpunet.data.config import DataConfig
from gpunet.errors import ConfigError
from gpunet.experiments import presets
from gpunet.experiments.config import (
    RunConfig,
    belongs_to_others,
    from_toml,
    load,
    load_toml,
    merge,
    section_of,
    sections,
    to_dict,
    to_toml,
)
from gpunet.models import MODELS, CNNConfig, HybridConfig, MLPConfig
from gpunet.options import option_fields
from gpunet.training.config import HybridTrainingConfig, TrainingConfig
from tests.experiments.strategies import flat, run_configs


@pytest.fixture
def no_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets of the test's own, so that tuning the real ones breaks no test of the machinery."""
    layers = {
        "default": {"mlp": {}, "cnn": {"epochs": 7}, "hybrid": {}},
        "quick": {"mlp": {}, "cnn": {"epochs": 2, "lr": 0.5}, "hybrid": {}},
    }
    monkeypatch.setattr("gpunet.experiments.config.PRESETS", layers)


@pytest.mark.parametrize(("kind", "owner"), [("mlp", MLPConfig), ("cnn", CNNConfig), ("hybrid", HybridConfig)])
def test_kind(kind: str, owner: type) -> None:
    config = merge(kind)
    assert config.kind == kind
    assert type(config.model) is owner
    assert (config.hybrid is not None) == (kind == "hybrid")


def test_hybrid_training_defaults() -> None:
    assert RunConfig(HybridConfig()).hybrid == HybridTrainingConfig(
        classifier_epochs=20, classifier_lr=1e-3, joint_epochs=0, joint_lr=1e-4
    )


def test_hybrid_training_is_for_the_hybrid_alone() -> None:
    with pytest.raises(ConfigError, match="the section 'hybrid' is only for the hybrid, but the model is a cnn"):
        RunConfig(CNNConfig(), hybrid=HybridTrainingConfig())


@pytest.mark.usefixtures("no_presets")
def test_each_layer_wins_over_the_one_before() -> None:
    file = {"training": {"epochs": 3, "batch_size": 9}}
    assert TrainingConfig().epochs not in (7, 2, 3, 4)
    assert merge("mlp").training == TrainingConfig()
    assert merge("cnn").training == TrainingConfig(epochs=7)
    assert merge("cnn", "quick").training == TrainingConfig(epochs=2, lr=0.5)
    assert merge("cnn", "quick", file).training == TrainingConfig(epochs=3, batch_size=9, lr=0.5)
    assert merge("cnn", "quick", file, {"epochs": 4}).training == TrainingConfig(epochs=4, batch_size=9, lr=0.5)
    assert merge("cnn", None, file).training == TrainingConfig(epochs=3, batch_size=9)


@pytest.mark.usefixtures("no_presets")
def test_options_find_their_section() -> None:
    config = merge("hybrid", overrides={"filters": [4], "flip": True, "lr": 1, "joint_epochs": 2})
    assert config == RunConfig(
        HybridConfig(filters=(4,)), DataConfig(flip=True), TrainingConfig(lr=1.0), HybridTrainingConfig(joint_epochs=2)
    )


def test_file_names_the_model() -> None:
    assert merge(toml={"model": {"kind": "mlp", "hidden": [5]}}).model.hidden == (5,)
    assert merge("mlp", toml={"model": {"kind": "mlp"}}).kind == "mlp"


def test_merge_leaves_its_arguments_alone() -> None:
    toml: dict[str, Any] = {"model": {"kind": "mlp", "hidden": [5]}, "training": {"epochs": 1}}
    overrides = {"epochs": 2}
    merge(None, None, toml, overrides)
    assert toml == {"model": {"kind": "mlp", "hidden": [5]}, "training": {"epochs": 1}}
    assert overrides == {"epochs": 2}


@pytest.mark.parametrize(
    ("kind", "toml", "message"),
    [
        ("cnn", {"training": {"epohcs": 3}}, "r.toml: [training] has no option 'epohcs' (did you mean 'epochs'?)"),
        ("cnn", {"training": {"zzzzz": 3}}, "r.toml: [training] has no option 'zzzzz'"),
        ("cnn", {"model": {"epochs": 3}}, "r.toml: [model] has no option 'epochs'; move it to [training]"),
        ("cnn", {"training": {"flip": True}}, "r.toml: [training] has no option 'flip'; move it to [data]"),
        (
            "mlp",
            {"model": {"filters": [3]}},
            "r.toml: [model] has no option 'filters': it is an option of a cnn and a hybrid, not of an mlp",
        ),
        ("cnn", {"epochs": 3}, "r.toml: the option 'epochs' is outside of all sections; move it to [training]"),
        ("cnn", {"kind": "cnn"}, "r.toml: kind is outside of all sections; move it to [model]"),
        (
            "cnn",
            {"trainig": {}},
            "r.toml: unknown section or key 'trainig': expected [model], [data], [training] (did you mean 'training'?)",
        ),
        (
            "cnn",
            {"epohcs": 3},
            "r.toml: unknown section or key 'epohcs': expected [model], [data], [training] (did you mean 'epochs'?)",
        ),
        (
            "cnn",
            {"cnn": {"filters": [3]}},
            'r.toml: unknown section [cnn]; a model\'s options belong in [model], with kind = "cnn"',
        ),
        ("mlp", {"hybrid": {}}, "r.toml: the section [hybrid] is only for the hybrid, not for an mlp"),
        ("cnn", {"training": 3}, "r.toml: training must be a table, [training], got training = 3"),
        ("cnn", {"model": 3}, "r.toml: model must be a table, [model], got model = 3"),
        ("cnn", {"training": {"lr": -1}}, "r.toml: [training] lr must be greater than 0, got -1.0"),
        ("cnn", {"training": {"epochs": 1.5}}, "r.toml: [training] epochs must be of type int, got 1.5"),
        ("cnn", {"training": {"epochs": {}}}, "r.toml: [training] epochs must be of type int, got {}"),
        ("cnn", {"model": {"filters": 3}}, "r.toml: [model] filters must be a list of int, got 3"),
        (
            "cnn",
            {"training": {"optimizer": "adm"}},
            "r.toml: [training] optimizer must be one of sgd, adam, adamw; got 'adm' (did you mean 'adam'?)",
        ),
        ("cnn", {"model": {"kind": "mlp"}}, "r.toml configures an mlp, but a cnn was requested"),
        (
            None,
            {"model": {"kind": "cn"}},
            "r.toml: [model] kind must be one of mlp, cnn, hybrid; got 'cn' (did you mean 'cnn'?)",
        ),
        (None, {"model": {"kind": 3}}, "r.toml: [model] kind must be one of mlp, cnn, hybrid; got 3"),
        (None, {}, "no model given: expected mlp, cnn, hybrid, or kind in [model] of the configuration"),
    ],
)
def test_bad_file(kind: str | None, toml: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(kind, toml=toml, source="r.toml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cn",), "unknown model 'cn': expected mlp, cnn, hybrid (did you mean 'cnn'?)"),
        (("cnn", "quik"), "unknown preset 'quik': expected default, quick, baseline, best (did you mean 'quick'?)"),
        (("cnn", None, None, {"epohcs": 1}), "unknown option 'epohcs' (did you mean 'epochs'?)"),
        (
            ("cnn", None, None, {"joint_epochs": 1}),
            "unknown option 'joint_epochs': it is an option of a hybrid, not of a cnn",
        ),
        (("cnn", None, None, {"epochs": 0}), "epochs must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(*arguments)
    assert str(caught.value) == message


def test_a_bad_value_is_refused_even_if_a_later_layer_replaces_it() -> None:
    with pytest.raises(ConfigError, match=r"\[training\] epochs must be at least 1"):
        merge("cnn", toml={"training": {"epochs": 0}}, overrides={"epochs": 1})


@given(run_configs())
@settings(max_examples=200)
def test_toml_round_trip(config: RunConfig) -> None:
    text = to_toml(config)
    assert from_toml(text) == config
    assert tomllib.loads(text) == to_dict(config)


@given(run_configs())
@settings(max_examples=50)
def test_overrides_set_every_option(config: RunConfig) -> None:
    assert merge(config.kind, "baseline", overrides=flat(config)) == config


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    config = merge("hybrid", overrides={"joint_epochs": 3, "data": 'a "quoted" \\ path\nof two lines [\n    1,\n]'})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load(path) == config


def test_toml_is_laid_out_for_reading() -> None:
    text = to_toml(merge("cnn", overrides={"filters": [8, 16], "head": [], "lr": 0.25, "flip": False}))
    lines = text.splitlines()
    assert lines[:3] == ["[model]", 'kind = "cnn"', "filters = [8, 16]"]
    assert "head = []" in lines and "lr = 0.25" in lines and "flip = false" in lines
    assert [line for line in lines if line.startswith("[")] == ["[model]", "[data]", "[training]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[training\nepochs = 3", "line 1"),
        (b"[training]\nepochs = = 3", "line 2"),
        (b"epochs = 3\nepochs = 4\n", "line 2"),
        (b'title = "\xff"', "utf-8"),
        (b"epochs = " + b"9" * 5000, "digits"),
    ],
    ids=["open header", "two signs", "twice", "not UTF-8", "5000 digits"],
)
def test_what_is_not_toml_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML") as caught:
        load_toml(path)
    assert message in str(caught.value)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not valid TOML"):
        from_toml("x = " + "[" * 100_000)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none\.toml: No such file or directory"):
        load_toml(tmp_path / "none.toml")


def test_folder_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*: Is a directory"):
        load_toml(tmp_path)


@pytest.mark.parametrize("kind", list(MODELS))
def test_option_names_are_unique_over_the_sections(kind: str) -> None:
    names = [name for owner in sections(kind).values() for name in option_fields(owner)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", list(MODELS))
def test_every_option_can_be_written(kind: str) -> None:
    """TOML has no null: no option may be None."""
    assert None not in flat(merge(kind)).values()


def test_section_of_and_others() -> None:
    assert section_of("filters", "cnn") == "model"
    assert section_of("filters", "mlp") is None
    assert section_of("joint_lr", "hybrid") == "hybrid"
    assert belongs_to_others("hidden", "cnn") == ": it is an option of an mlp, not of a cnn"
    assert belongs_to_others("nothing", "cnn") == ""


@pytest.mark.parametrize("name", list(presets.PRESETS))
@pytest.mark.parametrize("kind", list(MODELS))
def test_presets_have_all_models_and_fit_them(name: str, kind: str) -> None:
    config = merge(kind, name)
    values = flat(config)
    for option, value in presets.PRESETS[name][kind].items():
        assert values[option] == value


def test_quick_is_shorter_than_the_default() -> None:
    for kind in MODELS:
        assert merge(kind, "quick").training.epochs < merge(kind).training.epochs
    assert merge("cnn", "quick").training.epochs == 4


def test_baseline_preset() -> None:
    mlp, cnn = merge("mlp", "baseline"), merge("cnn", "baseline")
    assert mlp.model == MLPConfig(hidden=(128, 64), activation="relu", dropout=0.2, init="he")
    assert (mlp.training.epochs, cnn.training.epochs) == (20, 15)
    assert isinstance(cnn.model, CNNConfig)
    assert len(cnn.model.filters) == 5 and cnn.model.init == "he" and cnn.model.batch_norm
    for config in (mlp, cnn, merge("hybrid", "baseline")):
        training = config.training
        assert (training.optimizer, training.lr, training.schedule, training.batch_size) == (
            "adam", 1e-3, "plateau", 128,
        )  # fmt: skip
        assert config.data == DataConfig()


def test_configurations_are_frozen() -> None:
    config = merge("cnn")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training = TrainingConfig()  # type: ignore[misc]


def test_encodings_of_a_file(tmp_path: Path) -> None:
    text = '[model]\nkind = "mlp"\nhidden = [7]\n'
    path = tmp_path / "run.toml"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text(text, encoding=encoding)
        assert load(path).model.hidden == (7,)
    for encoding in ("utf-16", "utf-16-le"):
        path.write_text(text if encoding == "utf-16" else "\ufeff" + text, encoding=encoding)
        with pytest.raises(ConfigError, match="is encoded as UTF-16, but TOML must be UTF-8: save it as UTF-8"):
            load(path)


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_file_without_an_end_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run.toml"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*: it is a pipe or a device, expected"):
        load(path)


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[model]\nkind = "mlp"\n' + "#" * 2**20)
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*: it has more than 1048576 bytes"):
        load(path)
    path.write_text('[model]\nkind = "mlp"\n' + "#" * 10_000)
    assert load(path) == merge("mlp")


def test_the_path_of_the_data_does_not_depend_on_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    configs = [
        (DataConfig(data="a.npz"), "a.npz"),
        (DataConfig(data=Path("folder") / ".."), "folder/.."),  # not resolved: the folder may be a link
        (merge("mlp", overrides={"data": "~/b.npz"}).data, "home/b.npz"),
        (merge("mlp", toml={"data": {"data": str(tmp_path / "c.npz")}}).data, "c.npz"),
    ]
    assert [config.data for config, _ in configs] == [str(tmp_path / path) for _, path in configs]
    assert DataConfig().data == "fashion-mnist"
    written = to_toml(RunConfig(MLPConfig(), configs[0][0]))
    monkeypatch.chdir(tmp_path / "home")
    assert from_toml(written).data.data == str(tmp_path / "a.npz")


def test_a_relative_path_needs_a_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match=r"data: a\.npz is relative to the current folder, which cannot be found"):
        DataConfig(data="a.npz")
