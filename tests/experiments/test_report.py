"""Reports of runs: whole pages that load nothing, with the figures that scikit-learn, SciPy and plain loops give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from gpunet.cli.main import main
from gpunet.errors import CheckpointError, DataError, OutputError
from gpunet.experiments import report as reports
from gpunet.experiments.config import load
from gpunet.experiments.inference import load_model
from gpunet.experiments.prepare import RunData
from gpunet.experiments.report import compare, report
from gpunet.experiments.run import train
from gpunet.report.run_report import penultimate
from gpunet.training.checkpoint import load_checkpoint, save_checkpoint
from tests.experiments.conftest import CLASS_NAMES, Trained
from tests.experiments.saved_runs import part, probabilities, wilson
from tests.report.pages import Page, assert_self_contained, pixels
from tests.support import assert_close

KINDS = ("mlp", "cnn", "hybrid")


@pytest.fixture(scope="module")
def pages(trained: Trained) -> dict[str, Page]:
    """The report of each run on its validation images."""
    for folder in trained.folders.values():
        assert report(folder).path == folder / "report.html"
    return {kind: Page(folder / "report.html") for kind, folder in trained.folders.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_holds_all_it_shows(pages: dict[str, Page], kind: str) -> None:
    page = pages[kind]
    assert_self_contained(page)
    for name in CLASS_NAMES:
        assert name in page.text, "as text, not as an element"
    assert "default-src 'none'" in page.source


@pytest.mark.parametrize("kind", KINDS)
def test_classes_and_confusion_are_scikit_learns(trained: Trained, pages: dict[str, Page], kind: str) -> None:
    table, labels = probabilities(trained, trained.folders[kind])
    predictions = table.argmax(axis=1)
    assert 0 < (predictions == labels).sum() < len(labels), "neither all right nor all wrong"
    expected = precision_recall_fscore_support(labels, predictions, labels=range(3), zero_division=0.0)
    _, *rows, mean = pages[kind].tables["classes-table"]
    assert [row[0][0] for row in rows] == list(CLASS_NAMES)
    for column, values in enumerate(expected[:3], 1):
        assert_close(np.array([float(row[column][1] or "") for row in rows]), values)
        assert [row[column][0] for row in rows] == [f"{100 * value:.2f}" for value in values]
        assert mean[column][0] == f"{100 * values.mean():.2f}"
    assert [row[4][0] for row in rows] == [str(support) for support in expected[3]]

    matrix = confusion_matrix(labels, predictions, labels=range(3))
    shown = [[int(cell[0] or 0) for cell in row[1:]] for row in pages[kind].tables["table 0"][1:]]
    assert shown == matrix.tolist()
    off = {
        (CLASS_NAMES[i], CLASS_NAMES[j]): int(matrix[i, j])
        for i in range(3)
        for j in range(3)
        if i != j
        if matrix[i, j]
    }
    confusions = pages[kind].tables["confusions-table"][1:]
    assert {(row[0][0], row[1][0]): int(row[2][1] or "") for row in confusions} == off
    counts = [int(row[2][1] or "") for row in confusions]
    assert counts == sorted(counts, reverse=True)
    assert_close(
        np.array([float(row[3][1] or "") for row in confusions]),
        np.array([off[row[0][0], row[1][0]] / matrix[CLASS_NAMES.index(row[0][0])].sum() for row in confusions]),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_headline(trained: Trained, pages: dict[str, Page], kind: str) -> None:
    folder, text = trained.folders[kind], pages[kind].text
    table, labels = probabilities(trained, folder)
    correct, total = int((table.argmax(axis=1) == labels).sum()), len(labels)
    assert f"Validation accuracy {100 * correct / total:.2f} % {wilson(correct, total)}; 48 images" in text
    recorded = json.loads((folder / "result.json").read_text())
    share = 100 * recorded["test_correct"] / 60
    assert f"Test accuracy {share:.2f} % {wilson(recorded['test_correct'], 60)}; 60 images, evaluated once" in text
    assert f"Parameters {recorded['parameters']:,}" in text
    assert f"Epochs {recorded['epochs']} weights of" in text

    confidence, right, error = table.max(axis=1), table.argmax(axis=1) == labels, 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    # the report's probabilities are float32: an image at the edge of a bin could change it, but none is there
    assert np.abs(confidence[:, None] - np.arange(1, 15) / 15).min() > 1e-6
    assert f"The expected calibration error is {100 * error:.2f} %" in text
    assert f"The mean confidence is {100 * confidence.mean():.2f} %" in text
    assert f"Peak memory of the process on the host: {recorded['peak_memory_bytes'] / 2**20:,.0f} MiB" in text


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_are_the_most_confident_with_their_images(trained: Trained, pages: dict[str, Page], kind: str) -> None:
    folder = trained.folders[kind]
    table, labels = probabilities(trained, folder)
    images, _ = part(trained, folder, "validation")
    predictions = table.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    confidence = table.max(axis=1)
    shown = [(int(alt.split()[1]), uri) for alt, uri in pages[kind].images if alt.startswith("Image ")]
    chosen = [index for index, _ in shown]
    assert set(chosen) <= set(wrong.tolist()) and len(set(chosen)) == len(chosen) == min(24, len(wrong))
    # not the indices: some images may have the same confidence
    np.testing.assert_allclose(confidence[chosen], np.sort(confidence[wrong])[::-1][:24], rtol=1e-5)
    for index, uri in shown:
        np.testing.assert_array_equal(pixels(uri), images[index, ..., 0])
    first = chosen[0]
    assert (
        f"{CLASS_NAMES[predictions[first]]} {100 * confidence[first]:.1f} % "
        f"true: {CLASS_NAMES[labels[first]]} {100 * table[first, labels[first]]:.1f} %"
    ) in pages[kind].text


def test_pictures_of_each_model(trained: Trained, pages: dict[str, Page]) -> None:
    def shapes(kind: str, start: str) -> list[tuple[int, ...]]:
        return [pixels(uri).shape for alt, uri in pages[kind].images if alt.startswith(start)]

    assert shapes("mlp", "Filter") == [(10, 12, 4)] * 6
    assert "Feature maps" not in pages["mlp"].text
    for kind in ("cnn", "hybrid"):
        assert shapes(kind, "Filter") == [(3, 3, 4)] * 4
        assert shapes(kind, "block1, channel") == [(5, 6, 4)] * 4
        assert shapes(kind, "block2, channel") == [(2, 3, 4)] * 8
    filters = [int(alt.split()[1]) for alt, _ in pages["cnn"].images if alt.startswith("Filter")]
    weight = load_model(trained.folders["cnn"], "cpu").model.layers["block1"].layers["conv"].weight.value
    assert filters == np.argsort(-(weight**2).sum(axis=(0, 1, 2))).tolist()


@pytest.mark.parametrize(("kind", "width"), [("mlp", 6), ("cnn", 54), ("hybrid", 5)])
def test_features(trained: Trained, pages: dict[str, Page], kind: str, width: int) -> None:
    saved = load_model(trained.folders[kind], "cpu")
    images, _ = part(trained, trained.folders[kind], "validation")
    x = (images * saved.scaling.scale + saved.scaling.offset).astype(np.float32)
    features = penultimate(saved.model)(x).reshape(len(x), -1)
    layers = dict(saved.model.named_layers())
    last = [layer for layer in layers.values() if type(layer).__name__ == "Linear"][-1]
    np.testing.assert_allclose(last(features), saved.model(x), rtol=1e-4, atol=1e-5)
    shares = PCA(2, svd_solver="full").fit(features.astype(np.float64)).explained_variance_ratio_
    assert f"{width} values per image, for 48 validation images" in pages[kind].text
    assert f"components, {100 * shares[0]:.1f} % and {100 * shares[1]:.1f} % of the variance" in pages[kind].text


def test_records_and_configuration(trained: Trained, pages: dict[str, Page]) -> None:
    folder = trained.folders["hybrid"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    _, *rows = pages["hybrid"].tables["epochs-table"]
    assert [(row[0][0], row[1][0]) for row in rows] == [(line["stage"], str(line["epoch"])) for line in lines]
    assert [row[6][1] for row in rows] == [str(line["validation_accuracy"]) for line in lines]
    for line in (folder / "summary.txt").read_text().splitlines():
        assert " ".join(line.split()) in pages["hybrid"].text
    environment = json.loads((folder / "environment.json").read_text())
    assert f"numpy {environment['numpy']}" in pages["hybrid"].text and environment["split_sha256"] in pages["cnn"].text
    options = {
        row[0][0]: tuple(cell for cell, _ in row[1:]) for name, rows in pages["mlp"].tables.items() for row in rows
    }
    assert options["hidden"] == ("6", "128 64"), "the default stands behind"
    assert options["momentum"] == ("0.9", "") and options["epochs"] == ("2", "80")


def test_the_test_images_are_read_only_when_asked_for(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = RunData.part
    monkeypatch.setattr(RunData, "part", lambda self, name: read.append(name) or whole(self, name))
    report(trained.folders["mlp"], out=tmp_path / "a.html")
    compare([trained.folders["mlp"], trained.folders["cnn"]], out=tmp_path / "b.html")
    assert set(read) == {"validation"}

    found = report(trained.folders["mlp"], out=tmp_path / "c.html", split="test")
    table, labels = probabilities(trained, trained.folders["mlp"], "test")
    correct = int((table.argmax(axis=1) == labels).sum())
    assert found.runs == {str(trained.folders["mlp"]): (correct, 60)}
    text = Page(tmp_path / "c.html").text
    assert (
        f"Test accuracy {100 * correct / 60:.2f} % {wilson(correct, 60)}; 60 images, evaluated for this report" in text
    )
    recorded = json.loads((trained.folders["mlp"] / "result.json").read_text())["validation_accuracy"]
    assert f"Validation accuracy {100 * recorded:.2f} % as recorded in training" in text


def test_the_recorded_test_accuracy_is_shown_as_it_is(copied: Path) -> None:
    result = json.loads((copied / "result.json").read_text())
    (copied / "result.json").write_text(json.dumps({**result, "test_correct": 7, "test_total": 9}))
    report(copied)
    assert f"Test accuracy 77.78 % {wilson(7, 9)}; 9 images, evaluated once" in Page(copied / "report.html").text


def test_command(
    trained: Trained, copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied.parent)
    table, labels = probabilities(trained, copied)
    accuracy = (table.argmax(axis=1) == labels).mean()
    assert main(["report", str(copied), "-q", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"report: {copied / 'report.html'}\n" and (copied / "report.html").exists()
    other = str(trained.folders["mlp"])
    assert main(["report", str(copied), other, "-q", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == "comparison.html" and Path("comparison.html").exists() and found["split"] == "validation"
    assert found["runs"] == [{"run": str(copied), "accuracy": accuracy}, {"run": other, "accuracy": accuracy}]
    assert main(["report", str(copied), "-q", "--device", "cpu", "--data", "gone.npz"]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"gpunet: error: the data set {Path.cwd()}/gone.npz of the run") and error.count("\n") == 1


def test_events_of_each_stage_of_a_hybrid(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install -e '.[tensorboard]'")
    run_dir = Path(shutil.copytree(trained.folders["hybrid"], tmp_path / "hybrid"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpunet.experiments.run.plot_run", lambda *arguments: None)
        config = load(run_dir / "config.toml")
        train(config, run_dir=run_dir, device="cpu", resume=True, progress=False, tensorboard=True)
    stages = sorted(path.parent.parent.name for path in run_dir.rglob("events.out.tfevents.*"))
    assert stages == ["1-cnn", "2-classifier", "3-joint"]


def test_an_unfinished_run(copied: Path) -> None:
    for name in ("result.json", "environment.json"):
        (copied / name).unlink()
    first, _ = (copied / "metrics.jsonl").read_text().splitlines()
    (copied / "metrics.jsonl").write_text(f'{first}\n{{"epoch": 2, "ste')
    report(copied)
    page = Page(copied / "report.html")
    assert_self_contained(page)
    assert "This run is not finished: 1 of 2 epochs are recorded." in page.text
    assert "Test accuracy" not in page.text and "Nothing is recorded." in page.text
    (copied / "metrics.jsonl").unlink()
    report(copied)
    assert "No epochs are recorded." in Page(copied / "report.html").text


def test_tsne_and_stages_of_a_hybrid(trained: Trained, tmp_path: Path) -> None:
    report(trained.folders["hybrid"] / "stages" / "1-cnn", out=tmp_path / "a.html", tsne=True)
    page = Page(tmp_path / "a.html")
    assert_self_contained(page)
    assert "t-SNE of 48 images" in page.text


def test_data_that_have_moved(trained: Trained, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "find", lambda: None)
    with pytest.raises(
        DataError, match=r"is not on this machine: download it with gpunet data fetch, or give .*--data"
    ):
        report(copied, data="fashion-mnist")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"the data set {tmp_path}/gone.npz of .* does not exist: give its path"):
        report(copied, data="gone.npz")
    assert not (copied / "report.html").exists()
    with np.load(trained.data) as arrays:
        parts = dict(arrays)
    np.savez(tmp_path / "moved.npz", **parts)
    report(copied, data=str(tmp_path / "moved.npz"))
    np.savez(tmp_path / "other.npz", **{**parts, "y_train": np.roll(parts["y_train"], 1)})
    with pytest.raises(DataError, match=r"is not the one that the run .* was trained on: its split"):
        report(copied, data=str(tmp_path / "other.npz"))
    np.savez(tmp_path / "small.npz", **{**parts, "x_train": parts["x_train"][:, 1:], "x_test": parts["x_test"][:, 1:]})
    with pytest.raises(DataError, match=r"takes images \(10, 12, 1\) of 3 classes, but .* has images \(9, 12, 1\)"):
        report(copied, data=str(tmp_path / "small.npz"))


def test_folders_that_are_no_runs(trained: Trained, copied: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run folder: a report needs a folder written by gpunet train"):
        report(copied / "checkpoint.safetensors")
    with pytest.raises(CheckpointError, match=r"contains no trained model: there is no checkpoint\.safetensors$"):
        report(tmp_path)
    (copied / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"result\.json cannot be read as JSON"):
        report(copied)
    (copied / "result.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"result\.json is not a JSON object"):
        report(copied)
    (copied / "result.json").unlink()
    (copied / "metrics.jsonl").write_text("no JSON\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be read as one line of JSON per epoch"):
        report(copied)
    (copied / "checkpoint.safetensors").unlink()
    with pytest.raises(CheckpointError, match="finish the run with gpunet train --resume"):
        report(copied)
    with pytest.raises(OutputError, match=r"the folder .* does not exist"):
        report(trained.folders["mlp"], out=tmp_path / "missing" / "a.html")
    twice = trained.folders["mlp"]
    with pytest.raises(CheckpointError, match="is given twice"):
        compare([twice, twice.parent / "." / twice.name], out=tmp_path / "a.html")
    assert not list(tmp_path.glob("*.html"))


def test_comparison(trained: Trained, tmp_path: Path) -> None:
    folders = [trained.folders[kind] for kind in KINDS]
    found = compare(folders, out=tmp_path / "c.html")
    page = Page(tmp_path / "c.html")
    assert_self_contained(page, pictures=False)
    right = {}
    for kind, folder in trained.folders.items():
        table, labels = probabilities(trained, folder)
        right[f"{kind}-1"] = table.argmax(axis=1) == labels
        loss = -np.log(table[np.arange(48), labels]).mean()
        correct = int(right[f"{kind}-1"].sum())
        assert found.runs[str(folder)] == (correct, 48)
        head, *rows = page.tables["runs-table"]
        row = dict(zip((name for name, _ in head), next(row for row in rows if row[0][0] == f"{kind}-1"), strict=True))
        recorded = json.loads((folder / "result.json").read_text())
        interval = wilson(correct, 48).removeprefix("95 % interval ")
        assert row["Validation accuracy"][0] == f"{100 * correct / 48:.2f} % {interval}"
        interval = wilson(recorded["test_correct"], 60).removeprefix("95 % interval ")
        assert row["Test accuracy"][0] == f"{100 * recorded['test_correct'] / 60:.2f} % {interval}"
        assert float(row["Validation loss"][0]) == pytest.approx(loss, abs=6e-5)
        assert row["Parameters"][1] == str(recorded["parameters"]) and row["Epochs"][0] == str(recorded["epochs"])
        assert row["filters"][0] == ("–" if kind == "mlp" else "4 9")
        assert row["hidden"][0] == ("6" if kind == "mlp" else "–")
        assert not {"lr", "batch_size", "data", "kind"} & row.keys(), "these are the same in all runs"

    _, *pairs = page.tables["pairs-table"]
    assert [(row[0][0], row[1][0]) for row in pairs] == [
        ("mlp-1", "cnn-1"), ("mlp-1", "hybrid-1"), ("cnn-1", "hybrid-1")
    ]  # fmt: skip
    for row in pairs:
        one, other = right[row[0][0]], right[row[1][0]]
        b, c = int((one & ~other).sum()), int((other & ~one).sum())
        assert (row[2][0], row[3][0]) == (str(b), str(c))
        p_value = binomtest(min(b, c), b + c).pvalue if b + c else 1.0
        assert float(row[5][1] or "") == pytest.approx(p_value, rel=1e-9)
        assert row[4][0] == f"{100 * (one.mean() - other.mean()):+.2f}"
    assert "(McNemar, Psychometrika 12, 1947)" in page.text
    assert page.source.count('role="img"') == 3, "three charts of curves"


def test_comparison_of_a_run_whose_data_are_gone(
    trained: Trained, copied: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    text = (copied / "config.toml").read_text()
    # the configuration of a checkpoint is in its header
    tensors, facts = load_checkpoint(copied / "checkpoint.safetensors")
    facts["config"] = text.replace(str(trained.data), "/nowhere/gone.npz")
    save_checkpoint(copied / "checkpoint.safetensors", tensors, facts)
    found = compare([trained.folders["mlp"], copied], out=tmp_path / "c.html")
    assert found.runs[str(copied)] is None
    page = Page(tmp_path / "c.html")
    assert "copied is compared by its recorded results, without McNemar's test: the data set /nowhere/gone" in page.text
    assert "pairs-table" not in page.tables
    recorded: dict[str, Any] = json.loads((copied / "result.json").read_text())
    row = page.tables["runs-table"][2]
    assert row[3][0] == f"{100 * recorded['validation_accuracy']:.2f} %" and row[5][0] == "–"
    assert row[-1][0] == "/nowhere/gone.npz"
    assert "gone.npz" in caplog.text


def test_runs_of_one_name_are_told_apart(trained: Trained, tmp_path: Path) -> None:
    other = Path(shutil.copytree(trained.folders["mlp"], tmp_path / "mlp-1"))
    compare([trained.folders["mlp"], other], out=tmp_path / "c.html")
    rows = Page(tmp_path / "c.html").tables["runs-table"][1:]
    assert [row[0][0] for row in rows] == [str(trained.folders["mlp"]), str(other)]
    assert len(rows[0]) == 8, "no options differ"
