"""``gpunet train``: which configuration reaches the pipeline, and what is printed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from scipy.stats import binomtest

from gpunet.cli.flags import given_options
from gpunet.cli.main import build_parser
from gpunet.experiments.config import RunConfig, merge, to_toml
from gpunet.models import MODELS
from tests.cli.conftest import Command, assert_refused
from tests.cli.fake_run import FakeRun
from tests.experiments.strategies import flat, run_configs


def words_of(config: RunConfig) -> list[str]:
    """The command line that spells out every option of `config`."""
    words = ["train", config.kind]
    for name, value in flat(config).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={value}")
    return words


@given(run_configs())
@example(merge("mlp", overrides={"data": "--"}))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_every_option_is_a_flag(config: RunConfig) -> None:
    args = build_parser().parse(words_of(config))
    assert merge(args.kind, overrides=given_options(args)) == config


@pytest.mark.parametrize("kind", list(MODELS))
def test_defaults(gpunet_command: Command, fake_run: FakeRun, kind: str) -> None:
    assert gpunet_command("train", kind).code == 0
    ((_, call),) = fake_run.calls
    assert call["config"] == merge(kind)
    assert (call["device"], call["resume"], call["progress"]) == (None, False, True)
    assert call["existed"], "the run folder is made by the command, so that two runs cannot share one"
    assert re.fullmatch(rf"runs/{kind}-\d{{8}}-\d{{6}}", str(call["run_dir"]))


@pytest.mark.parametrize(
    "line",
    [
        "train --preset quick --epochs 3 cnn --config run.toml --filters 8 16 --flip",
        "train cnn --flip --filters 8 16 --config run.toml --epochs=3 --preset=quick",
    ],
)
def test_layers(gpunet_command: Command, fake_run: FakeRun, line: str) -> None:
    Path("run.toml").write_text("[training]\nepochs = 9\nlr = 0.25\n[data]\nshift = 2\nflip = false\n", "utf-8")
    assert gpunet_command(*line.split()).code == 0
    config = fake_run.calls[0][1]["config"]
    expected = {"epochs": 3, "lr": 0.25, "shift": 2, "flip": True, "filters": (8, 16)}
    assert config == merge("cnn", "quick", overrides=expected)


def test_a_run_finds_its_data_from_any_folder(gpunet_command: Command, fake_run: FakeRun) -> None:
    path = str(Path.cwd() / "folder" / "data.npz")
    Path("run.toml").write_text('[data]\ndata = "folder/data.npz"\n', encoding="utf-8")
    for words in (["--data", "folder/data.npz"], ["--config", "run.toml"], ["--data", path]):
        assert gpunet_command("train", "mlp", *words).code == 0
        assert fake_run.calls[-1][1]["config"].data.data == path


def test_the_file_may_name_the_model(gpunet_command: Command, fake_run: FakeRun) -> None:
    Path("run.toml").write_text('[model]\nkind = "hybrid"\n', encoding="utf-8")
    assert gpunet_command("train", "--config", "run.toml", "--epochs", "2").code == 0
    assert fake_run.calls[0][1]["config"] == merge("hybrid", overrides={"epochs": 2})


def test_empty_list(gpunet_command: Command, fake_run: FakeRun) -> None:
    assert gpunet_command("train", "mlp", "--hidden", "--epochs", "1").code == 0
    assert fake_run.calls[0][1]["config"].model.hidden == ()


def test_name_and_folder(gpunet_command: Command, fake_run: FakeRun) -> None:
    assert gpunet_command("train", "cnn", "--name", "wide", "--runs-dir", "out/put").code == 0
    assert re.fullmatch(r"out/put/wide-\d{8}-\d{6}", str(fake_run.calls[0][1]["run_dir"]))


def test_runs_of_one_second_have_their_own_folders(
    gpunet_command: Command, fake_run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpunet.experiments.quick.time.strftime", lambda text: "20261122-204501")
    for _ in range(3):
        assert gpunet_command("train", "cnn").code == 0
    names = [call["run_dir"].name for _, call in fake_run.calls]
    assert names == ["cnn-20261122-204501", "cnn-20261122-204501-2", "cnn-20261122-204501-3"]


def test_result_lines(gpunet_command: Command, fake_run: FakeRun) -> None:
    interval = binomtest(9123, 10_000).proportion_ci(0.95, method="wilson")
    outcome = gpunet_command("train", "cnn")
    assert outcome.out.splitlines()[-2:] == [
        f"run folder: {fake_run.calls[0][1]['run_dir']}",
        f"test accuracy 91.23 % (95 % interval {100 * interval.low:.2f}-{100 * interval.high:.2f})",
    ]
    assert outcome.out.splitlines()[-1] == "test accuracy 91.23 % (95 % interval 90.66-91.77)"


def test_next_commands_can_be_pasted(gpunet_command: Command, fake_run: FakeRun, tmp_path: Path) -> None:
    outcome = gpunet_command("train", "cnn", "--name", "shoes", "--runs-dir", tmp_path / "my runs", "--device", "cpu")
    run = shlex.quote(str(fake_run.calls[0][1]["run_dir"]))
    assert outcome.err.endswith(f"next: gpunet report {run}\n      gpunet predict --run {run} PICTURE\n")


def test_json_result(gpunet_command: Command, fake_run: FakeRun) -> None:
    from gpunet import __version__

    interval = binomtest(9123, 10_000).proportion_ci(0.95, method="wilson")
    outcome = gpunet_command("train", "cnn", "--json")
    result = json.loads(outcome.out.splitlines()[-1])
    assert result.pop("interval") == pytest.approx([interval.low, interval.high])
    assert result == {
        "model": "cnn",
        "test_accuracy": 0.9123,
        "test_loss": 0.25,
        "val_accuracy": 0.925,
        "epochs": 4,
        "seconds": 12.5,
        "images_per_second": 1536.0,
        "parameters": 1234,
        "device": "cpu",
        "seed": 7,
        "run_dir": str(fake_run.calls[0][1]["run_dir"]),
        "version": __version__,
    }


def test_json_is_strict(gpunet_command: Command, fake_run: FakeRun) -> None:
    fake_run.result = {"validation_score": float("nan"), "images_per_second": float("inf")}
    result = json.loads(gpunet_command("train", "cnn", "--json").out, parse_constant=pytest.fail)
    assert result["val_accuracy"] is None and result["images_per_second"] is None


def test_first_line_names_version_and_device(gpunet_command: Command, fake_run: FakeRun) -> None:
    from gpunet import __version__

    assert gpunet_command("train", "cnn", "--device", "cpu").err.startswith(f"gpunet {__version__} on cpu\n")
    assert fake_run.calls[0][1]["device"] == "cpu"


@pytest.mark.parametrize("words", [("-q", "train", "cnn"), ("train", "-q", "cnn"), ("train", "cnn", "-v", "-q")])
def test_quiet(gpunet_command: Command, fake_run: FakeRun, words: tuple[str, ...]) -> None:
    assert gpunet_command(*words, "--device", "cpu").err == ""
    assert fake_run.calls[0][1]["progress"] is False


def test_tensorboard(gpunet_command: Command, fake_run: FakeRun) -> None:
    gpunet_command("train", "--tensorboard", "mlp")
    gpunet_command("train", "mlp")
    assert [call["tensorboard"] for _, call in fake_run.calls] == [True, False]


def test_trackers(gpunet_command: Command, fake_run: FakeRun) -> None:
    gpunet_command("train", "--wandb", "mlp", "--mlflow", "--track-files")
    gpunet_command("train", "mlp")
    found = [(call["trackers"], call["track_files"]) for _, call in fake_run.calls]
    assert found == [(["mlflow", "wandb"], True), ([], False)]
    refused = gpunet_command("train", "mlp", "--track-files")
    assert_refused(refused, 2, "--track-files needs a service to send them to: --mlflow, --wandb, --trackio")


def started_run(**overrides: Any) -> tuple[Path, RunConfig]:
    """A run folder that looks as if it had been interrupted."""
    config = merge("cnn", overrides={"epochs": 5, "lr": 0.125, **overrides})
    run_dir = Path("runs") / "cnn-x"
    run_dir.mkdir(parents=True)
    (run_dir / "config.toml").write_text(to_toml(config), encoding="utf-8")
    return run_dir, config


def test_which_options_are_given(gpunet_command: Command, fake_run: FakeRun) -> None:
    Path("run.toml").write_text("[training]\nlr = 0.5\n[data]\nflip = false\n")
    for words in ((), ("--config", "run.toml", "--shift", "0"), ("--preset", "quick", "--shift", "0")):
        assert gpunet_command("train", "cnn", *words).code == 0
    assert [call["given"] for _, call in fake_run.calls] == [set(), {"lr", "flip", "shift"}, None]


@pytest.mark.parametrize("words", [("train",), ("train", "cnn")])
def test_resume(gpunet_command: Command, fake_run: FakeRun, words: tuple[str, ...]) -> None:
    run_dir, config = started_run()
    outcome = gpunet_command(*words, "--resume", run_dir, "--json", "-v", "--device", "cpu")
    assert outcome.code == 0
    assert fake_run.calls[0][1] == {
        "config": config, "run_dir": run_dir, "device": "cpu", "resume": True, "progress": True, "existed": True,
        "tensorboard": False, "trackers": [], "track_files": False, "checkpoint_minutes": 5.0, "given": None,
    }  # fmt: skip
    assert json.loads(outcome.out)["run_dir"] == str(run_dir)


@pytest.mark.parametrize("words", [("train",), ("train", "cnn")])
@pytest.mark.parametrize("epochs", [5, 8])
def test_resume_may_extend(gpunet_command: Command, fake_run: FakeRun, words: tuple[str, ...], epochs: int) -> None:
    run_dir, _ = started_run()
    assert gpunet_command(*words, "--resume", run_dir, "--epochs", epochs).code == 0
    assert fake_run.calls[0][1]["config"] == merge("cnn", overrides={"epochs": epochs, "lr": 0.125})


def test_resume_may_not_shorten(gpunet_command: Command) -> None:
    run_dir, _ = started_run()
    outcome = gpunet_command("train", "--resume", run_dir, "--epochs", "4")
    assert_refused(outcome, 2, "--epochs 4 is less than the run's 5; with --resume it can only grow")


def test_resume_keeps_the_model(gpunet_command: Command) -> None:
    run_dir, _ = started_run()
    outcome = gpunet_command("train", "mlp", "--resume", run_dir)
    assert_refused(outcome, 2, f"the run in {run_dir} is of the model cnn, not mlp")


def test_resume_with_a_damaged_configuration(gpunet_command: Command) -> None:
    run_dir, _ = started_run()
    (run_dir / "config.toml").write_text("[model", encoding="utf-8")
    assert_refused(gpunet_command("train", "--resume", run_dir), 2, "config.toml is not valid TOML")


def test_resume_of_a_trainers_folder(gpunet_command: Command) -> None:
    Path("of_python").mkdir()
    (Path("of_python") / "last.safetensors").touch()
    outcome = gpunet_command("train", "--resume", "of_python")
    assert_refused(outcome, 2, "of_python is of a Trainer in Python")
    assert "call trainer.resume() before trainer.fit()" in outcome.err


def test_resume_does_not_remove_an_empty_looking_run(gpunet_command: Command, fake_run: FakeRun) -> None:
    run_dir, _ = started_run()
    fake_run.writes_files = False
    fake_run.error = KeyboardInterrupt()
    assert gpunet_command("train", "--resume", run_dir).code == 130
    assert (run_dir / "config.toml").exists()


def test_threads_before_numba_is_imported(
    gpunet_command: Command, fake_run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, str]] = []
    monkeypatch.setattr("threadpoolctl.threadpool_limits", lambda limit, user_api: limits.append((limit, user_api)))
    monkeypatch.setattr("sys.modules", {k: v for k, v in __import__("sys").modules.items() if k != "numba"})
    environment: dict[str, str] = {}
    monkeypatch.setattr("gpunet.cli.compute.os.environ", environment)
    assert gpunet_command("train", "cnn", "--threads", "3").code == 0
    assert environment["NUMBA_NUM_THREADS"] == "3"
    assert limits == [(3, "blas")]


@pytest.mark.parametrize(("text", "minutes"), [("0", 0.0), ("2.5", 2.5)])
def test_checkpoint_minutes(gpunet_command: Command, fake_run: FakeRun, text: str, minutes: float) -> None:
    assert gpunet_command("train", "mlp", "--checkpoint-minutes", text, "--device", "cpu").code == 0
    assert fake_run.calls[0][1]["checkpoint_minutes"] == minutes


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "often"])
def test_checkpoint_minutes_must_be_a_number(gpunet_command: Command, fake_run: FakeRun, text: str) -> None:
    outcome = gpunet_command("train", "mlp", f"--checkpoint-minutes={text}")
    assert outcome.code == 2 and not fake_run.calls
    assert f"--checkpoint-minutes must be a number of at least 0, got {text!r}" in outcome.err
