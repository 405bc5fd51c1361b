"""The hybrid's pipeline: stages, one call, the same bits after a kill."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.backend import CPU
from gpunet.errors import ConfigError
from gpunet.models import HybridConfig
from gpunet.training import (
    Callback,
    HybridFit,
    HybridTrainingConfig,
    Trainer,
    TrainingConfig,
    evaluate,
    fit_hybrid,
    load_checkpoint,
)
from gpunet.training.trainer import BEST
from tests.training.problems import loaders

CONFIG = HybridConfig(filters=(4, 8), classifier_hidden=(6,), dropout=0.0)
TRAINING = TrainingConfig(epochs=3, batch_size=32, lr=5e-3)


def fit(run_dir: Path | None = None, joint_epochs: int = 2, **options: Any) -> HybridFit:
    stages = HybridTrainingConfig(classifier_epochs=2, classifier_lr=5e-3, joint_epochs=joint_epochs, joint_lr=1e-3)
    return fit_hybrid(CONFIG, TRAINING, stages, **loaders(), classes=4, run_dir=run_dir, **options)


def test_stages_in_one_call(tmp_path: Path) -> None:
    found = fit(tmp_path)
    stages = [record["stage"] for record in found.records]
    assert stages == ["cnn"] * 3 + ["classifier"] * 2 + ["joint"] * 2
    assert evaluate(found.hybrid, loaders()["validation"]).accuracy == found.validation_score
    best = {s: max(r["validation_accuracy"] for r in found.records if r["stage"] == s) for s in set(stages)}
    assert found.validation_score == max(best["classifier"], best["joint"])
    assert found.stage == ("joint" if best["joint"] > best["classifier"] else "classifier")
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == ["1-cnn", "2-classifier", "3-joint"]


def test_frozen_features_stay_those_of_the_trained_cnn(tmp_path: Path) -> None:
    found = fit(tmp_path, joint_epochs=0)
    tensors, _ = load_checkpoint(tmp_path / "stages" / "1-cnn" / BEST)
    state = found.hybrid.flat.state_dict()
    shared = [name for name in state if name.startswith("cnn.")]
    assert len(shared) == 2 * 5
    for name in shared:
        assert state[name].tobytes() == tensors["model/" + name.removeprefix("cnn.")].tobytes()


class Kill(Callback):
    def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["cnn", "classifier", "joint"])
def test_a_kill_in_any_stage_resumes_to_the_same_bits(tmp_path: Path, stage: str) -> None:
    whole = fit()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, callbacks=lambda running: [Kill()] if running == stage else [Callback()])
    resumed = fit(tmp_path, resume=True, callbacks=lambda running: [Callback()])
    assert whole.hybrid.flat.values.tobytes() == resumed.hybrid.flat.values.tobytes()
    assert whole.hybrid.flat.state.tobytes() == resumed.hybrid.flat.state.tobytes()
    assert whole.validation_score == resumed.validation_score
    for line in (tmp_path / "stages" / "1-cnn" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_an_unknown_feature_layer_is_found_before_training() -> None:
    with pytest.raises(ConfigError, match="there is no layer 'block7'"):
        fit_hybrid(
            HybridConfig(filters=(4,), feature_layer="block7"), TRAINING, HybridTrainingConfig(), **loaders(), classes=4
        )


def test_maps_can_be_features() -> None:
    config = HybridConfig(filters=(4, 8), classifier_hidden=(), feature_layer="block1")
    stages = HybridTrainingConfig(classifier_epochs=1)
    found = fit_hybrid(config, TRAINING, stages, **loaders(), classes=4)
    x = CPU.asarray(np.zeros((2, 8, 8, 1), np.float32))
    assert found.hybrid(x).shape == (2, 4)


def test_the_last_weights_where_those_are_wanted() -> None:
    how = dataclasses.replace(TRAINING, keep="last")
    stages = HybridTrainingConfig(classifier_epochs=8, classifier_lr=0.03, joint_epochs=2, joint_lr=1e3)
    found = fit_hybrid(CONFIG, how, stages, **loaders(), classes=4)
    last = found.records[-1]
    assert (found.stage, found.epoch) == ("joint", 2) and found.validation_score == last["validation_accuracy"]
    assert last["validation_accuracy"] < found.records[-3]["validation_accuracy"], "that rate can only do harm"


def test_the_epoch_of_the_weights() -> None:
    found = fit()
    row = next(row for row in found.records if (row["stage"], row["epoch"]) == (found.stage, found.epoch))
    assert row["validation_accuracy"] == found.validation_score
