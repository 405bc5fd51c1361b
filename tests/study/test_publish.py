"""Publishing what a preset came to, with presets that train in a moment."""

from __future__ import annotations

import json
import statistics
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from gpunet.errors import ConfigError
from gpunet.experiments.published import Published, load_published
from gpunet.experiments.reproduce import Reproduction, SeedResult
from scripts.study.checkout import PUBLISHED, commit
from scripts.study.publish import main, published_of, save_published

MLP = Published(0.9051, 0.0012, 5, (0.8992, 0.9107), 0.9071, "best", 109_386, "0123456789abcdef", "some CPU", 0.001)
CNN = replace(MLP, mean=0.94, std=None, seeds=1, tta_mean=None, tta_std=None, refit_mean=0.945, refit_std=0.001)


def test_round_trip(tmp_path: Path) -> None:
    save_published(tmp_path / "r.json", {"cnn": CNN, "mlp": MLP})
    assert load_published(tmp_path / "r.json") == {"mlp": MLP, "cnn": CNN}
    document = json.loads((tmp_path / "r.json").read_text())
    assert list(document) == ["mlp", "cnn"]
    wanted = {"mean", "std", "seeds", "interval", "tta_mean", "preset", "parameters", "commit", "device"}
    assert wanted <= document["mlp"].keys()


def test_a_preset_then_its_refit(unpublished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (unpublished / PUBLISHED).parent.mkdir(parents=True)
    save_published(unpublished / PUBLISHED, {"cnn": CNN})
    main(["mlp", "--seeds", "2", "--device", "cpu"], root=unpublished)
    out = capsys.readouterr().out
    assert "seed 1: test accuracy " in out and f"written: {unpublished / PUBLISHED}" in out
    entry = load_published(unpublished / PUBLISHED)["mlp"]
    folders = sorted((unpublished / "runs" / "reproduce").iterdir())
    facts = [json.loads((folder / "result.json").read_text()) for folder in folders]
    accuracies = [fact["test_correct"] / 60 for fact in facts]
    mirrored = [fact["tta_correct"] / 60 for fact in facts]
    assert entry.mean == statistics.fmean(accuracies) and entry.std == statistics.stdev(accuracies)
    assert entry.tta_mean == statistics.fmean(mirrored) and entry.tta_std == statistics.stdev(mirrored)
    assert f"mean: {100 * entry.mean:.2f} +- {100 * entry.std:.2f} %" in out
    assert (entry.seeds, entry.preset, entry.parameters) == (2, "best", 64 * 6 + 6 + 6 * 3 + 3)
    assert entry.commit is None and entry.device

    main(["mlp", "--refit", "--device", "cpu"], root=unpublished)
    refit = load_published(unpublished / PUBLISHED)["mlp"]
    assert refit.refit_mean is not None and refit.refit_seeds == 2
    assert replace(refit, refit_mean=None, refit_std=None, refit_seeds=None, refit_tta_mean=None) == entry
    main(["mlp", "--device", "cpu"], root=unpublished)
    assert load_published(unpublished / PUBLISHED) == {"mlp": refit, "cnn": CNN}, "a refit stays beside its preset"


def found_of(accuracy: float, *, refit: bool = False) -> Reproduction:
    run = SeedResult(0, Path(), round(accuracy * 1000), None, 1000, 0.5, 10)
    return Reproduction("mlp", "best", refit, [run], "a CPU")


def test_refit_of_what_is_not_published() -> None:
    for before in (None, replace(MLP, preset="quick")):
        with pytest.raises(ConfigError, match="publish the preset best of the mlp before its refit"):
            published_of(found_of(0.9, refit=True), before, None)
    kept = replace(MLP, refit_mean=0.95)
    assert published_of(found_of(0.9), kept, "f00").refit_mean == 0.95
    assert published_of(found_of(0.9), replace(kept, preset="quick"), "f00").refit_mean is None
    assert published_of(found_of(0.9), kept, "f00").commit == "f00"


@pytest.mark.parametrize("words", ["", "cn", "mlp --seeds 0", "mlp --seeds x", "mlp --preset quik", "mlp --publish"])
def test_usage(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2 and "error: " in capsys.readouterr().err


def test_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / PUBLISHED).parent.mkdir(parents=True)
    for file in (Path("gpunet") / "x.py", PUBLISHED):
        (tmp_path / file).write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert commit(tmp_path) == head
    (tmp_path / PUBLISHED).write_text("2")
    assert commit(tmp_path) == head, "the published results are no code"
    (tmp_path / "gpunet" / "x.py").write_text("2")
    assert commit(tmp_path) == f"{head}-dirty"
