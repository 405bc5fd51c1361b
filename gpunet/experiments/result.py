"""What a run came to, and what is in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpunet.experiments.records import read_history
from gpunet.experiments.saved import SavedModel, load_model
from gpunet.training.history import Record
from gpunet.training.trainer import METRICS


@dataclass(frozen=True)
class RunResult:
    """The result of a run. Accuracies are fractions; the test images were evaluated once, at the end."""

    kind: str
    run_dir: Path
    test_correct: int
    test_total: int
    test_loss: float
    validation_accuracy: float
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

    @property
    def test_accuracy(self) -> float:
        return self.test_correct / self.test_total

    @property
    def tta_accuracy(self) -> float | None:
        return None if self.tta_correct is None else self.tta_correct / self.test_total

    def load(self) -> SavedModel:
        """The trained model, from the run folder, on the device that it was trained on."""
        return load_model(self.run_dir, self.device)

    @property
    def history(self) -> list[Record]:
        """The records of all epochs, from the run folder; of a hybrid, over all stages."""
        return read_history(self.run_dir / METRICS)
