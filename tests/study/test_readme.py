"""The tables of results, from the published ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpunet.errors import DataError
from gpunet.experiments.published import Published, load_published
from scripts.study.checkout import FIGURES, PUBLISHED, ROOT
from scripts.study.publish import save_published
from scripts.study.readme import END, PAGES, START, fill_page, main

MLP = Published(0.9051, 0.0012, 5, (0.8992, 0.9107), 0.9071, "best", 109_386, "0123456789abcdef", "some CPU", 0.001)
CNN = replace(MLP, mean=0.94, std=None, seeds=1, tta_mean=None, tta_std=None, refit_mean=0.945, refit_std=0.001)


def test_table(tmp_path: Path) -> None:
    (tmp_path / "cnn_experiments.png").touch()
    text = fill_page(f"before\n{START}\nold\n\\1 {END}\nafter\n", {"cnn": CNN, "mlp": MLP}, tmp_path)
    lines = text.splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in text
    assert lines[4] == (
        "| MLP | 109,386 | 90.51 +- 0.12 | 5 | 89.92-91.07 | 90.71 +- 0.10 |  | `gpunet reproduce mlp` |"
    )
    assert lines[5] == "| CNN | 109,386 | 94.00 | 1 | 89.92-91.07 |  | 94.50 +- 0.10 | `gpunet reproduce cnn` |"
    later = fill_page(text, {"mlp": MLP, "cnn": replace(CNN, commit="f" * 16), "hybrid": MLP}, tmp_path)
    assert "Trained on some CPU, commit 0123456789ab (MLP, hybrid); some CPU, commit ffffffffffff (CNN)." in later
    once = replace(MLP, refit_mean=0.9071, refit_std=None, refit_seeds=1)
    assert "| 90.71 (1 seed) |" in fill_page(text, {"mlp": once}, tmp_path)
    assert "| 90.71 +- 0.10 (3 seeds) |" in fill_page(
        text, {"mlp": replace(once, refit_std=0.001, refit_seeds=3)}, tmp_path
    )
    assert "| 90.71 +- 0.10 |" in fill_page(text, {"mlp": replace(once, refit_std=0.001, refit_seeds=5)}, tmp_path)
    assert "Trained on some CPU, commit 0123456789ab." in text
    assert "![Experiments with the CNN](cnn_experiments.png)" in text and "mlp_experiments" not in text
    assert fill_page(text, {"cnn": CNN, "mlp": MLP}, tmp_path) == text
    assert "not published yet" in fill_page(text, {}, tmp_path)


def test_the_pages_are_what_their_results_make_them() -> None:
    """Else: python -m scripts.study.readme."""
    for name, figures in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert fill_page(text, load_published(ROOT / PUBLISHED), figures and ROOT / figures) == text


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / FIGURES).mkdir(parents=True)
    page, other = tmp_path / "README.md", tmp_path / FIGURES / "README.md"
    for path in (page, other):
        path.write_text(f"above\n{START}\n{END}\n")
    (tmp_path / PUBLISHED).parent.mkdir(parents=True)
    save_published(tmp_path / PUBLISHED, {"mlp": MLP})
    main(tmp_path)
    for path in (page, other):
        assert "| MLP | 109,386 | 90.51 +- 0.12 |" in path.read_text() and path.read_text().startswith("above\n")
    page.write_text("no markers\n")
    with pytest.raises(DataError, match="the page must contain the two lines"):
        main(tmp_path)
