"""Regressions and several labels from a file to the report: what is recorded, predicted and refused."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle

import gpunet as gn
from gpunet.cli.main import main
from gpunet.errors import CheckpointError, ConfigError, DataError
from gpunet.experiments.config import RunConfig, load, merge
from gpunet.experiments.report import compare, report
from gpunet.experiments.run import evaluate, predict, train
from gpunet.export import export_onnx
from gpunet.training.checkpoint import load_checkpoint

TINY = {"hidden": [12], "epochs": 12, "lr": 2e-2, "dropout": 0.0}


def write_table(path: Path, task: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((240, 4))
    if task == "regression":
        y = np.stack([2e5 + 4e4 * (x[:, 0] + x[:, 1] * x[:, 2]), 80 - 9 * x[:, 3]], axis=1).round(4)
        names = "price,area"
    else:
        y, names = (x[:, :3] + 0.2 * rng.standard_normal((240, 3)) > 0.4).astype(int), "red,green,blue"
    header = f"a,b,c,d,{names}"
    np.savetxt(path, np.column_stack([x, y]), delimiter=",", header=header, comments="", fmt="%.8g")
    return x, y


def settings(path: Path, task: str, **options: Any) -> RunConfig:
    label_column = "price,area" if task == "regression" else "red, green, blue"
    return merge("mlp", overrides={"data": path, "task": task, "label_column": label_column, **TINY, **options})


@pytest.fixture(scope="module", params=["regression", "multilabel"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("targets")
    write_table(folder / "table.csv", request.param)
    config = settings(folder / "table.csv", request.param)
    train(config, run_dir=folder / "run", device="cpu", progress=False, given={*TINY, "data", "task", "label_column"})
    return folder / "run", request.param


def test_rows_of_tables_are_predicted(
    run: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, task = run
    rows = np.loadtxt(folder.parent / "table.csv", delimiter=",", skiprows=1)[:5, :4].astype(np.float32)
    expected = gn.load(folder).predict(rows) if task == "regression" else gn.load(folder).predict_proba(rows)
    # with the labels, as it was trained; without them and in another order; without names
    mixed = tmp_path / "mixed.tsv"
    np.savetxt(mixed, rows[:, [3, 1, 0, 2]], delimiter="\t", header="d\tb\ta\tc", comments="", fmt="%.8g")
    np.savetxt(tmp_path / "bare.csv", rows, delimiter=",", fmt="%.8g")
    np.savez(tmp_path / "rows.npz", x=rows)
    for table in (folder.parent / "table.csv", mixed, tmp_path / "bare.csv", tmp_path / "rows.npz"):
        found = predict(folder, [table], device="cpu")[:5]
        assert [one.row for one in found] == [1, 2, 3, 4, 5]
        assert np.array_equal([one.probabilities for one in found], expected), table
    assert main(["predict", "--run", str(folder), str(mixed), "--json", "--device", "cpu"]) == 0
    printed = json.loads(capsys.readouterr().out)["predictions"]
    values = [list(one["values" if task == "regression" else "probabilities"].values()) for one in printed]
    assert np.array_equal(values, expected) and [one["row"] for one in printed] == [1, 2, 3, 4, 5]
    assert main(["predict", "--run", str(folder), str(mixed), "--device", "cpu"]) == 0
    assert "mixed.tsv row 5: " in capsys.readouterr().out

    def refused(name: str, text: str, reason: str) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises((DataError, ConfigError), match=reason):
            predict(folder, [tmp_path / name], device="cpu")

    refused("few.csv", "a,b,c\n1,2,3\n", r"few.csv: the model takes the columns a, b, c, d; found a, b, c")
    refused("bare3.csv", "1,2,3\n", r"the model takes the columns a, b, c, d; found 3 columns")
    refused("empty.csv", "a,b,c,d\n", r"empty.csv has no rows")
    refused("words.csv", "a,b,c,d\n1,2,x,4\n", r"could not convert string 'x' .* in row 1 of the data, column c")
    refused("nan.csv", "a,b,c,d\n1,2,nan,4\n", r"1 of 1 rows have values that are missing, infinite .* in c")
    refused("shoe.png", "", r"takes the features of a table, not images: expected a file .csv, .tsv, .parquet or .npz")
    with pytest.raises(ConfigError, match="leave out invert always"):
        predict(folder, [mixed], device="cpu", invert="always")


def test_the_run_folder(run: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, task = run
    result = json.loads((folder / "result.json").read_text())
    saved = np.load(folder / "test_predictions.npz")
    first = {"regression": "r2", "multilabel": "macro_f1"}[task]
    best = max(json.loads(line)[f"validation_{first}"] for line in (folder / "metrics.jsonl").read_text().splitlines())
    figures = {path.name for path in folder.glob("*.png")}
    assert not {"test_correct", "tta_correct", "test_accuracy"} & set(result) and result["task"] == task
    if task == "regression":
        assert figures == {"learning_curves.png", "predicted_and_true.png", "residuals.png"}
        assert saved["labels"].dtype == saved["predictions"].dtype == np.float64
        expected = oracle.r2_score(saved["labels"], saved["predictions"])
        assert result["validation_r2"] == best, "the best epoch is kept"
        np.testing.assert_allclose(result["test_r2"], expected, rtol=1e-12)
        assert result["test_r2"] > 0.6
    else:
        assert figures == {"learning_curves.png", "per_label_metrics.png"}
        assert saved["predictions"].dtype == np.uint8
        expected = oracle.f1_score(saved["labels"], saved["predictions"], average="macro")
        np.testing.assert_allclose(result["test_macro_f1"], expected, rtol=1e-12)
        assert result["test_subset_accuracy"] == (saved["labels"] == saved["predictions"]).all(1).mean() > 0.5
    assert main(["evaluate", str(folder), "--json", "--device", "cpu"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["scores"] == {name.removeprefix("test_"): v for name, v in result.items() if "test_" in name and
                               name not in ("test_total", "test_loss")}  # fmt: skip
    assert main(["evaluate", str(folder), "--device", "cpu"]) == 0
    assert re.search(rf"^test {first} ", capsys.readouterr().out, re.MULTILINE)


def test_predictions_are_in_the_units_of_the_targets(run: tuple[Path, str], tmp_path: Path) -> None:
    folder, task = run
    model = gn.load(folder, "cpu")
    _, test = gn.data.load(folder.parent / "table.csv", task=task, label_column=",".join(model.class_names))
    stored = np.load(folder / "test_predictions.npz")["predictions"]
    np.testing.assert_allclose(model.predict(test.images[:, 0, 0]), stored, rtol=1e-6)
    gn.save(model, tmp_path / "model")
    again = gn.load(tmp_path / "model", "cpu")
    assert again.task == task
    np.testing.assert_array_equal(again.predict(test.images), model.predict(test.images))
    if task == "regression":
        with pytest.raises(CheckpointError, match="predicts numbers, not probabilities: use predict"):
            model.predict_proba(test.images)
    else:
        labels, probabilities = model(test.images)
        np.testing.assert_array_equal(labels, probabilities > 0.5)


def test_the_report(run: tuple[Path, str]) -> None:
    folder, task = run
    found = report(folder, device="cpu", split="test")
    text = found.path.read_text(encoding="utf-8")
    saved = np.load(folder / "test_predictions.npz")
    if task == "regression":
        for column, name in enumerate(("price", "area")):
            true, predicted = saved["labels"][:, column], saved["predictions"][:, column]
            assert (
                f'{name}</th><td data-sort="' in text and f"{oracle.mean_absolute_error(true, predicted):.4g}" in text
            )
            assert f'aria-label="{name}: predicted over true values"' in text
    else:
        for column, name in enumerate(("red", "green", "blue")):
            recall = oracle.recall_score(saved["labels"][:, column], saved["predictions"][:, column])
            row = text[text.index(f">{name}</th>") :]
            assert f"{100 * recall:.1f} %" in row[: row.index("</tr>")]
    with pytest.raises(ConfigError, match="only classifiers can be compared"):
        compare([folder], device="cpu", out=folder / "comparison.html")


def test_what_needs_classes_is_refused(run: tuple[Path, str], tmp_path: Path) -> None:
    folder, task = run
    with pytest.raises(ConfigError, match=f"was trained for {task}: ONNX files are written of classifiers only"):
        export_onnx(folder, tmp_path / "model.onnx", device="cpu")
    with pytest.raises(DataError, match=f"the model was trained for {task}, but the data set .* is for classification"):
        (tmp_path / "t.csv").write_text("a,b,c,d,y\n" + "1,2,3,4,0\n5,6,7,8,1\n" * 8)
        gn.experiments.inference.check_data(gn.load(folder, "cpu"), gn.data.load(tmp_path / "t.csv")[1], "t.csv")
    with pytest.raises(DataError, match="takes the features of a table, not images"):
        predict(folder, ["a.png"], device="cpu")


def test_an_interrupted_run_ends_the_same(run: tuple[Path, str], tmp_path: Path) -> None:
    folder, task = run
    config = load(folder / "config.toml")
    assert config.data.task == task and config.training.label_smoothing == 0
    short = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=5, schedule="constant"))
    longer = dataclasses.replace(short, training=dataclasses.replace(short.training, epochs=8))
    for target, configs in (("parts", (short, longer)), ("whole", (longer,))):
        for number, one in enumerate(configs):
            train(one, run_dir=_folder(tmp_path / target), device="cpu", resume=bool(number), progress=False)
    parts, whole = (load_checkpoint(tmp_path / name / "checkpoint.safetensors")[0] for name in ("parts", "whole"))
    assert parts.keys() == whole.keys() and ("target/mean" in whole) == (task == "regression")
    for name, tensor in whole.items():
        np.testing.assert_array_equal(parts[name], tensor, err_msg=name)


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def test_another_loss_and_metric_from_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(tmp_path / "table.csv", "regression")
    data = ["--data", str(tmp_path / "table.csv"), "--task", "regression", "--label-column", "price"]
    command = ["train", "mlp", *data, "--epochs", "3", "--hidden", "4", "--loss", "huber", "--metric", "mae"]
    command += ["--device", "cpu"]
    assert main([*command, "--runs-dir", str(tmp_path / "runs"), "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    records = [json.loads(line) for line in (Path(result["run_dir"]) / "metrics.jsonl").read_text().splitlines()]
    assert result["validation_mae"] == min(record["validation_mae"] for record in records)
    assert {"test_mae", "test_r2", "test_rmse"} <= result.keys()
    assert evaluate(result["run_dir"], device="cpu").scores["mae"] == result["test_mae"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "classification", "label_column": "price"}, "no whole numbers, such as .*give --task regression"),
        (
            {"task": "multilabel", "label_column": "price,area"},
            "labels must be 0 or 1, one column for each, got .*for numbers --task regression",
        ),
        ({"label_column": "price,nothing"}, "has no column 'nothing'"),
        ({"label_column": "price,price"}, "must name different columns"),
        ({"loss": "cross_entropy"}, "CrossEntropyLoss takes class indices"),
        ({"loss": "bce_with_logits", "label_smoothing": 0.0}, "takes targets from 0 to 1"),
        (
            {"metric": "accuracy", "label_smoothing": 0.0},
            "the metric accuracy is for classification, but this is regression",
        ),
        ({"label_smoothing": 0.1}, "the loss mse does not take label_smoothing"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_table(tmp_path / "table.csv", "regression")
    config = settings(tmp_path / "table.csv", **{"task": "regression", **options})
    with pytest.raises((ConfigError, DataError), match=message):
        train(config, run_dir=_folder(tmp_path / "run"), device="cpu", progress=False, given=set(vars(config.training)))
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_arrays_and_their_splits() -> None:
    x, y = np.arange(40.0).reshape(20, 2), np.linspace(0, 1, 20)
    parts = gn.data.from_arrays(x, y, task="regression", class_names=["level"])
    assert (
        parts[0].labels.dtype == np.float64 and parts[0].labels.shape == (16, 1) and parts[1].class_names == ("level",)
    )
    np.testing.assert_array_equal(np.sort(np.concatenate([part.labels[:, 0] for part in parts])), y)
    again = gn.data.split(parts[0], fraction=0.25, seed=1)
    assert len(again.validation) == 4 and again.train.task == "regression"
    labels = gn.data.from_arrays(x, np.eye(20, 3, dtype=bool), task="multilabel")
    assert labels[0].labels.dtype == np.uint8 and labels[0].class_names == ("1", "2", "3")
    for wrong, message in (
        (np.where(y > 0.9, np.nan, y), "targets are missing or infinite, the first in row"),
        (np.array(["a"] * 20), "expected numbers .n,. or .n, K.*strings need --task classification"),
    ):
        with pytest.raises(DataError, match=message):
            gn.data.from_arrays(x, wrong, task="regression")
    with pytest.raises(ConfigError, match="fashion-mnist has classes"):
        gn.data.load("fashion-mnist", task="regression")


def test_pictures_as_inputs_of_a_regression(tmp_path: Path) -> None:
    """A CNN, and the hybrid's three stages, whose outputs are in the units of the targets."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (160, 8, 8), dtype=np.uint8)
    targets = images[:, :4].mean((1, 2)) * 1000.0
    np.savez(tmp_path / "data.npz", X=images, y=targets)
    options = {"data": tmp_path / "data.npz", "task": "regression", "filters": [4], "epochs": 6, "batch_size": 16}
    for kind, more in (("cnn", {}), ("hybrid", {"classifier_epochs": 2, "joint_epochs": 1, "classifier_hidden": [6]})):
        config = merge(kind, overrides={**options, **more, "pooling": "average", "label_smoothing": 0.0})
        folder = _folder(tmp_path / kind)
        result = train(config, run_dir=folder, device="cpu", progress=False)
        model = gn.load(folder, "cpu")
        stored = np.load(folder / "test_predictions.npz")
        np.testing.assert_allclose(result.test_scores["r2"], oracle.r2_score(stored["labels"], stored["predictions"]))
        _, test = gn.data.load(tmp_path / "data.npz", task="regression")
        np.testing.assert_allclose(model.predict(test.images), stored["predictions"][:, 0], rtol=1e-5)
