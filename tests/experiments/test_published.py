"""Published results: their file, and the README made from it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpunet.errors import DataError
from gpunet.experiments import published
from gpunet.experiments.published import END, RESULTS, START, Published, fill_readme, load_published, save_published

ROOT = Path(__file__).parents[2]
MLP = Published(0.9051, 0.0012, 5, (0.8992, 0.9107), 0.9071, "best", 109_386, "0123456789abcdef", "some CPU", 0.001)
CNN = replace(MLP, mean=0.94, std=None, seeds=1, tta_mean=None, tta_std=None, refit_mean=0.945, refit_std=0.001)


def test_round_trip(tmp_path: Path) -> None:
    save_published(tmp_path / "r.json", {"cnn": CNN, "mlp": MLP})
    assert load_published(tmp_path / "r.json") == {"mlp": MLP, "cnn": CNN}
    document = json.loads((tmp_path / "r.json").read_text())
    assert list(document) == ["mlp", "cnn"]
    wanted = {"mean", "std", "seeds", "interval", "tta_mean", "preset", "parameters", "commit", "device"}
    assert wanted <= document["mlp"].keys()


def test_missing_and_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_published(tmp_path / "none.json") == {}
    monkeypatch.setattr(published, "ROOT", tmp_path)
    assert load_published() == {}, "neither in a checkout nor in the package"
    for text in ("{", "[]", '{"mlp": {"mean": 1}}', '{"mlp": 3}'):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(DataError, match=r"r\.json does not hold results of gpunet"):
            load_published(tmp_path / "r.json")


def test_table(tmp_path: Path) -> None:
    (tmp_path / "cnn_experiments.png").touch()
    text = fill_readme(f"before\n{START}\nold\n\\1 {END}\nafter\n", {"cnn": CNN, "mlp": MLP}, tmp_path)
    lines = text.splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in text
    assert lines[4] == (
        "| MLP | 109,386 | 90.51 +- 0.12 | 5 | 89.92-91.07 | 90.71 +- 0.10 |  | `gpunet reproduce mlp` |"
    )
    assert lines[5] == "| CNN | 109,386 | 94.00 | 1 | 89.92-91.07 |  | 94.50 +- 0.10 | `gpunet reproduce cnn` |"
    later = fill_readme(text, {"mlp": MLP, "cnn": replace(CNN, commit="f" * 16), "hybrid": MLP}, tmp_path)
    assert "Made on some CPU, commit 0123456789ab (MLP, hybrid); some CPU, commit ffffffffffff (CNN)." in later
    once = replace(MLP, refit_mean=0.9071, refit_std=None, refit_seeds=1)
    assert "| 90.71 (1 seed) |" in fill_readme(text, {"mlp": once}, tmp_path)
    assert "| 90.71 +- 0.10 (3 seeds) |" in fill_readme(
        text, {"mlp": replace(once, refit_std=0.001, refit_seeds=3)}, tmp_path
    )
    assert "| 90.71 +- 0.10 |" in fill_readme(text, {"mlp": replace(once, refit_std=0.001, refit_seeds=5)}, tmp_path)
    assert "Made on some CPU, commit 0123456789ab." in text
    assert "![Experiments with the CNN](docs/results/cnn_experiments.png)" in text and "mlp_experiments" not in text
    assert fill_readme(text, {"cnn": CNN, "mlp": MLP}, tmp_path) == text
    assert "not published yet" in fill_readme(text, {}, tmp_path)


@pytest.mark.parametrize("text", ["", START, f"{END}\n{START}", f"{START}{START}{END}"])
def test_markers(text: str) -> None:
    with pytest.raises(DataError, match="the README must hold the lines"):
        fill_readme(text, {})


def test_the_readme_is_what_its_results_make_it() -> None:
    """Else: python scripts/readme_results.py."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert fill_readme(text, load_published(ROOT / RESULTS), (ROOT / RESULTS).parent) == text


def test_script(tmp_path: Path) -> None:
    """The script in a checkout of its own."""
    for name in ("gpunet", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    program = (
        "import runpy, pathlib, gpunet.experiments.published as p; p.ROOT = pathlib.Path.cwd(); "
        "runpy.run_path('scripts/readme_results.py', run_name='__main__')"
    )
    (tmp_path / "README.md").write_text(f"{START}\n{END}\n")
    (tmp_path / RESULTS).parent.mkdir(parents=True)
    save_published(tmp_path / RESULTS, {"mlp": MLP})
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert "| MLP | 109,386 | 90.51 +- 0.12 |" in (tmp_path / "README.md").read_text()
