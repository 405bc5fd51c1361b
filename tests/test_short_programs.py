"""The cells of docs/short_programs.md: each runs, and has as many statements as the page says, two at most."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).resolve().parents[1] / "docs" / "short_programs.md"
TEXT = PAGE.read_text(encoding="utf-8")
CELLS = re.findall(r"^## (.+?)\n\n```python\n(.*?)```", TEXT, flags=re.MULTILINE | re.DOTALL)
NEEDED = {"ONNX": ("onnx", "onnx_ir"), "Weights to PyTorch": ("torch",)}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the cells share: arrays of two classes, bright and dark, and the folder of pictures of them."""
    folder = tmp_path_factory.mktemp("short")
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    images = (rng.integers(0, 120, (24, 16, 16, 3)) + 120 * labels[:, None, None, None]).astype(np.uint8)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "photos" / ("cat", "dog")[label] / f"{number // 2 + 1}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return {"folder": folder, "X": images[:16], "y": labels[:16], "X_test": images[16:], "y_test": labels[16:]}


def counted(code: str) -> int:
    """The statements of a cell, imports apart."""
    return sum(not isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(code).body)


def test_the_table_counts_the_statements_of_the_cells() -> None:
    rows = re.findall(r"^\| \[.*?\]\(#(.+?)\) \| (\d+) \|", TEXT, re.MULTILINE)
    table = {anchor: int(count) for anchor, count in rows}
    anchors = {title.lower().replace(" ", "-"): counted(code) for title, code in CELLS}
    assert table == anchors and len(table) == 9 and max(table.values()) <= 2


@pytest.mark.parametrize(("title", "code"), CELLS, ids=[title for title, _ in CELLS])
def test_cell(
    title: str, code: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the page: a cell may use what those before it have made."""
    missing = [name for name in NEEDED.get(title, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: pip install -e '.[peers]'")
    monkeypatch.chdir(names["folder"])
    monkeypatch.setenv("GPUNET_DEVICE", "cpu")
    if title not in ("A folder of pictures", "Probabilities from arrays") and "result" not in names:
        for first, cell in CELLS[:3]:  # this test alone
            exec(compile(cell, first, "exec"), names)
    exec(compile(code, title, "exec"), names)
    check = CHECKS.get(title)
    if check is not None:
        check(names)
    if title == "A table of the classes":
        assert re.search(r"\n +dog +\d\.\d\d", capsys.readouterr().out)


def probabilities(names: dict[str, Any]) -> None:
    assert names["probabilities"].shape == (1, 2) and names["classes"].shape == (1,)


def curves(names: dict[str, Any]) -> None:
    assert [record["epoch"] for record in names["result"].history] == [1, 2]


def module(names: dict[str, Any]) -> None:
    """PyTorch's logits of scaled pictures are gpunet's up to rounding."""
    import torch

    saved = names["result"].load()
    x = saved.pixel_scaling.apply(names["X_test"])
    found = names["module"](torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).softmax(1)
    np.testing.assert_allclose(found.detach().numpy(), saved.predict_proba(names["X_test"]), rtol=0, atol=1e-5)


CHECKS = {
    "A folder of pictures": lambda names: (names["result"].run_dir / "result.json").stat(),
    "Saved and loaded": probabilities,
    "Curves in a notebook": curves,
    "ONNX": lambda names: (names["folder"] / "model.onnx.json").stat(),
    "Weights to PyTorch": module,
}
