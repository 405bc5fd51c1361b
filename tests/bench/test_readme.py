"""README's speed tables are what the committed result files give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import gpu_check, readme, results
from gpunet.errors import DataError
from tests.bench import samples


def test_the_readme_is_generated() -> None:
    for path, parts in readme.PAGES.items():
        page = path.read_text(encoding="utf-8")
        wanted = readme.filled(page, readme.speed(parts, results.committed()))
        assert page == wanted, "run python -m bench.readme and commit the pages with the result files"


def test_before_anything_was_measured() -> None:
    assert readme.speed(readme.TABLES, []) == readme.NOTHING


def test_the_newest_file_of_each_kind(tmp_path: Path) -> None:
    race = [
        {"case": "cnn-train", "batch": 128, "peer": peer, "ratio": ratio, "low": 0.5, "high": 3.0, "ours_per_s": 4321.0,
         "peer_per_s": 2000.0}
        for peer, ratio in (("pytorch eager NCHW", 2.5), ("pytorch compile NHWC", 0.95), ("scikit-learn", 7.0))
    ]  # fmt: skip
    start = [
        {"case": "mlp-train", "batch": 128, "contestant": "gpunet", "cache": cache, "seconds": seconds, "low": 1.0,
         "high": 20.0, "runs": 2}
        for cache, seconds in (("cold", 15.96), ("", 1.53))
    ]  # fmt: skip
    memory = [
        {"case": "cnn-train", "batch": 512, "contestant": "gpunet", "peak_mb": 1234.4, "before_mb": 1, "steps": 8}
    ]
    found = {"bench": samples.ops(), "race": race, "start-up": start, "memory": memory}
    files = [samples.write(tmp_path, samples.report(kind, of)) for kind, of in found.items()]
    files.append(samples.write(tmp_path, samples.report("race", [], "2025-01-01T00:00:00Z")))  # an older one
    text = readme.speed(readme.TABLES, files)
    rows = {tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in text.splitlines() if line[:1] == "|"}
    assert rows >= {
        ("CNN, training", "128", "pytorch compile NHWC", "0.95", "0.50 to 3.00", "4,321", "2,000"),
        ("CNN, training", "128", "scikit-learn", "7.00", "0.50 to 3.00", "4,321", "2,000"),
        ("conv1, 1 to 32 channels, 28 x 28", "2.50", "", ""),
        ("conv2, 32 to 64 channels, 14 x 14", "0.75", "", ""),
        ("conv2d", "2", "1", "1.62", "0.75 (conv2-32x64@14 forward)", "2.50 (conv1-1x32@28 forward)"),
        ("relu", "1", "0", "1.25", "1.25 (8 forward)", "1.25 (8 forward)"),
        ("MLP, training", "gpunet", "cold", "16.0"),
        ("MLP, training", "gpunet", "none", "1.5"),
        ("CNN, training", "512", "gpunet", "1,234"),
    }
    assert not any("pytorch eager NCHW" in row for row in rows)
    assert "in 3 cases, in 1 of which gpunet is slower:" in text
    place = "Measured on 2026-01-02 on Some CPU (AVX2), 2 cores, 2 threads, 8.0 GB, no GPU; python 3.12.1, numpy 2.4.0;"
    assert readme.speed(readme.STEPS, files).count(place) == 1
    assert text.count(place) == 4 and "(`bench/results/race-2026-01-02.json`)" in text


def test_the_race_on_a_gpu(tmp_path: Path) -> None:
    """The fastest peer counts; a case without one, and what is no case, are left out."""
    times = {
        "gpunet": [200.0, 190.0, 210.0],
        "PyTorch eager": [900.0, 1.0, 999.0],
        "PyTorch graph": [300.0, 1.0, 999.0],
    }
    facts = {
        "PyTorch": "2.11.0",
        "cnn-train, batch 128, float32": times,
        "cnn-train, batch 128, tf32": {**times, "PyTorch graph": [150.0, 140.0, 160.0]},
        "mlp-train, batch 1024, tf32": {"gpunet": [100.0, 100.0, 100.0]},
        "mlp-train, batch 128, tf32": {"PyTorch eager": [9.0, 9.0, 9.0], "PyTorch graph": [9.0, 9.0, 9.0]},
    }
    environment = {"date": "2026-01-02T03:04:05Z", "gpu": "A GPU, 580", "numpy": "2.4.0", "commit": "abc"}
    outcomes = [gpu_check.Outcome("doctor", "passed"), gpu_check.Outcome("race", "passed", facts=facts)]
    path = tmp_path / "gpu-check-2026-01-02.json"
    path.write_text(json.dumps(gpu_check.report(environment, outcomes)))
    table = readme.speed({"gpu-check": readme.gpu_steps}, [path])
    rows = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in table.splitlines() if line[:1] == "|"]
    assert rows[2:] == [
        ("CNN, training", "128", "float32", "PyTorch graph", "1.50", "640,000", "426,667"),
        ("CNN, training", "128", "tf32", "PyTorch graph", "0.75", "640,000", "853,333"),
    ]
    assert (
        "Measured on 2026-01-02 on A GPU; numpy 2.4.0; commit abc (`bench/results/gpu-check-2026-01-02.json`)" in table
    )
    failed = gpu_check.Outcome("race", "failed")
    for without in ([], [failed]):
        assert readme.gpu_cases(gpu_check.report(environment, without)) == []
    sentence = readme.speed({"gpu-check": readme.gpu_sentence}, [path])
    assert "(PyTorch graph) in float32 and in TF32 are: CNN, training with 128 images 1.50 and 0.75 (" in sentence


def test_filling() -> None:
    page = f"above\n{readme.BEGIN}\nold\n{readme.END}\nbelow\n"
    filled = readme.filled(page, "new\n")
    assert filled == f"above\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nbelow\n"
    assert readme.filled(filled, "new\n") == filled


def test_without_the_comments() -> None:
    with pytest.raises(DataError, match="must contain the two lines"):
        readme.filled(readme.BEGIN, "")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"{readme.BEGIN}{readme.END}")
    monkeypatch.setattr(readme, "PAGES", {page: readme.TABLES})
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "committed", list)
    assert readme.main(["--check"]) == 1
    assert "run python -m bench.readme" in capsys.readouterr().err
    assert readme.main([]) == 0 and readme.NOTHING in page.read_text()
    assert readme.main(["--check"]) == 0
