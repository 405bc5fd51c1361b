"""Published numbers made again, with presets that train in a moment."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from gpunet.cli.main import main
from gpunet.errors import CheckpointError, ConfigError
from gpunet.experiments import published, reproduce
from gpunet.experiments.published import RESULTS, Published, load_published
from gpunet.experiments.reproduce import Reproduction, SeedResult, agreement, commit, read_run
from gpunet.training.checkpoint import load_checkpoint
from gpunet.training.trainer import Trainer

EXPECTED = Published(0.9, 0.01, 5, (0.89, 0.91), None, "best", 10, None, "a CPU")


@pytest.fixture
def checkout(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout, small presets on small data, and no published results."""
    common: dict[str, Any] = {"data": str(data), "batch_size": 16, "flip": True}
    small = {
        "mlp": {**common, "hidden": (6,), "epochs": 2},
        "cnn": {**common, "filters": (2,), "epochs": 1},
        "hybrid": {**common, "filters": (2,), "epochs": 1, "classifier_epochs": 1, "classifier_hidden": (4,)},
    }
    monkeypatch.setattr("gpunet.experiments.config.PRESETS", {"default": small, "best": small, "quick": small})
    monkeypatch.setattr(published, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr("gpunet.experiments.run.plot_run", lambda *args: None)  # the figures are tested elsewhere
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def gpunet(*words: object) -> int:
    return main([*map(str, words), "--device", "cpu", "-q"])


def test_nothing_is_published_then_it_is_then_it_is_reproduced(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpunet("reproduce", "mlp", "--seeds", 2, "--publish") == 0
    out = capsys.readouterr().out
    assert "expected: nothing is published of this preset yet" in out and "seed 1: test accuracy " in out
    entry = load_published(checkout / RESULTS)["mlp"]
    folders = sorted((checkout / "runs" / "reproduce").iterdir())
    facts = [json.loads((folder / "result.json").read_text()) for folder in folders]
    accuracies = [fact["test_correct"] / 60 for fact in facts]
    assert entry.mean == statistics.fmean(accuracies) and entry.std == statistics.stdev(accuracies)
    assert entry.tta_mean == statistics.fmean(fact["tta_correct"] / 60 for fact in facts)
    assert (entry.seeds, entry.preset, entry.parameters) == (2, "best", 64 * 6 + 6 + 6 * 3 + 3)
    assert entry.commit is None and entry.device

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a finished run was trained again")

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "train", refuse)
        assert gpunet("reproduce", "mlp") == 0
        out = capsys.readouterr().out
        assert f"expected: test accuracy {100 * entry.mean:.2f} +- {100 * entry.std:.2f} % over 2 seeds" in out
        assert "the found mean lies within " in out
        assert gpunet("reproduce", "mlp", "--json", "--seeds", 1) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["seeds"] == [0] and found["mean"] == accuracies[0] and found["std"] is None
        assert found["expected"]["mean"] == entry.mean and found["within_expected"] is True

    assert gpunet("reproduce", "mlp", "--refit", "--publish") == 0
    assert "expected: nothing is published of a refit yet" in capsys.readouterr().out
    refit = load_published(checkout / RESULTS)["mlp"]
    assert refit.refit_mean is not None and refit.refit_seeds == 2
    assert replace(refit, refit_mean=None, refit_std=None, refit_seeds=None, refit_tta_mean=None) == entry
    assert len(list((checkout / "runs" / "reproduce").glob("mlp-best-refit-seed*"))) == 2
    assert gpunet("reproduce", "mlp", "--publish") == 0
    assert load_published(checkout / RESULTS)["mlp"] == refit, "a refit stays beside its preset"


def test_a_stopped_run_goes_on(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpunet.training import trainer

    save = trainer.Trainer._save_last

    def interrupted(self: trainer.Trainer) -> None:
        save(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_save_last", interrupted)
        assert gpunet("reproduce", "mlp", "--seeds", 1) == 130
    assert "what is finished is kept; continue with the same command" in capsys.readouterr().err
    (folder,) = (checkout / "runs" / "reproduce").iterdir()
    first = (folder / "metrics.jsonl").read_text()
    assert gpunet("reproduce", "mlp", "--seeds", 1) == 0
    assert (folder / "metrics.jsonl").read_text().startswith(first) and first.count("\n") == 1


def test_mcnemar_between_hybrid_and_cnn(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpunet("reproduce", "hybrid", "--seeds", 1) == 0
    assert "run gpunet reproduce cnn as well" in capsys.readouterr().out
    assert gpunet("reproduce", "cnn", "--seeds", 1) == 0
    assert gpunet("reproduce", "hybrid", "--seeds", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["mcnemar"]
    right = {}
    for kind in ("cnn", "hybrid"):
        (folder,) = (checkout / "runs" / "reproduce").glob(f"{kind}-best-seed0-*")
        with np.load(folder / "test_predictions.npz") as arrays:
            right[kind] = arrays["labels"] == arrays["predictions"]
    cnn, hybrid = (int((right[a] & ~right[b]).sum()) for a, b in (("cnn", "hybrid"), ("hybrid", "cnn")))
    expected = binomtest(hybrid, cnn + hybrid).pvalue if cnn + hybrid else 1.0
    assert found == {"0": {"only_first": cnn, "only_second": hybrid, "p_value": pytest.approx(expected)}}
    assert gpunet("reproduce", "hybrid", "--seeds", 1) == 0
    assert f"only the hybrid classifies rightly {hybrid}, only the CNN {cnn}: McNemar's p = " in capsys.readouterr().out


def test_a_hybrid_begins_with_the_cnn_that_is_there(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_weights() -> dict[str, np.ndarray]:
        (folder,) = (checkout / "runs" / "reproduce").glob("hybrid-best-seed0-*")
        return load_checkpoint(folder / "checkpoint.safetensors")[0]

    assert gpunet("reproduce", "hybrid", "--seeds", 1) == 0
    alone = last_weights()
    shutil.rmtree(checkout / "runs")
    assert gpunet("reproduce", "cnn", "--seeds", 1) == 0
    trained: list[int] = []
    run_epoch = Trainer._run_epoch
    monkeypatch.setattr(Trainer, "_run_epoch", lambda self: trained.append(len(self.flat.values)) or run_epoch(self))
    assert gpunet("reproduce", "hybrid", "--seeds", 1) == 0
    assert len(trained) == 1, "an epoch of the classifier alone"
    after = last_weights()
    assert alone.keys() == after.keys()
    for name, value in alone.items():
        np.testing.assert_array_equal(value, after[name])


def found_of(*accuracies: float, refit: bool = False) -> Reproduction:
    runs = [SeedResult(s, Path(), round(a * 1000), None, 1000, 0.5, 10) for s, a in enumerate(accuracies)]
    return Reproduction("mlp", "best", refit, runs, "a CPU")


def test_agreement_is_a_prediction_interval() -> None:
    within = agreement(EXPECTED, found_of(0.91, 0.89))
    half = student.ppf(0.975, 4) * 0.01 * (1 / 5 + 1 / 2) ** 0.5
    assert within is not None and within.inside
    assert (within.low, within.high) == pytest.approx((0.9 - half, 0.9 + half))
    outside = agreement(EXPECTED, found_of(0.95, 0.95))
    assert outside is not None and not outside.inside
    same = agreement(replace(EXPECTED, std=0.0), found_of(0.9))
    assert same is not None and same.inside
    assert agreement(replace(EXPECTED, std=None, seeds=1), found_of(0.9)) is None
    assert agreement(EXPECTED, found_of(0.9, refit=True)) is None
    refit = agreement(replace(EXPECTED, refit_mean=0.8, refit_std=0.01, refit_seeds=3), found_of(0.9, refit=True))
    assert refit is not None and not refit.inside


def test_prediction_intervals_hold_what_they_promise() -> None:
    """By simulation: the mean of 3 further values lies inside in 95 % of 2000 experiments, up to 4 deviations."""
    rng = np.random.default_rng(0)
    inside = 0
    for known, new in zip(rng.normal(0.9, 0.01, (2000, 5)), rng.normal(0.9, 0.01, (2000, 3)), strict=True):
        expected = replace(EXPECTED, mean=float(known.mean()), std=float(known.std(ddof=1)))
        runs = [SeedResult(s, Path(), v, None, 1, 0.5, 10) for s, v in enumerate(new)]
        within = agreement(expected, Reproduction("mlp", "best", False, runs, ""))
        assert within is not None
        inside += within.inside
    assert abs(inside - 1900) < 4 * (2000 * 0.95 * 0.05) ** 0.5


def test_interval_is_wilsons_on_the_test_images() -> None:
    found = found_of(0.9, 0.8)
    expected = binomtest(850, 1000).proportion_ci(method="wilson")
    assert found.interval == pytest.approx((expected.low, expected.high))


def test_refit_of_what_is_not_published() -> None:
    for before in (None, replace(EXPECTED, preset="quick")):
        with pytest.raises(ConfigError, match="publish the preset best of the mlp before its refit"):
            found_of(0.9, refit=True).publish(before)
    kept = replace(EXPECTED, refit_mean=0.95)
    assert found_of(0.9).publish(kept).refit_mean == 0.95
    assert found_of(0.9).publish(replace(kept, preset="quick")).refit_mean is None


def test_damaged_results(tmp_path: Path) -> None:
    for text in ("{", "{}"):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"cannot read the result .*; remove the folder to train again"):
            read_run(tmp_path)


def test_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    assert commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "gpunet").mkdir()
    (tmp_path / "gpunet" / "x.py").write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert commit() == head
    (tmp_path / "gpunet" / "x.py").write_text("2")
    assert commit() == f"{head}-dirty"
