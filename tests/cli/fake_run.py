"""A stand-in for the pipeline: it trains nothing, notes how it was called, and answers with known figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from gpunet.experiments.config import to_toml
from gpunet.parallel import Communicator

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover")


@dataclass(frozen=True)
class RunResult:
    kind: str
    run_dir: Path
    test_correct: int = 9123
    test_total: int = 10_000
    test_loss: float = 0.25
    validation_score: float = 0.925
    epochs: int = 4
    seconds: float = 12.5
    images_per_second: float = 1536.0
    device: str = "cpu"
    seed: int = 7
    parameters: int = 1234
    task: str = "classification"
    metric: str = "accuracy"
    test_scores: dict[str, float] = field(default_factory=dict)

    @property
    def test_accuracy(self) -> float:
        return self.test_correct / self.test_total


@dataclass(frozen=True)
class Evaluation:
    split: str
    loss: float = 0.5
    correct: int = 3
    total: int = 4
    confusion: list[list[int]] = field(default_factory=lambda: [[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    class_names: tuple[str, ...] = CLASS_NAMES
    tta_correct: int | None = None
    task: str = "classification"
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    path: Path
    class_names: tuple[str, ...]
    probabilities: list[float]
    label: int
    task: str = "classification"
    row: int | None = None


class FakeRun(ModuleType):
    """The module ``gpunet.experiments.run`` as the command line sees it."""

    def __init__(self) -> None:
        super().__init__("gpunet.experiments.run")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: BaseException | None = None
        """Raised by every function."""
        self.writes_files = True
        self.result: dict[str, Any] = {}
        """Fields of the result that differ from the usual."""

    def train(
        self,
        config: Any,
        *,
        run_dir: Path,
        device: str | None,
        resume: bool,
        progress: bool,
        tensorboard: bool,
        trackers: list[str],
        track_files: bool,
        checkpoint_minutes: float,
        given: set[str] | None,
        on_result: Callable[[RunResult], None],
        communicator: Communicator,
    ) -> RunResult:
        assert communicator.size == 1
        existed = run_dir.is_dir()
        if self.writes_files:
            (run_dir / "config.toml").write_text(to_toml(config), encoding="utf-8")
        self._call(
            "train",
            config=config,
            run_dir=run_dir,
            device=device,
            resume=resume,
            progress=progress,
            tensorboard=tensorboard,
            trackers=trackers,
            track_files=track_files,
            checkpoint_minutes=checkpoint_minutes,
            given=given,
            existed=existed,
        )
        result = RunResult(config.kind, run_dir, **self.result)
        on_result(result)
        return result

    def evaluate(
        self, path: Path, *, data: str | None, split: str, device: str | None, figures: bool, tta: bool
    ) -> Evaluation:
        self._call("evaluate", path=path, data=data, split=split, device=device, figures=figures, tta=tta)
        return Evaluation(split, **self.result)

    def predict(self, path: Path, images: list[Path], *, device: str | None, invert: str) -> list[Prediction]:
        self._call("predict", path=path, images=list(images), device=device, invert=invert)
        return [Prediction(image, CLASS_NAMES, [0.25, 0.125, 0.625], 2) for image in images]

    def _call(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        if self.error is not None:
            raise self.error
