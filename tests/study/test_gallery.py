"""The gallery and its conclusions, from tables whose numbers are known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from gpunet.errors import CheckpointError, DataError
from gpunet.sweep import Row, Sweep, load_sweep, write_table
from gpunet.sweep.table import FAILED, OK, Outcome
from gpunet.training import save_checkpoint
from scripts.study.conclusions import reference_label, section
from scripts.study.gallery import main, make_gallery

DECLARATION = """
[sweep]
question = "Which activation?"
seeds = [0, 1]
[base]
kind = "mlp"
preset = "baseline"
[axes]
activation = ["tanh", "relu", "gelu"]
"""
ACCURACIES = {"tanh": (0.80, 0.82), "relu": (0.84, 0.86), "gelu": (0.90, 0.91)}


def rows_of(sweep: Sweep, accuracies: dict[str, tuple[float | None, ...]]) -> list[Row]:
    (axis,) = sweep.axes
    rows: list[Row] = []
    for value, seeds in accuracies.items():
        for seed, accuracy in enumerate(seeds):
            outcome = Outcome(FAILED, error="no") if accuracy is None else Outcome(OK, accuracy, 0.5, 1, "", 2, 3)
            rows.append(Row(len(rows) + 1, {axis.name: value}, seed, outcome))
    return rows


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    folder = tmp_path / "declared"
    folder.mkdir()
    (folder / "mlp_activations.toml").write_text(DECLARATION)
    (folder / "cnn_pooling.toml").write_text(
        DECLARATION.replace("mlp", "cnn").replace('activation = ["tanh", "relu", "gelu"]', 'pooling = ["max", "none"]')
    )
    return folder


@pytest.fixture
def sweep(declared: Path) -> Sweep:
    return load_sweep(declared / "mlp_activations.toml")


def test_conclusions_in_words(sweep: Sweep) -> None:
    lines = section(sweep, rows_of(sweep, ACCURACIES))
    assert lines[0] == "### Which activation?"
    assert "preset baseline, 20 epochs, all training images, 2 seeds" in lines[2]
    # The pooled variance is (2 + 2 + 0.5) / 3 = 1.5 points^2, so the difference of two means of two has the standard
    # error sqrt(1.5) = 1.22 points. Dunnett's two-sided 5 % bound for two comparisons and 3 degrees of freedom is 3.86
    # (by simulation of 4 million draws): 4.73 points. Two t-tests (3.18: 3.90 points) would call both clear.
    assert lines[4:9] == [
        "| activation | mean (%) | spread | seeds | difference (points) |",
        "|---|---|---|---|---|",
        "| tanh | 81.00 | 1.41 | 2 | -4.00 |",
        "| relu | 85.00 | 1.41 | 2 | reference |",
        "| gelu | 90.50 | 0.71 | 2 | **+5.50** |",
    ]
    assert lines[10] == (
        "Highest mean **gelu**, 90.50 %. Clearly better than activation relu: gelu (+5.50). "
        "No clear difference from activation relu: tanh (-4.00)."
    )


def test_conclusions_are_careful(sweep: Sweep) -> None:
    def answer(accuracies: dict[str, tuple[float | None, ...]]) -> str:
        return section(sweep, rows_of(sweep, accuracies))[-1]

    near = answer({"tanh": (0.80, 0.82), "relu": (0.84, 0.86), "gelu": (0.83, 0.89)})
    assert (
        near == "Highest mean **gelu**, 86.00 %. No clear difference from activation relu: tanh (-4.00); gelu (+1.00)."
    )
    best = answer({"tanh": (0.80, 0.82), "relu": (0.94, 0.96), "gelu": (0.93, 0.95)})
    assert best.startswith(
        "Highest mean **relu**, 95.00 % (the reference). Clearly worse than activation relu: tanh (-14.00)."
    )
    same = answer({"tanh": (0.8, 0.8), "relu": (0.9, 0.9), "gelu": (0.9, 0.9)})
    assert same.endswith(
        "Clearly worse than activation relu: tanh (-10.00). No clear difference from activation relu: gelu (+0.00)."
    )
    one = section(sweep, rows_of(sweep, {"relu": (0.8,), "gelu": (0.9,)}))
    assert one[-1] == "Highest mean **gelu**, 90.00 %. With a single seed, no difference can be called clear."
    assert "4 of its 6 trials have not been run yet." in one
    lost = section(sweep, rows_of(sweep, {"tanh": (None, None), "relu": (0.8, None), "gelu": (0.9, 0.9)}))
    assert "| tanh | failed | | | |" in lost and "| relu (1 failed) | 80.00 |  | 1 | reference |" in lost
    # where relu failed, gelu does without the same seed
    assert lost[-1].endswith("no difference can be called clear. Training failed with tanh.")
    assert "| gelu | 90.00 |  | 1 | +10.00 |" in lost
    assert answer({"relu": (None, None)}) == "Training failed with relu."
    unknown = answer({"relu": (None, None), "tanh": (0.8, 0.8), "gelu": (0.9, 0.9)})
    assert unknown == "Highest mean **gelu**, 90.00 %. Training failed with relu."


def test_conclusions_of_two_axes(tmp_path: Path) -> None:
    path = tmp_path / "mlp_both.toml"
    path.write_text(DECLARATION.replace('["tanh", "relu", "gelu"]', '["tanh", "relu"]') + "dropout = [0.0, 0.2]\n")
    sweep = load_sweep(path)
    found = {("tanh", "0"): (0.7, 0.8), ("tanh", "0.2"): (0.9, 0.9), ("relu", "0"): (0.5, None)}
    rows = [
        Row(
            0, {"activation": a, "dropout": d}, seed, Outcome(FAILED) if x is None else Outcome(OK, x, 0.5, 1, "", 2, 3)
        )
        for (a, d), accuracies in found.items()
        for seed, x in enumerate(accuracies)
    ]
    lines = section(sweep, rows)
    table = lines.index("| activation | dropout 0 | dropout 0.2 |")
    assert lines[table + 1 : table + 4] == [
        "|---|---|---|",
        "| tanh | 75.00 +- 7.07 | 90.00 +- 0.00 |",
        "| relu | 50.00 |  |",
    ]
    assert lines[-7:-1:2] == [
        "dropout, with activation tanh: Highest mean **0.2**, 90.00 % (the reference). "
        "No clear difference from dropout 0.2: 0 (-15.00).",
        "dropout, with activation relu: Highest mean **0**, 50.00 %.",
        # where relu failed, tanh does without the same seed and dropout: (0.7 + 0.9) / 2 and 0.9
        "activation, averaged over dropout: Highest mean **tanh**, 85.00 %. "
        "No clear difference from activation relu: tanh (+35.00).",
    ]
    assert lines[-1] == "The best combination was activation tanh, dropout 0.2: 90.00 % over 2 seeds."


def test_reference_is_the_base(sweep: Sweep) -> None:
    assert reference_label(sweep, sweep.axes[0]) == "relu", "of the preset baseline"


def test_gallery(
    declared: Path,
    sweep: Sweep,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, out = tmp_path / "sweeps" / "mlp_activations", tmp_path / "out"
    folder.mkdir(parents=True)
    write_table(folder / "table.csv", ["activation"], rows_of(sweep, ACCURACIES))
    (folder / "sweep.toml").write_text("# an older comment\n" + DECLARATION)
    words = ["--declared", str(declared), "--sweeps", str(tmp_path / "sweeps"), "--out", str(out)]
    main(words)
    captured = capsys.readouterr()
    assert "the sweep cnn_pooling has not been run: gpunet sweep" in caplog.text
    names = {
        "mlp_activations.csv",
        "mlp_activations.png",
        "mlp_experiments.png",
        "mlp_experiments.csv",
        "conclusions.md",
    }
    assert {path.name for path in out.iterdir()} == names == {Path(line).name for line in captured.out.split()}
    assert (out / "mlp_activations.csv").read_bytes() == (folder / "table.csv").read_bytes()
    page = (out / "conclusions.md").read_text()
    assert "\n## MLP" in page and "CNN" not in page
    assert "- Which activation? Highest mean **gelu**, 90.50 %. Clearly better" in page[: page.index("## MLP")]
    with (out / "mlp_experiments.csv").open(newline="") as file:
        gelu = list(csv.DictReader(file))[2]
    assert gelu == {
        "sweep": "mlp_activations", "axis": "activation", "value": "gelu", "seeds": "2", "mean": "0.905000",
        "std": "0.007071", "difference": "0.055000", "failed": "0",
    }  # fmt: skip

    # again from what it wrote, where there are no sweeps
    before = {name: (out / name).read_bytes() for name in names}
    (folder / "table.csv").unlink()
    gallery = make_gallery(declared, tmp_path / "sweeps", out)
    assert [found.name for found, _ in gallery.sweeps] == ["mlp_activations"] and gallery.missing == ["cnn_pooling"]
    assert {name: (out / name).read_bytes() for name in names} == before


def test_tables_that_do_not_belong(declared: Path, sweep: Sweep, tmp_path: Path) -> None:
    folder, out = tmp_path / "sweeps" / "mlp_activations", tmp_path / "out"
    folder.mkdir(parents=True)
    write_table(folder / "table.csv", ["activation"], rows_of(sweep, ACCURACIES))
    (folder / "sweep.toml").write_text(DECLARATION.replace('"gelu"', '"gelu_tanh"'))
    with pytest.raises(
        DataError, match="belongs to another version of the sweep mlp_activations: run gpunet sweep again"
    ):
        make_gallery(declared, tmp_path / "sweeps", out)
    (folder / "table.csv").unlink()
    write_table(out / "mlp_activations.csv", ["dropout"], [])
    with pytest.raises(DataError, match="varies dropout, but the sweep mlp_activations activation"):
        make_gallery(declared, tmp_path / "sweeps", out)
    with pytest.raises(DataError, match="there is no declared sweep in"):
        make_gallery(tmp_path, tmp_path / "sweeps", out)


def test_confusion_of_the_hybrid(declared: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 3, (2, 100))
    run_dir, out = tmp_path / "run", tmp_path / "out"
    run_dir.mkdir()
    with pytest.raises(CheckpointError, match="there is no run folder or checkpoint none"):
        main(["--out", str(out), "--hybrid", "none"])
    assert not out.exists()
    with pytest.raises(CheckpointError, match="is not the folder of a finished run"):
        make_gallery(declared, tmp_path / "none", out, hybrid=run_dir)
    np.savez(
        run_dir / "test_predictions.npz", labels=labels.astype(np.uint16), predictions=predictions.astype(np.uint16)
    )
    save_checkpoint(run_dir / "checkpoint.safetensors", {"x": np.zeros(1)}, {"class_names": ["a", "b", "c"]})
    make_gallery(declared, tmp_path / "none", out, hybrid=run_dir)
    expected = confusion_matrix(labels, predictions)
    with (out / "hybrid_confusion.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["true \\ predicted", "a", "b", "c"]
    assert [[int(cell) for cell in row[1:]] for row in rows] == expected.tolist()
    with (out / "hybrid_per_class.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    measures = precision_recall_fscore_support(labels, predictions)
    for name, values in zip(("precision", "recall", "f1", "images"), measures, strict=True):
        np.testing.assert_allclose([float(row[name]) for row in table], values, atol=5e-7)
    assert (out / "hybrid_experiments.png").exists()
    (out / "hybrid_confusion.csv").write_text("x,a,b\na,1,2\n")
    with pytest.raises(DataError, match="is not a confusion matrix"):
        make_gallery(declared, tmp_path / "none", out)
