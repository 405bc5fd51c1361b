"""Whole runs of the three models through the command line, on a small data set: train, evaluate, resume, predict."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpunet.backend import CPU
from gpunet.cli.main import main
from gpunet.data import DataConfig
from gpunet.errors import CheckpointError, DataError
from gpunet.experiments.inference import feature_map, load_model
from gpunet.experiments.prepare import prepare
from gpunet.experiments.run import evaluate, predict
from gpunet.training import load_checkpoint

ROOT = Path(__file__).parents[2]
SMALL = {
    "mlp": ["--hidden", "12", "--epochs", "3"],
    "cnn": ["--filters", "4", "8", "--epochs", "3"],
    "hybrid": [
        *("--filters", "4", "8", "--epochs", "3", "--classifier-epochs", "6", "--classifier-lr", "0.03"),
        *("--classifier-dropout", "0", "--joint-epochs", "2"),
    ],
}
QUICKLY = (
    *("--batch-size", "16", "--lr", "0.01", "--optimizer", "adam", "--weight-decay", "0", "--label-smoothing", "0"),
    *("--no-flip", "--shift", "0"),  # which corner is bright must not change
)
FIGURES = {"learning_curves", "confusion_matrix", "per_class_metrics", "confident_mistakes", "first_layer_filters"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures 10 x 12 x 3 of four named classes, told apart by which corner is bright."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.arange(160) % 4)
    images = rng.integers(0, 90, (160, 10, 12, 3))
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[5 * row : 5 * row + 5, 6 * column : 6 * column + 6] += 70
    path = tmp_path_factory.mktemp("data") / "corners.npz"
    x, y = images.astype(np.uint8), labels
    names = np.array(["top left", "top right", "bottom left", "bottom right"])
    np.savez(path, x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:], class_names=names)
    return path


def gpunet(*words: object) -> int:
    return main([str(word) for word in words])


def train(kind: str, data: Path, folder: Path, capsys: pytest.CaptureFixture[str], *more: object) -> dict[str, Any]:
    options = ["--data", data, *QUICKLY, "--device", "cpu", "-q"]
    assert gpunet("train", kind, *SMALL[kind], *options, "--runs-dir", folder, "--json", *more) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


@pytest.mark.parametrize("kind", SMALL)
def test_train_evaluate_and_predict(kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(kind, data, tmp_path, capsys)
    assert {"model", "test_accuracy", "val_accuracy", "epochs", "seconds", "images_per_second", "device", "seed"} <= (
        result.keys()
    )
    assert result["model"] == kind and result["device"] == "cpu"
    assert result["test_accuracy"] > 0.5, "four classes: chance is 0.25"
    run_dir = Path(result["run_dir"])
    figures = FIGURES | ({"feature_maps"} if kind != "mlp" else set())
    assert {path.stem for path in run_dir.glob("*.png")} == figures
    for path in run_dir.glob("*.png"):
        with Image.open(path) as picture:
            picture.verify()
    assert "total" in (run_dir / "summary.txt").read_text()
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == result["epochs"]

    # the checkpoint, and the checkpoint alone, reproduces the test accuracy
    found = evaluate(run_dir)
    assert found.correct / found.total == result["test_accuracy"]
    assert found.loss == json.loads((run_dir / "result.json").read_text())["test_loss"]
    alone = tmp_path / "alone.safetensors"
    shutil.copy(run_dir / "checkpoint.safetensors", alone)
    assert evaluate(alone, data=str(data)) == found
    assert sum(map(sum, found.confusion)) == found.total == 40
    assert sum(row[i] for i, row in enumerate(found.confusion)) == found.correct
    assert evaluate(run_dir, split="validation").correct / 24 == result["val_accuracy"]

    with np.load(data) as arrays:
        picture = arrays["x_test"][0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", picture)
    first, second = predict(run_dir, [tmp_path / "a.png", tmp_path / "b.npy"], invert="never")
    assert first.probabilities == second.probabilities
    assert sum(first.probabilities) == pytest.approx(1, abs=1e-6)
    assert first.label == int(np.argmax(first.probabilities))
    assert gpunet("predict", "--run", run_dir, "--invert", "never", "-q", tmp_path / "a.png") == 0
    assert first.class_names[first.label] in capsys.readouterr().out


def test_the_result_comes_before_the_figures(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = []

    def broken(*arguments: object, **options: object) -> None:
        printed.append(capsys.readouterr().out)
        raise RuntimeError("no pens\nleft")

    monkeypatch.setattr("gpunet.report.figures.plot_per_class_metrics", broken)
    words = ["train", "mlp", *SMALL["mlp"], "--data", data, *QUICKLY, "--device", "cpu", "-q", "--runs-dir", tmp_path]
    assert gpunet(*words) == 0
    (run_dir,) = tmp_path.iterdir()
    correct = json.loads((run_dir / "result.json").read_text())["test_correct"]
    (out,) = printed
    assert out.splitlines()[0] == f"run folder: {run_dir}"
    assert out.splitlines()[1].startswith(f"test accuracy {100 * correct / 40:.2f} % ")
    captured = capsys.readouterr()
    assert captured.out == ""
    path = run_dir / "per_class_metrics.png"
    assert captured.err == f"gpunet: warning: {path} is not drawn: RuntimeError: no pens left\n"
    assert {path.stem for path in run_dir.glob("*.png")} == FIGURES - {"per_class_metrics"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_the_output(data: Path, tmp_path: Path) -> None:
    words = ["train", "mlp", *SMALL["mlp"], "--data", data, *QUICKLY, "--device", "cpu", "-q", "--runs-dir", tmp_path]
    command = [sys.executable, "-m", "gpunet", *map(str, words)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "gpunet: error: cannot read or write the output: No space left on device\n"


def test_split_is_recorded_and_stratified(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (Path(train("mlp", data, tmp_path / name, capsys)["run_dir"]) for name in ("a", "b"))
    with np.load(first / "split.npz") as one, np.load(second / "split.npz") as two, np.load(data) as arrays:
        for part in ("train", "validation"):
            np.testing.assert_array_equal(one[part], two[part])
        assert sorted([*one["train"], *one["validation"]]) == list(range(120))
        held = np.bincount(arrays["y_train"][one["validation"]], minlength=4)
        whole = np.bincount(arrays["y_train"], minlength=4)
    assert held.sum() == 24 and (np.abs(held - whole / 5) < 1).all()
    facts = [json.loads((run / "environment.json").read_text()) for run in (first, second)]
    assert facts[0]["split_sha256"] == facts[1]["split_sha256"]
    weights = [(run / "checkpoint.safetensors").read_bytes() for run in (first, second)]
    tensors = [load_checkpoint(run / "checkpoint.safetensors")[0] for run in (first, second)]
    assert len(weights[0]) == len(weights[1])
    for name, tensor in tensors[0].items():
        assert tensor.tobytes() == tensors[1][name].tobytes()


@pytest.mark.parametrize("kind", SMALL)
def test_stopped_and_resumed_is_the_same(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(kind, data, tmp_path / "whole", capsys)
    from gpunet.training import trainer

    save, calls = trainer.Trainer._save_last, []

    def interrupted(self: trainer.Trainer) -> None:
        save(self)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_save_last", interrupted)
        words = ["--data", data, *QUICKLY, "--device", "cpu"]
        assert gpunet("train", kind, *SMALL[kind], *words, "--runs-dir", tmp_path / "cut") == 130
    assert "continue with: gpunet train --resume" in capsys.readouterr().err
    (run_dir,) = (tmp_path / "cut").iterdir()
    assert gpunet("train", "--resume", run_dir, "--json", "-q") == 0
    resumed = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("test_accuracy", "test_loss", "val_accuracy", "epochs"):
        assert resumed[name] == whole[name], name
    first, second = (load_checkpoint(Path(r["run_dir"]) / "checkpoint.safetensors")[0] for r in (whole, resumed))
    for name, tensor in first.items():
        assert tensor.tobytes() == second[name].tobytes(), name


def test_stages_of_a_hybrid_can_be_evaluated(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = Path(train("hybrid", data, tmp_path, capsys)["run_dir"])
    cnn = evaluate(run_dir / "stages" / "1-cnn", split="validation")
    lines = (run_dir / "stages" / "1-cnn" / "metrics.jsonl").read_text().splitlines()
    assert cnn.correct / cnn.total == max(json.loads(line)["validation_accuracy"] for line in lines)
    with pytest.raises(CheckpointError, match="needs its CNN"):
        evaluate(run_dir / "stages" / "2-classifier")
    assert feature_map(run_dir).stat().st_size > 1000
    with pytest.raises(CheckpointError, match="contains a CNN: a feature map needs a Hybrid"):
        feature_map(run_dir / "stages" / "1-cnn")


def test_configuration_file_and_its_record(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        '[model]\nkind = "mlp"\nhidden = [5]\n[training]\nepochs = 2\nlr = 0.5\nclass_weights = "balanced"\n'
    )
    words = ["--data", data, "--lr", "0.01", "--device", "cpu", "--runs-dir", tmp_path, "-q", "--json"]
    assert gpunet("train", "mlp", "--config", file, *words) == 0
    run_dir = Path(json.loads(capsys.readouterr().out)["run_dir"])
    saved = load_model(run_dir)
    assert saved.config.model.hidden == (5,) and saved.config.training.lr == 0.01
    assert saved.config.training.epochs == 2 and saved.config.training.class_weights == "balanced"
    assert saved.class_names[0] == "top left" and saved.input_shape == (10, 12, 3)


def test_standardized_pixels_have_mean_0_and_deviation_1(data: Path) -> None:
    run_data = prepare(DataConfig(data=str(data), standardize="pixel"))
    loader = run_data.loader("train", CPU, "float64")
    x = np.concatenate([batch for batch, _ in loader.batches(50)])
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda run: (run / "checkpoint.safetensors").write_bytes(b"x" * 50), 2, "cannot be read as a checkpoint"),
        (lambda run: (run / "checkpoint.safetensors").unlink(), 2, "there is no checkpoint"),
    ],
)
def test_damaged_runs(
    change: Any, code: int, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = Path(train("mlp", data, tmp_path, capsys)["run_dir"])
    change(run_dir)
    assert gpunet("evaluate", run_dir, "-q") == code
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_bad_input_ends_with_its_exit_code(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = Path(train("mlp", data, tmp_path / "runs", capsys)["run_dir"])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    with np.load(data) as arrays:
        parts = dict(arrays)
    np.savez(
        tmp_path / "smaller.npz", **{**parts, "x_train": parts["x_train"][:, 1:], "x_test": parts["x_test"][:, 1:]}
    )
    np.savez(tmp_path / "labels.npz", **{**parts, "y_train": parts["y_train"] - 1})
    nan = parts["x_train"] / 255.0
    nan[3, 2, 1, 0] = np.nan
    np.savez(tmp_path / "nan.npz", **{**parts, "x_train": nan})
    base = ["-q", "--device", "cpu", "--runs-dir", tmp_path / "new", "--data"]
    cases: list[tuple[list[Any], int, str]] = [
        (["train", "mlp", *base, tmp_path / "labels.npz"], 3, "label"),
        (["train", "mlp", *base, tmp_path / "nan.npz"], 3, "nan"),
        (["train", "mlp", *base, tmp_path / "missing.npz"], 3, "does not exist"),
        (["train", "cnn", *base, data, "--filters", "4", "--kernel-sizes", "3", "3"], 2, "kernel_sizes"),
        (["train", "cnn", *base, data, "--filters", "-4"], 2, "filters"),
        (["train", "mlp", *base, data, "--shift", "50"], 2, "shift"),
        (["train", "mlp", *base, data, "--lr", "1e30", "--optimizer", "sgd"], 5, "training diverged in "),
        (["train", "mlp", "-q", "--device", "cuda:0", "--data", data], 4, "cuda"),
        (["predict", "--run", run_dir, "-q", tmp_path / "broken.png"], 3, "broken.png"),
        (["evaluate", run_dir, "-q", "--data", tmp_path / "smaller.npz"], 3, "the model takes images"),
    ]
    for words, code, message in cases:
        assert gpunet(*words) == code, words
        captured = capsys.readouterr()
        assert captured.err.startswith("gpunet: error: ") and captured.err.count("\n") == 1, captured.err
        assert message in captured.err.lower(), captured.err


def test_a_checkpoint_of_another_architecture(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Path(train("mlp", data, tmp_path / "a", capsys)["run_dir"])
    two = Path(train("mlp", data, tmp_path / "b", capsys, "--hidden", "7")["run_dir"])
    shutil.copy(two / "last.safetensors", one / "last.safetensors")
    assert gpunet("train", "--resume", one, "-q") == 2
    assert "begun with other hidden ([7], now [12]): resume it" in capsys.readouterr().err


def test_evaluation_of_other_data(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = Path(train("mlp", data, tmp_path, capsys)["run_dir"])
    assert evaluate(run_dir, data=str(data)) == evaluate(run_dir)
    with pytest.raises(DataError, match="does not exist"):
        evaluate(run_dir, data="nowhere.npz")


def test_mirror_images_are_counted_apart(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = Path(train("mlp", data, tmp_path, capsys)["run_dir"])
    facts = json.loads((run_dir / "result.json").read_text())
    assert facts["tta_correct"] is None
    with np.load(run_dir / "test_predictions.npz") as arrays, np.load(data) as source:
        assert sorted(arrays) == ["labels", "predictions"]
        np.testing.assert_array_equal(arrays["labels"], source["y_test"])
        assert (arrays["labels"] == arrays["predictions"]).sum() == facts["test_correct"]
    assert gpunet("evaluate", run_dir, "--tta", "-q") == 2
    assert "was not trained on mirrored images (--flip)" in capsys.readouterr().err

    for option in ("--flip", "--alternate-flip"):
        run_dir = Path(train("mlp", data, tmp_path, capsys, option)["run_dir"])
        facts = json.loads((run_dir / "result.json").read_text())
        with np.load(run_dir / "test_predictions.npz") as arrays:
            assert (arrays["labels"] == arrays["tta_predictions"]).sum() == facts["tta_correct"]
            assert (arrays["predictions"] != arrays["tta_predictions"]).any(), "on these corners a mirror image tells"
        assert gpunet("evaluate", run_dir, "--tta", "-q", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["tta_accuracy"] == facts["tta_correct"] / 40 and found["correct"] == facts["test_correct"]
        assert gpunet("evaluate", run_dir, "--tta", "-q") == 0
        assert "with mirror images: test accuracy " in capsys.readouterr().out


def test_refit_learns_from_all_training_images(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train("mlp", data, tmp_path, capsys, "--refit", "--keep", "last")
    run_dir = Path(result["run_dir"])
    with np.load(run_dir / "split.npz") as parts:
        assert parts["train"].tolist() == list(range(120)) and len(parts["validation"]) == 24
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert result["val_accuracy"] == last["validation_accuracy"] and last["step"] == 3 * (120 // 16)
    for words, message in (
        (("--refit",), "refit leaves no images for choosing the epoch: add --keep last"),
        (("--refit", "--keep", "last", "--schedule", "plateau"), "refit leaves no images for schedule plateau"),
        (("--refit", "--keep", "last", "--early-stopping", "2"), "refit leaves no images for schedule plateau"),
    ):
        assert (
            gpunet("train", "mlp", "--data", data, "--device", "cpu", "--runs-dir", tmp_path / "no", "-q", *words) == 2
        )
        assert message in capsys.readouterr().err
    assert not list((tmp_path / "no").iterdir())


def test_a_subset_of_the_training_images(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = Path(train("mlp", data, tmp_path, capsys, "--train-images", "48")["run_dir"])
    images = json.loads((run_dir / "environment.json").read_text())["images"]
    assert images == {"train": 48, "validation": 24, "test": 40}
