"""Reproducing the published results: a preset over its seeds, each run evaluated once, at its end, on the test set."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.npy import read_npz
from gpunet.devices import get_backend
from gpunet.errors import CheckpointError, DataError
from gpunet.experiments.config import RunConfig, merge, to_toml
from gpunet.experiments.published import Published, load_published
from gpunet.experiments.records import RESULT, SHARE, WHOLE, read_result
from gpunet.experiments.run import PREDICTIONS, train
from gpunet.files import PathLike, copy_folder
from gpunet.report.metrics import PairedComparison, mcnemar, wilson_interval
from gpunet.training.hybrid import stage_folder
from gpunet.training.snapshot import LAST
from gpunet.training.trainer import METRICS

SEEDS = 3
"""Number of seeds for a model without published results."""

_RESULT = {"seed": WHOLE, "tta_correct": WHOLE.or_none, "validation_accuracy": SHARE, "parameters": WHOLE}


@dataclass(frozen=True)
class SeedResult:
    """A finished run."""

    seed: int
    run_dir: Path
    correct: int
    tta_correct: int | None
    total: int
    validation_accuracy: float
    parameters: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total


@dataclass(frozen=True)
class Reproduction:
    """The runs of a preset, one per seed."""

    kind: str
    preset: str
    refit: bool
    runs: list[SeedResult]
    device: str

    @property
    def mean(self) -> float:
        return statistics.fmean(run.accuracy for run in self.runs)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds; None for a single one."""
        return _std([run.accuracy for run in self.runs])

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the mean, for the number of test images, as more seeds do not add images."""
        total = self.runs[0].total
        return wilson_interval(round(self.mean * total), total)

    @property
    def tta(self) -> list[float]:
        """The accuracies with test-time augmentation; none unless trained on mirrored images."""
        return [run.tta_correct / run.total for run in self.runs if run.tta_correct is not None]


@dataclass(frozen=True)
class Agreement:
    """Whether the results found agree with the published ones."""

    low: float
    high: float
    """The 95 % prediction interval for the mean of the found seeds, given the published mean and spread."""
    inside: bool


def reproduce(
    kind: str,
    *,
    preset: str | None = None,
    seeds: int | None = None,
    refit: bool = False,
    folder: PathLike = Path("runs") / "reproduce",
    device: str | None = None,
    progress: bool = True,
) -> Reproduction:
    """Train `preset` of the model `kind` with the seeds 0 to `seeds` - 1.

    Each run has a subfolder of `folder`, named after its settings. An interrupted run is resumed, and a finished one,
    already evaluated on the test images, is only read. A hybrid starts from the CNN of a finished run, if there is one
    with the settings of its own CNN.

    Args:
        preset, seeds: by default the published ones, or ``best`` and :data:`SEEDS` if there are none for the model.
        refit: train on the validation images as well, and keep the last epoch.

    Raises: as :func:`gpunet.experiments.run.train`, and CheckpointError if a finished run cannot be read.

    >>> from gpunet.experiments.reproduce import reproduce
    >>> reproduce("mlp", seeds=1).runs[0].total  # trains for minutes  # doctest: +SKIP
    10000
    """
    published = load_published().get(kind)
    preset = preset or (published.preset if published else "best")
    count = seeds or (published.seeds if published else SEEDS)
    configs = [config_of(kind, preset, seed, refit=refit) for seed in range(count)]
    runs = []
    for config in configs:
        run_dir = run_dir_of(config, preset, folder)
        if not (run_dir / RESULT).exists():
            _take_over_cnn(config, preset, run_dir)
            train(config, run_dir=run_dir, device=device, resume=run_dir.exists(), progress=progress)
        runs.append(read_run(run_dir))
    return Reproduction(kind, preset, refit, runs, device_name(device))


def _take_over_cnn(config: RunConfig, preset: str, run_dir: Path) -> None:
    """Start a hybrid from a finished CNN with the same settings: training it again would give the same bits."""
    cnn = config.cnn()
    if cnn is None:
        return
    trained = run_dir_of(cnn, preset, run_dir.parent)
    if (trained / RESULT).exists():
        copy_folder(trained, run_dir / stage_folder("cnn"), only=(LAST, METRICS))


def config_of(kind: str, preset: str, seed: int, *, refit: bool = False) -> RunConfig:
    """The configuration of one seed of a preset.

    Raises:
        ConfigError: no such preset or model.
    """
    more: dict[str, Any] = {"refit": True, "keep": "last"} if refit else {}
    return merge(kind, preset, overrides={"seed": seed, **more})


def run_dir_of(config: RunConfig, preset: str, folder: PathLike) -> Path:
    """The folder of the run of `config`, named after its settings, so that a changed preset is trained again."""
    digest = hashlib.sha256(to_toml(config).encode()).hexdigest()[:8]
    refit = "-refit" if config.data.refit else ""
    return Path(folder) / f"{config.kind}-{preset}{refit}-seed{config.training.seed}-{digest}"


def read_run(run_dir: PathLike) -> SeedResult:
    """The result of the finished run in `run_dir`.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        result = read_result(run_dir, _RESULT)
        if result is None:
            raise CheckpointError(f"there is no {Path(run_dir) / RESULT}")
    except CheckpointError as error:
        raise CheckpointError(f"cannot read the result of a run: {error}; remove the folder to train again") from error
    return SeedResult(
        result["seed"],
        Path(run_dir),
        result["test_correct"],
        result.get("tta_correct"),
        result["test_total"],
        result["validation_accuracy"],
        result["parameters"],
    )


def agreement(expected: Published, found: Reproduction) -> Agreement | None:
    """Whether the found mean lies within the prediction interval of the published results; None without a spread.

    The 95 % prediction interval of the mean of m further values from n values of a normal distribution with mean x and
    standard deviation s: x +- t(0.975, n - 1) * s * sqrt(1/n + 1/m) (Hahn & Meeker, "Statistical Intervals", 1991,
    section 4.7). On the same machine, the results are bit-identical.
    """
    mean, std = (expected.refit_mean, expected.refit_std) if found.refit else (expected.mean, expected.std)
    count = expected.refit_seeds if found.refit else expected.seeds
    if mean is None or std is None or count is None:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, count - 1)) * std * math.sqrt(1 / count + 1 / len(found.runs))
    low, high = mean - half, mean + half
    rounding = 1e-12  # of the mean of fractions
    return Agreement(low, high, low - rounding <= found.mean <= high + rounding)


def compare_with_cnn(hybrid: Reproduction, folder: PathLike, preset: str | None = None) -> dict[int, PairedComparison]:
    """McNemar's test of the CNN (first) against the hybrid (second) for each seed whose CNN is finished in `folder`.

    Args:
        preset: the CNN's; by default the published one, else ``best``.

    Raises:
        CheckpointError: the predictions of a finished run cannot be read.
    """
    published = load_published().get("cnn")
    preset = preset or (published.preset if published else "best")
    found = {}
    for run in hybrid.runs:
        cnn = run_dir_of(config_of("cnn", preset, run.seed, refit=hybrid.refit), preset, folder)
        if (cnn / RESULT).exists():
            found[run.seed] = mcnemar(_right(cnn), _right(run.run_dir))
    return found


def _right(run_dir: Path) -> np.ndarray:
    path = run_dir / PREDICTIONS
    try:
        arrays = read_npz(path, ("labels", "predictions"))
    except DataError as error:
        raise CheckpointError(f"cannot read the predictions {path}: {error}") from error
    labels, predictions = arrays["labels"], arrays["predictions"]
    if labels.ndim != 1 or labels.shape != predictions.shape or {labels.dtype.kind, predictions.dtype.kind} - set("iu"):
        raise CheckpointError(
            f"cannot read the predictions {path}: expected labels and predictions, whole numbers (n,), got "
            f"{labels.dtype} {labels.shape} and {predictions.dtype} {predictions.shape}"
        )
    return np.asarray(labels == predictions)


def _std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def device_name(device: str | None = None) -> str:
    """The hardware name of `device`, a GPU or the CPU."""
    return get_backend(device).hardware
