"""Runs on a user's own data: their classes and scaling are recorded, and used wherever the model is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpunet.errors import ConfigError, DataError
from gpunet.experiments.config import load as load_config
from gpunet.experiments.config import merge
from gpunet.experiments.inference import evaluate, load_model, predict
from gpunet.experiments.run import train

LABELS = np.arange(60) % 3
SMALL: dict[str, Any] = {
    "mlp": {"hidden": (8,), "flip": False, "shift": 0},
    "cnn": {"filters": (4,), "flip": False, "shift": 0},
}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpunet.experiments.run.plot_run", lambda *arguments: None)  # takes longer than the training


def bands(top: float) -> np.ndarray:
    """Images (60, 6, 6): dark, with a bright band where the class says."""
    images = np.random.default_rng(0).uniform(0, 0.2, (60, 6, 6))
    for image, label in zip(images, LABELS, strict=True):
        image[2 * label : 2 * label + 2] += 0.8
    images[:, 0, 0], images[0, 5, 5] = 0, 1
    return images * top


def trained(kind: str, data: Path, folder: Path, **options: Any) -> Any:
    common = {"data": str(data), "epochs": 25, "batch_size": 8, "optimizer": "adam", "lr": 0.01, "seed": 1}
    return train(
        merge(kind, overrides={**common, **SMALL[kind], **options}), run_dir=folder, device="cpu", progress=False
    )


@pytest.mark.parametrize("top", [4095.5, 16, 1])
def test_images_of_any_range(tmp_path: Path, top: float) -> None:
    images = bands(top) if top != 16 else np.rint(bands(16))
    names = np.array(["top", "middle", "bottom"])[LABELS]
    np.savez(tmp_path / "data.npz", X=images, y=names)
    result = trained("cnn", tmp_path / "data.npz", tmp_path / "run")
    assert result.test_accuracy == 1
    saved = load_model(tmp_path / "run", "cpu")
    assert saved.class_names == ("bottom", "middle", "top") and saved.value_range == (0, top)
    assert load_config(tmp_path / "run" / "config.toml").data.value_range == (0, top)
    assert evaluate(tmp_path / "run", device="cpu").correct == result.test_correct

    # other data, whose own extremes differ, and images of 8 bits are seen as the training images were
    if top > 16:
        images[0, 5, 0] = 2 * top
    np.savez(tmp_path / "other.npz", X=images, y=names)
    found = evaluate(tmp_path / "run", data=str(tmp_path / "other.npz"), split="train", device="cpu")
    assert found.correct > 0.9 * found.total
    images[0, 5, 0] = 0
    for row, name in ((1, "top"), (5, "bottom")):
        Image.fromarray(np.rint(images[{1: 0, 5: 2}[row]] * 255 / top).astype(np.uint8)).save(tmp_path / f"{name}.png")
        assert saved.class_names[predict(tmp_path / "run", [tmp_path / f"{name}.png"], device="cpu")[0].label] == name


def test_bright_pictures_are_predicted_as_they_were_learnt(tmp_path: Path) -> None:
    for index, image in enumerate(255 - bands(255)):
        folder = tmp_path / "data" / "abc"[LABELS[index]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{index:02}.png")
    trained("cnn", tmp_path / "data", tmp_path / "run")
    paths = [tmp_path / "data" / name / file for name, file in (("a", "00.png"), ("b", "01.png"), ("c", "02.png"))]
    assert [found.label for found in predict(tmp_path / "run", paths, device="cpu")] == [0, 1, 2]


def test_tables(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(60, 3)) * [1, 1000, 1e-3] + [0, 5000, 0]
    values[:, 2] += LABELS * 0.01
    rows = [",".join(map(str, [*row, label])) for row, label in zip(values.tolist(), LABELS, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,c,target", *rows]))
    result = trained("mlp", tmp_path / "data.csv", tmp_path / "run", standardize="channel", epochs=100, keep="last")
    assert result.test_accuracy > 0.9
    assert evaluate(tmp_path / "run", device="cpu").correct == result.test_correct
    one_feature_off = [row.replace(",", ",0,", 1) for row in rows]
    (tmp_path / "other.csv").write_text("\n".join(["a,0,b,c,target", *one_feature_off]))
    with pytest.raises(DataError, match=r"the model takes images \(1, 1, 3\) .* has images \(1, 1, 4\)"):
        evaluate(tmp_path / "run", data=str(tmp_path / "other.csv"), device="cpu")
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"takes the features of a table, not images"):
        predict(tmp_path / "run", [tmp_path / "a.png"], device="cpu")
    with pytest.raises(ConfigError, match=r"a CNN needs images, but .*data.csv is a table .* --image-shape"):
        trained("cnn", tmp_path / "data.csv", tmp_path / "cnn")
    with pytest.raises(ConfigError, match=r"the data are rows of a table, which cannot be augmented: leave out shift"):
        trained("mlp", tmp_path / "data.csv", tmp_path / "mlp", shift=1)
    assert not (tmp_path / "cnn" / "config.toml").exists() and not (tmp_path / "mlp" / "config.toml").exists()


def test_a_resumed_run_reads_its_data_the_same_way(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", X=bands(300.5), y=LABELS)
    trained("cnn", tmp_path / "data.npz", tmp_path / "half", epochs=1, schedule="constant")
    trained("cnn", tmp_path / "data.npz", tmp_path / "whole", epochs=2, schedule="constant")
    config = load_config(tmp_path / "half" / "config.toml")
    longer = replace(config, training=replace(config.training, epochs=2))
    train(longer, run_dir=tmp_path / "half", device="cpu", resume=True, progress=False)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("half", "whole")]
    assert results[0]["test_loss"] == results[1]["test_loss"]
