"""Published numbers made again, with presets that train in a moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from gpunet.cli.main import main
from gpunet.errors import CheckpointError
from gpunet.experiments import reproduce
from gpunet.experiments.published import Published
from gpunet.experiments.reproduce import Reproduction, SeedResult, agreement, read_run
from gpunet.training.checkpoint import load_checkpoint
from gpunet.training.trainer import Trainer

EXPECTED = Published(0.9, 0.01, 5, (0.89, 0.91), None, "best", 10, None, "a CPU")


def gpunet(*words: object) -> int:
    return main([*map(str, words), "--device", "cpu", "-q"])


def publish(unpublished: Path, entry: Published) -> None:
    file = unpublished / "gpunet" / "experiments" / "published.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"mlp": asdict(entry)}))


def test_nothing_is_published_then_it_is_reproduced(
    unpublished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpunet("reproduce", "mlp", "--seeds", 2) == 0
    out = capsys.readouterr().out
    assert "expected: no results are published for this preset yet" in out and "seed 1: test accuracy " in out
    folders = sorted((unpublished / "runs" / "reproduce").iterdir())
    facts = [json.loads((folder / "result.json").read_text()) for folder in folders]
    accuracies = [fact["test_correct"] / 60 for fact in facts]
    entry = replace(EXPECTED, mean=statistics.fmean(accuracies), std=statistics.stdev(accuracies), seeds=2)
    publish(unpublished, entry)

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

    assert gpunet("reproduce", "mlp", "--refit") == 0
    assert "expected: no results are published for a refit yet" in capsys.readouterr().out
    assert len(list((unpublished / "runs" / "reproduce").glob("mlp-best-refit-seed*"))) == 2
    refit = replace(entry, refit_mean=0.5, refit_std=0.01, refit_seeds=3, refit_tta_mean=0.625)
    publish(unpublished, refit)
    assert gpunet("reproduce", "mlp", "--refit", "--seeds", 2) == 0
    out = capsys.readouterr().out
    assert "expected: test accuracy 50.00 +- 1.00 % over 3 seeds" in out and "with mirror images: 62.50 %" in out


def test_a_stopped_run_goes_on(
    unpublished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpunet.training import trainer

    save = trainer.Trainer._save_last

    def interrupted(self: trainer.Trainer) -> None:
        save(self)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_save_last", interrupted)
        assert gpunet("reproduce", "mlp", "--seeds", 1) == 130
    assert "finished runs are kept; continue with the same command" in capsys.readouterr().err
    (folder,) = (unpublished / "runs" / "reproduce").iterdir()
    first = (folder / "metrics.jsonl").read_text()
    assert gpunet("reproduce", "mlp", "--seeds", 1) == 0
    assert (folder / "metrics.jsonl").read_text().startswith(first) and first.count("\n") == 1


def test_mcnemar_between_hybrid_and_cnn(unpublished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpunet("reproduce", "hybrid", "--seeds", 1) == 0
    assert "run gpunet reproduce cnn, then this command again" in capsys.readouterr().out
    assert gpunet("reproduce", "cnn", "--seeds", 1) == 0
    assert gpunet("reproduce", "hybrid", "--seeds", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["mcnemar"]
    right = {}
    for kind in ("cnn", "hybrid"):
        (folder,) = (unpublished / "runs" / "reproduce").glob(f"{kind}-best-seed0-*")
        with np.load(folder / "test_predictions.npz") as arrays:
            right[kind] = arrays["labels"] == arrays["predictions"]
    cnn, hybrid = (int((right[a] & ~right[b]).sum()) for a, b in (("cnn", "hybrid"), ("hybrid", "cnn")))
    expected = binomtest(hybrid, cnn + hybrid).pvalue if cnn + hybrid else 1.0
    assert found == {"0": {"only_first": cnn, "only_second": hybrid, "p_value": pytest.approx(expected)}}
    assert gpunet("reproduce", "hybrid", "--seeds", 1) == 0
    assert (
        f"{hybrid} images classified correctly only by the hybrid, {cnn} only by the CNN: McNemar's p = "
        in capsys.readouterr().out
    )


def test_a_hybrid_begins_with_the_cnn_that_is_there(unpublished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_weights() -> dict[str, np.ndarray]:
        (folder,) = (unpublished / "runs" / "reproduce").glob("hybrid-best-seed0-*")
        return load_checkpoint(folder / "checkpoint.safetensors")[0]

    assert gpunet("reproduce", "hybrid", "--seeds", 1) == 0
    alone = last_weights()
    shutil.rmtree(unpublished / "runs")
    assert gpunet("reproduce", "cnn", "--seeds", 1) == 0
    trained: list[int] = []
    run_epoch = Trainer._run_epoch
    monkeypatch.setattr(
        Trainer,
        "_run_epoch",
        lambda self, *interrupts: trained.append(len(self.flat.values)) or run_epoch(self, *interrupts),
    )
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


def test_damaged_results(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no .*result\.json; remove the folder to train again"):
        read_run(tmp_path)
    for text in ("{", "{}", "[]", "3"):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(
            CheckpointError,
            match=r"the result of a run: .*result\.json.*; remove the folder",
        ):
            read_run(tmp_path)
