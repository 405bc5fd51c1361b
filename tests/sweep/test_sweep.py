"""Whole sweeps of tiny models, stopped and resumed, failed and repeated."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpunet.cli.main import main
from gpunet.errors import ConfigError, DataError, OutputError
from gpunet.files import lock_folder
from gpunet.sweep import Sweep, load_sweep, run_sweep
from gpunet.sweep import run as sweep_run
from gpunet.sweep.table import TIMING
from tests.sweep.conftest import Declare

ROOT = Path(__file__).parents[2]
AXES = (
    'activation = ["relu", "tanh"]\n'
    'rate = [{ name = "slow", lr = 0.01 }, { name = "wild", lr = 1e30, optimizer = "sgd", schedule = "constant" }]'
)


def lines(folder: Path, *, timing: bool = False) -> list[dict[str, str]]:
    """The rows of a sweep's table without the columns of times."""
    with (folder / "table.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return found if timing else [{name: cell for name, cell in row.items() if name not in TIMING} for row in found]


def quietly(sweep: Sweep, folder: Path, **options: Any) -> Any:
    return run_sweep(sweep, folder, device="cpu", progress=False, **options)


def stamps(folder: Path) -> dict[str, int]:
    """When each trial was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("trials/*/trial.json")}


def test_a_sweep_its_failures_and_its_second_call(
    declare: Declare, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a sweep looked at the test images")

    monkeypatch.setattr(sweep_run, "evaluate", refuse)
    declare(AXES)
    words = ["sweep", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--device", "cpu", "-q"]
    assert main([*map(str, words), "--workers", "2", "--threads", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "activation: validation accuracy, mean and standard deviation over the seeds" in captured.out
    assert "trials failed: see the table for the errors" in captured.out
    assert captured.out.splitlines()[-1] == f"table: {tmp_path / 'out' / 'table.csv'}"
    rows = lines(tmp_path / "out")
    assert [(row["activation"], row["rate"], row["seed"]) for row in rows] == [
        (activation, rate, seed) for activation in ("relu", "tanh") for rate in ("slow", "wild") for seed in "01"
    ]
    wild = [row for row in rows if (row["activation"], row["rate"]) == ("relu", "wild")]
    assert all(row["status"] == "failed" and "training diverged in step" in row["error"] for row in wild)
    for row in rows:
        if row["rate"] == "slow":
            # 64 inputs, 6 hidden units, 3 classes
            assert (row["status"], row["epochs"], row["parameters"]) == ("ok", "2", str(64 * 6 + 6 + 6 * 3 + 3))
            assert row["chosen_epoch"] in "12" and 0 <= float(row["validation_accuracy"]) <= 1
    for trial in (tmp_path / "out" / "trials").iterdir():
        assert not list(trial.glob("**/*.safetensors")), "checkpoints are dropped"
        assert (trial / "config.toml").exists() and (trial / "trial.json").exists()
        assert not list(trial.glob("*test*")) and not (trial / "result.json").exists()

    # the rows repeat what the runs wrote
    slow = [row for row in rows if row["rate"] == "slow"]
    for trial in (tmp_path / "out" / "trials").iterdir():
        outcome = json.loads((trial / "trial.json").read_text())
        records = (
            [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
            if outcome["status"] == "ok"
            else []
        )
        if records and outcome["validation_loss"] < 100:
            best = max(records, key=lambda record: record["validation_accuracy"])
            assert outcome["validation_accuracy"] == best["validation_accuracy"]
            assert outcome["validation_loss"] == best["validation_loss"] and outcome["chosen_epoch"] == best["epoch"]
            assert repr(best["validation_loss"]) in {row["validation_loss"] for row in slow}

    # nothing is trained a second time, not even what failed; a new value joins what is there
    before, table = stamps(tmp_path / "out"), (tmp_path / "out" / "table.csv").read_bytes()
    assert main([*map(str, words), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["trials"] == 8 and facts["failed"] >= 2 and facts["test"] is None
    assert facts["best_validation_accuracy"] == max(
        (float(a["validation_accuracy"]) + float(b["validation_accuracy"])) / 2
        for a, b in zip(rows[::2], rows[1::2], strict=True)
        if a["status"] == b["status"] == "ok"
    )
    assert stamps(tmp_path / "out") == before and (tmp_path / "out" / "table.csv").read_bytes() == table
    wider = declare(AXES.replace('"tanh"]', '"tanh", "gelu"]'))
    quietly(wider, tmp_path / "out")
    after = stamps(tmp_path / "out")
    assert {name: after[name] for name in before} == before and len(after) == 12
    assert lines(tmp_path / "out")[:8] == rows


def start(declaration: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = ["sweep", declaration, "--out", folder, "--workers", 2, "--threads", 2, "-q"]
    command = [sys.executable, "-m", "gpunet", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GPUNET_DEVICE": "cpu"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_interrupted_killed_and_resumed_gives_the_same_table(
    declare: Declare, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = declare('activation = ["relu", "tanh", "gelu"]').text
    file, cut = tmp_path / "long.toml", tmp_path / "cut"
    file.write_text(text.replace("epochs = 2", "epochs = 30"))
    quietly(load_sweep(file), tmp_path / "whole", workers=2, threads=2)

    finish = sweep_run._Run._finish

    def interrupted(self: Any, *args: Any) -> None:
        finish(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweep_run._Run, "_finish", interrupted)
        assert main(["sweep", str(file), "--out", str(cut), "--device", "cpu", "--threads", "2"]) == 130
    err = capsys.readouterr().err
    assert "1/6 trials  activation: relu  seed 0  validation accuracy " in err and " left" in err
    assert "interrupted; finished trials are kept; continue with the same command" in err
    kept = stamps(cut)
    assert len(kept) == len(lines(cut)) == 1

    seed = random.randrange(2**32)
    print("seed of the moment of the kill:", seed)
    process, limit = start(file, cut), time.monotonic() + 60
    while len(list(cut.glob("trials/*/last.safetensors"))) < 2 and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.1))
    process.kill()  # SIGKILL: the process can do nothing about it
    assert process.wait() == -signal.SIGKILL, "the sweep was over before it was killed"
    kept = stamps(cut) | kept

    quietly(load_sweep(file), cut, workers=2, threads=2)
    assert {name: stamps(cut)[name] for name in kept} == kept, "a finished trial was repeated"
    assert lines(cut) == lines(tmp_path / "whole")
    assert len(lines(cut)) == 6 and all(row["status"] == "ok" for row in lines(cut))


def test_the_test_images_are_for_the_chosen_point_alone(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, measured = sweep_run.evaluate, []

    def noted(path: Path, **options: Any) -> Any:
        measured.append(path.name)
        return evaluate(path, **options)

    monkeypatch.setattr(sweep_run, "evaluate", noted)
    axes = 'rate = [{ name = "none", lr = 1e-12 }, { name = "some", lr = 0.03 }]'
    sweep = declare(axes, "evaluate_test = true")
    result = quietly(sweep, tmp_path / "out")
    assert result.test is not None and len(measured) == 2 and result.test["trials"] == measured
    assert result.test["values"] == result.best[0].values and result.test["total"] == 60
    assert result.test["mean"] == sum(result.test["correct"]) / 120
    assert quietly(sweep, tmp_path / "out").test == result.test and len(measured) == 2, "read once"
    assert not list((tmp_path / "out").glob("trials/*/*.safetensors"))
    for text, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "is not a JSON object"),
        (json.dumps({**result.test, "interval": [0.5]}), "interval must be two numbers from 0 to 1, got [0.5]"),
        (json.dumps({**result.test, "mean": "0.5"}), "mean must be a number from 0 to 1, got '0.5'"),
        (json.dumps({"mean": 0.5, "interval": [0.4, 0.6]}), "has no trials"),
    ):
        (tmp_path / "out" / "test.json").write_text(text)
        with pytest.raises(DataError, match=r"test\.json.*; remove it to evaluate the best point again") as error:
            quietly(sweep, tmp_path / "out")
        assert message in str(error.value)
    (tmp_path / "out" / "test.json").unlink()
    with pytest.raises(ConfigError, match="the weights of the best point were not kept: remove "):
        quietly(sweep, tmp_path / "out")
    assert all("test" not in name for name in lines(tmp_path / "out", timing=True)[0])


def test_hybrids_share_their_cnn(data: Path, tmp_path: Path) -> None:
    text = (
        '[sweep]\nseeds = [0]\n[base]\nkind = "hybrid"\npreset = "baseline"\nfilters = [2, 3]\nepochs = 2\n'
        f'batch_size = 16\nclassifier_epochs = 2\ndata = "{data}"\n[axes]\n'
        "classifier_hidden = [[4], [5]]\njoint_epochs = [0, 1]\n"
    )
    (tmp_path / "hybrids.toml").write_text(text)
    sweep = load_sweep(tmp_path / "hybrids.toml")
    quietly(sweep, tmp_path / "shared", workers=2, threads=2, keep_checkpoints=True)
    cnns = {path.read_bytes() for path in (tmp_path / "shared").glob("trials/*/stages/1-cnn/metrics.jsonl")}
    assert len(cnns) == 1, "trained once: even the times are the same"
    assert len(list((tmp_path / "shared").glob("trials/*/checkpoint.safetensors"))) == 4, "kept where that is asked for"
    assert not (tmp_path / "shared" / "shared").exists()
    for place, row in enumerate(lines(tmp_path / "shared")):
        (tmp_path / "one.toml").write_text(
            text.replace("[[4], [5]]", f"[[{row['classifier_hidden']}]]").replace("[0, 1]", f"[{row['joint_epochs']}]")
        )
        if place == 3:  # alone, with a CNN of its own
            quietly(load_sweep(tmp_path / "one.toml"), tmp_path / f"alone-{place}")
            (alone,) = lines(tmp_path / f"alone-{place}")
            assert {**alone, "trial": row["trial"]} == row


def test_what_ends_a_sweep(declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = declare("dropout = [0.1]")
    with pytest.raises(ConfigError, match="3 workers cannot share 2 threads: give 1 to 2 workers"):
        quietly(sweep, tmp_path / "out", workers=3, threads=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        quietly(sweep, tmp_path / "file")
    monkeypatch.setattr(sweep_run, "_LOCK_PATIENCE", 0.0)
    with lock_folder(tmp_path / "out", ""), pytest.raises(OutputError, match="another sweep is running in"):
        quietly(sweep, tmp_path / "out")
    lost = Sweep(**{**vars(sweep), "settings": {**sweep.settings, "data": str(tmp_path / "none.npz")}})
    with pytest.raises(DataError, match=r"none\.npz does not exist"):
        quietly(lost, tmp_path / "lost")
    assert lines(tmp_path / "lost") == [] and stamps(tmp_path / "lost") == {}, "no trial is blamed for it"


def test_settings_that_do_not_fit_the_data_are_a_failed_trial(declare: Declare, tmp_path: Path) -> None:
    sweep = declare("train_images = [30, 100000]")
    quietly(sweep, tmp_path / "out")
    rows = lines(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "failed"]
    assert "train_images must lie between the number of classes, 3, and" in rows[2]["error"]


def test_dry_run(declare: Declare, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declare("dropout = [0.1, 0.2]")
    assert main(["sweep", str(tmp_path / "tiny.toml"), "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"{n}  dropout: {p}  seed {s}  2 epochs" for n, p, s in ((1, 0.1, 0), (2, 0.1, 1), (3, 0.2, 0), (4, 0.2, 1))
    ]
