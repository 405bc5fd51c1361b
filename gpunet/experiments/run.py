"""One run, from its configuration to its folder: trained, tested once, with its figures."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import Backend, get_backend
from gpunet.errors import ConfigError, OutputError
from gpunet.experiments.config import RunConfig, to_toml
from gpunet.experiments.prepare import RunData, prepare
from gpunet.experiments.saved import (
    EvaluationResult,
    Prediction,
    description,
    evaluate,
    predict,
    scaling_tensors,
)
from gpunet.files import write_text_atomic
from gpunet.models import Hybrid, HybridConfig, create
from gpunet.nn import summary
from gpunet.report.run_figures import draw_run
from gpunet.training import Callback, Progress, TensorBoard, Trainer, fit_hybrid
from gpunet.training.checkpoint import prefixed, save_checkpoint
from gpunet.training.evaluation import evaluate as evaluate_model
from gpunet.training.history import Record
from gpunet.training.tensorboard import require_tensorboardx
from gpunet.training.trainer import BEST, architecture

__all__ = ["EvaluationResult", "Prediction", "RunResult", "evaluate", "predict", "train"]

RESULT = "result.json"


@dataclass(frozen=True)
class RunResult:
    """What a run came to. Accuracies are fractions; the test images were looked at once, at the end."""

    kind: str
    run_dir: Path
    test_correct: int
    test_total: int
    test_loss: float
    validation_accuracy: float
    epochs: int
    """Epochs that were run, those of all stages of a hybrid together."""
    seconds: float
    """Time of all epochs, validation included, also of those before a resume."""
    images_per_second: float
    """Training throughput on the images: median over the epochs (of a hybrid: of its CNN)."""
    device: str
    seed: int
    parameters: int

    @property
    def test_accuracy(self) -> float:
        return self.test_correct / self.test_total


def train(
    config: RunConfig,
    *,
    run_dir: Path,
    device: str | None = None,
    resume: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
) -> RunResult:
    """Train what `config` describes into the folder `run_dir`, and test it.

    The folder gets ``config.toml``, ``environment.json``, ``split.npz``, ``metrics.jsonl``, ``checkpoint.safetensors``
    (best by validation), ``last.safetensors``, ``summary.txt``, ``result.json`` and the figures. With `resume`, a
    stopped run is continued to the same bits as if it had not been stopped. With `tensorboard`, there are also
    TensorBoard's events (of a hybrid, in the folder of each stage).

    Raises: GpunetError and its kinds; see :mod:`gpunet.errors`.
    """
    if tensorboard:
        require_tensorboardx()  # before the data are read
    backend = get_backend(device)
    data = prepare(config.data)
    toml = to_toml(config)
    model = create(config.model, data.split.train.image_shape, data.split.train.classes)
    dtype, seed = config.training.dtype, config.training.seed
    _start_folder(run_dir, toml, backend, data, summary(model, data.split.train.image_shape))

    loaders = {
        "train": data.loader("train", backend, dtype, config.data),
        "validation": data.loader("validation", backend, dtype),
    }
    facts, tensors = description(config, toml, data.split.train), scaling_tensors(data.scaling)
    weights = None
    if config.training.class_weights == "balanced":
        weights = backend.asarray(data.class_weights(), dtype)

    def callbacks(stage: str = "") -> list[Callback]:
        shown: list[Callback] = [Progress(title=stage)] if progress else []
        return [*shown, TensorBoard()] if tensorboard else shown

    records: list[Record]
    if isinstance(config.model, HybridConfig):
        assert config.hybrid is not None
        fit = fit_hybrid(
            config.model,
            config.training,
            config.hybrid,
            **loaders,
            classes=data.split.train.classes,
            run_dir=run_dir,
            callbacks=callbacks,
            class_weights=weights,
            metadata=facts,
            tensors=tensors,
            resume=resume,
        )
        model, records, best = fit.hybrid, fit.records, fit.validation_accuracy
        _save_hybrid(run_dir, fit.hybrid, {**facts, "validation_accuracy": best, "from_stage": fit.stage}, tensors)
        write_text_atomic(run_dir / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    else:
        model.initialize(seed, device=backend, dtype=dtype)
        trainer = Trainer(
            model,
            config.training,
            **loaders,
            run_dir=run_dir,
            callbacks=callbacks(),
            class_weights=weights,
            metadata=facts,
            tensors=tensors,
        )
        if resume:
            trainer.resume()
        records, best = trainer.fit().records, trainer.best_accuracy

    test = evaluate_model(model, data.loader("test", backend, dtype), keep_probabilities=True)
    assert test.probabilities is not None
    # of a hybrid, the stage that sees images from first to last; other models have no stages
    speeds = [record["images_per_second"] for record in records if record.get("stage", "cnn") == "cnn"]
    result = RunResult(
        kind=config.kind,
        run_dir=run_dir,
        test_correct=test.correct,
        test_total=test.total,
        test_loss=test.loss,
        validation_accuracy=best,
        epochs=len(records),
        seconds=round(sum(record["seconds"] for record in records), 1),
        images_per_second=float(np.median(speeds)),
        device=backend.device,
        seed=seed,
        parameters=model.parameter_count,
    )
    facts = {
        **asdict(result),
        "run_dir": str(run_dir),
        "test_accuracy": result.test_accuracy,
        "peak_memory_bytes": _peak_memory(),
    }
    write_text_atomic(run_dir / RESULT, json.dumps(facts, indent=2) + "\n")
    draw_run(run_dir, model, records, data.test, test.probabilities, data.scaling)
    return result


def _start_folder(run_dir: Path, toml: str, backend: Backend, data: RunData, table: str) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the run folder {run_dir}: {error.strerror or error}") from error
    write_text_atomic(run_dir / "config.toml", toml)
    write_text_atomic(run_dir / "environment.json", json.dumps(_environment(backend, data), indent=2) + "\n")
    write_text_atomic(run_dir / "summary.txt", table + "\n")
    data.save_indices(run_dir / "split.npz")


def _environment(backend: Backend, data: RunData) -> dict[str, Any]:
    from importlib.metadata import version

    packages = ("numpy", "numba", "scipy")
    return {
        "gpunet": _own_version(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "device": backend.device,
        "split_sha256": data.split.digest(),
        "images": {name: len(data.part(name)) for name in ("train", "validation", "test")},
    }


def _peak_memory() -> int | None:
    """The largest part of the host's memory that this process has had so far, in bytes; None where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _own_version() -> str:
    from gpunet import __version__

    return __version__


def _save_hybrid(run_dir: Path, hybrid: Hybrid, facts: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    if hybrid.flat is None:
        raise ConfigError("the hybrid has no arrays")
    everything = {**prefixed("model", hybrid.flat.state_dict()), **tensors}
    save_checkpoint(run_dir / BEST, everything, {**facts, "architecture": architecture(hybrid.flat)})
