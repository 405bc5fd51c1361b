"""The folder of a run: who may write to it, what is kept when a run goes on, and what a refused one leaves alone."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.errors import CheckpointError, OtherTrainingError, OutputError
from gpunet.experiments.config import RunConfig, merge
from gpunet.experiments.run import evaluate, train
from gpunet.files import lock_folder
from gpunet.training import load_checkpoint, save_checkpoint
from gpunet.training.snapshot import read_snapshot
from tests.support import save_brightness_data

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (6,)},
    "hybrid": {"filters": (4,), "classifier_hidden": (5,), "classifier_epochs": 2, "joint_epochs": 1},
}


def config_of(kind: str, data: Path, **options: Any) -> RunConfig:
    common = {"epochs": 2, "batch_size": 16, "lr": 0.005, "flip": False, "shift": 0, "data": str(data)}
    return merge(kind, overrides={**common, **SMALL[kind], **options})


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpunet.experiments.run.plot_run", lambda *args: None)  # the figures are tested elsewhere


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_brightness_data(tmp_path / "data.npz", train=100, test=40)


def run(config: RunConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    train(config, run_dir=folder, device="cpu", resume=resume, progress=False)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_in_use_is_refused_and_left_as_it_is(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(config_of("mlp", data), folder)
    before = files(folder)
    with lock_folder(folder, ""), pytest.raises(OutputError, match=f"another process is training in {folder}"):
        run(config_of("mlp", data, epochs=3), folder, resume=True)
    assert files(folder) == before
    assert run(config_of("mlp", data, epochs=3), folder, resume=True)["epochs"] == 3


def test_the_lock_of_a_killed_process_is_free(data: Path, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\nfrom gpunet.files import lock_folder\n"
        "with lock_folder(pathlib.Path(sys.argv[1]), ''): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert (tmp_path / "run" / ".lock").exists()
    run(config_of("mlp", data), tmp_path / "run")
    assert not (tmp_path / "run" / ".lock").exists()


def test_temporary_files_of_a_killed_run_are_removed_and_nothing_else(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / ".last.0123456789ab.tmp").mkdir(parents=True)
    left = [".last.0123456789ab.tmp/x", ".metrics.0123456789ab.tmp.jsonl", ".tmp.0123456789ab.tmp.tmp"]
    kept = [".notes.tmp.txt", "x.0123456789ab.tmp.npz", ".hidden"]
    for name in left + kept:
        (folder / name).write_text("x")
    run(config_of("mlp", data), folder)
    assert [name for name in left + kept if (folder / name).exists()] == kept


def test_other_data_are_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = config_of("mlp", data)
    run(config, folder)
    before = files(folder)
    arrays = dict(np.load(data))
    order = np.random.default_rng(0).permutation(len(arrays["y_train"]))
    arrays["x_train"], arrays["y_train"] = arrays["x_train"][order], arrays["y_train"][order]
    np.savez(data, **arrays)
    with pytest.raises(OtherTrainingError, match="begun with other training data, validation data: resume it with"):
        run(dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=3)), folder, resume=True)
    assert files(folder) == before


def test_other_names_of_the_classes_are_refused(data: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(data))
    classes = int(arrays["y_train"].max()) + 1
    np.savez(data, **{**arrays, "class_names": np.array([f"class {i}" for i in range(classes)])})
    run(config_of("mlp", data), tmp_path / "run")
    np.savez(data, **{**arrays, "class_names": np.array([f"class {i}" for i in reversed(range(classes))])})
    with pytest.raises(OtherTrainingError, match="begun with other class names"):
        run(config_of("mlp", data, epochs=3), tmp_path / "run", resume=True)


@pytest.mark.parametrize("options", [{"split_seed": 1}, {"shift": 1}, {"lr": 0.1}, {"activation": "tanh"}])
def test_an_edited_configuration_is_refused(data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    run(config_of("mlp", data), tmp_path / "run")
    (name,) = options
    name = {"split_seed": "training data", "shift": "training data"}.get(name, name)
    with pytest.raises(OtherTrainingError, match=f"begun with other {name}"):
        run(config_of("mlp", data, epochs=3, **options), tmp_path / "run", resume=True)


def test_a_result_is_removed_before_its_model_changes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpunet.training import Trainer

    def fail(self: Trainer, *args: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    run(config_of("mlp", data), folder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_run_epoch", fail)
        run(config_of("mlp", data), folder, resume=True)  # finished: there is no epoch to run
        assert (folder / "result.json").exists()
        run(config_of("mlp", data, epochs=3), folder, resume=True)
    assert not (folder / "result.json").exists() and not (folder / "test_predictions.npz").exists()
    assert run(config_of("mlp", data, epochs=3), folder, resume=True)["epochs"] == 3


def test_the_environment_in_which_a_run_was_begun_is_kept(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(config_of("mlp", data), folder)
    first = json.loads((folder / "environment.json").read_text())
    assert "before" not in first
    run(config_of("mlp", data, epochs=3), folder, resume=True)
    assert json.loads((folder / "environment.json").read_text()) == first
    elsewhere = {**first, "device": "cuda:0 NVIDIA H100", "numpy": "1.0"}
    (folder / "environment.json").write_text(json.dumps(elsewhere))
    run(config_of("mlp", data, epochs=4), folder, resume=True)
    assert json.loads((folder / "environment.json").read_text()) == {**first, "before": [elsewhere]}


def test_a_hybrid_whose_cnn_goes_on_trains_its_later_stages_again(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The accuracy in result.json is that of the model in the folder."""
    folder = tmp_path / "run"
    run(config_of("hybrid", data, keep="last"), folder)
    stages = {path.name: path.read_bytes() for path in folder.glob("stages/*/checkpoint.safetensors")}
    caplog.clear()
    result = run(config_of("hybrid", data, keep="last", epochs=4), folder, resume=True)
    assert result["epochs"] == 4 + 2 + 1
    for stage in ("classifier", "joint"):
        assert f"the stage {stage} starts over: the training in {folder}/stages/" in caplog.text
    assert all((folder / name).read_bytes() != data for name, data in stages.items() if (folder / name).exists())
    found = evaluate(folder, split="validation", device="cpu")
    assert found.correct / found.total == result["validation_accuracy"]
    assert evaluate(folder, device="cpu").correct == result["test_correct"]
    caplog.clear()
    assert (
        run(config_of("hybrid", data, keep="last", epochs=4), folder, resume=True)["test_correct"]
        == (result["test_correct"])
    )
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_hybrid_without_its_stages_is_not_trained_from_scratch(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(config_of("hybrid", data), folder)
    (folder / "stages").rename(folder / "elsewhere")
    best = (folder / "checkpoint.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="it has a trained model, but no"):
        run(config_of("hybrid", data), folder, resume=True)
    assert (folder / "checkpoint.safetensors").read_bytes() == best


@pytest.mark.parametrize("dtype", ["float16", "int8", "bool", "float64"])
def test_weights_of_another_dtype_are_refused(data: Path, tmp_path: Path, dtype: str) -> None:
    run(config_of("mlp", data), tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.safetensors"
    tensors, metadata = load_checkpoint(path)
    name = "model/linear1.weight"
    save_checkpoint(path, {**tensors, name: tensors[name].astype(dtype)}, metadata)
    with pytest.raises(CheckpointError, match=f"linear1.weight in the checkpoint is {dtype}, this model needs float32"):
        evaluate(tmp_path / "run", device="cpu")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_the_command_with_its_code_and_the_way_to_go_on(
    data: Path, tmp_path: Path, name: str, code: int
) -> None:
    command = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background process ignores it
        "from gpunet.cli.main import entry_point; entry_point()"
    )
    runs = tmp_path / "two words"
    words = ["train", "mlp", "--data", data, "--hidden", "4", "--epochs", "100000", "--batch-size", "16"]
    with subprocess.Popen(
        [sys.executable, "-c", command, *map(str, words), "--device", "cpu", "--runs-dir", str(runs)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # buffered, as most have it
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch"):
                break
        process.send_signal(getattr(signal, name))
        errors = process.stderr.read()
    (folder,) = runs.iterdir()
    assert process.returncode == code
    assert f"gpunet: interrupted; continue with: gpunet train --resume '{folder}'" in errors
    snapshot = read_snapshot(folder)
    assert snapshot is not None and snapshot.epoch >= 1
    assert not list(folder.rglob(".*")), "no lock and no temporary files are left"


@pytest.mark.parametrize("kind", SMALL)
def test_a_damaged_model_is_written_again_by_a_resume(data: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    run(config_of(kind, data), folder)
    path = folder / "checkpoint.safetensors"
    whole = load_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path} is damaged: .* gpunet train --resume {folder} writes it again"):
        evaluate(folder, device="cpu")
    run(config_of(kind, data), folder, resume=True)
    again = load_checkpoint(path)
    assert again[1] == whole[1] and {k: v.tobytes() for k, v in again[0].items()} == {
        k: v.tobytes() for k, v in whole[0].items()
    }
