"""What a run came to, as its folder and the command line show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpunet.experiments.records import read_history
from gpunet.experiments.saved import SavedModel, load_model
from gpunet.tasks import CLASSIFICATION
from gpunet.training.history import Record
from gpunet.training.trainer import METRICS


@dataclass(frozen=True)
class RunResult:
    """The result of a run. Accuracies are fractions; the test images were evaluated once, at the end."""

    kind: str
    run_dir: Path
    test_correct: int
    """0 where no classes are predicted."""
    test_total: int
    test_loss: float
    validation_score: float
    """The monitored metric, of the weights that are kept."""
    epochs: int
    """Number of epochs run, over all stages of a hybrid."""
    seconds: float
    """Time of all epochs, validation and epochs before a resume included."""
    images_per_second: float
    """Training throughput: median over the epochs (for a hybrid, those of its CNN)."""
    device: str
    seed: int
    parameters: int
    tta_correct: int | None = None
    """With test-time augmentation: probabilities averaged over each image and its mirror image; None unless trained on
    mirrored images."""
    task: str = CLASSIFICATION
    metric: str = "accuracy"
    """The name of the monitored metric."""
    test_scores: Mapping[str, float] = field(default_factory=dict)
    """The metrics of the test part by name."""

    @property
    def test_accuracy(self) -> float:
        return self.test_correct / self.test_total

    @property
    def tta_accuracy(self) -> float | None:
        return None if self.tta_correct is None else self.tta_correct / self.test_total

    def document(self) -> dict[str, Any]:
        """The entries of ``result.json`` but for the memory that was used."""
        found = {**asdict(self), "run_dir": str(self.run_dir)}
        scores = {f"test_{name}": score for name, score in found.pop("test_scores").items()}
        task, metric = found.pop("task"), found.pop("metric")
        found = {f"validation_{metric}" if name == "validation_score" else name: found[name] for name in found}
        if task == CLASSIFICATION:
            return {**found, "test_accuracy": self.test_accuracy, **scores}
        for name in ("test_correct", "tta_correct"):
            del found[name]
        return {**found, "task": task, **scores}

    def load(self) -> SavedModel:
        """The trained model, from the run folder, on the device that it was trained on."""
        return load_model(self.run_dir, self.device)

    @property
    def history(self) -> list[Record]:
        """The records of all epochs, from the run folder; of a hybrid, over all stages."""
        return read_history(self.run_dir / METRICS)
