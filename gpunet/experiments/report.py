"""Reports of saved runs: loads and evaluates the models, and collects the records of their folders."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpunet.data import DataConfig, find
from gpunet.data.config import FASHION_MNIST
from gpunet.data.loader import Loader
from gpunet.errors import CheckpointError, ConfigError, DataError
from gpunet.experiments.config import merge, to_dict
from gpunet.experiments.inference import SavedModel, check_data, evaluate_saved, load_model
from gpunet.experiments.prepare import AUGMENTATION, RunData, prepare
from gpunet.experiments.records import SHARE, check_entries, read_environment, read_history, read_result
from gpunet.files import PathLike, atomic_write
from gpunet.nn import summary
from gpunet.report.comparison import comparison
from gpunet.report.run_record import RunRecord, SplitResult
from gpunet.report.run_report import run_report
from gpunet.report.target_report import target_report
from gpunet.tasks import CLASSIFICATION
from gpunet.training.trainer import BEST, METRICS

logger = logging.getLogger("gpunet")

REPORT, COMPARISON = "report.html", "comparison.html"
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Report:
    """Where a page was written, and how many images each run classified correctly."""

    path: Path
    split: str
    runs: dict[str, tuple[int, int] | None]
    """Run folder -> (correct predictions, images); None if the model could not be evaluated, or predicts no classes."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The metrics of a run that predicts numbers or labels."""


def report(
    run_dir: PathLike,
    *,
    out: PathLike | None = None,
    split: str = "validation",
    data: str | None = None,
    device: str | None = None,
    tsne: bool = False,
) -> Report:
    """Write the report of the run in `run_dir`, one HTML file, by default its ``report.html``.

    The model is evaluated on `split` of its data set. The test accuracy that the run recorded at its end is shown
    unchanged; the test images are evaluated only for `split` ``test``.

    Args:
        data: the data set's current path, if it was moved after training.
        tsne: add a t-SNE map of the features.

    Raises:
        CheckpointError: `run_dir` contains no usable run. DataError: its data set is missing, or a different one.
        OutputError: the page cannot be written.

    >>> from gpunet.experiments.report import report
    >>> report("runs/cnn").path  # doctest: +SKIP
    PosixPath('runs/cnn/report.html')
    """
    run_dir = Path(run_dir)
    target = Path(out) if out is not None else run_dir / REPORT
    facts, saved = _read_run(run_dir, device, data)
    with atomic_write(target) as temporary:  # before the evaluation, so that an unwritable path fails early
        run_data = _data_of(run_dir, saved, facts, data, split)
        result, loader, scores = _evaluate(saved, run_data, split)
        layers = summary(saved.model, saved.input_shape)
        if saved.task == CLASSIFICATION:
            page = run_report(facts, result, saved.model, saved.scaling, loader, layers=layers, tsne=tsne)
        else:
            page = target_report(facts, result, scores, layers=layers)
        temporary.write_text(page, encoding="utf-8")
    if saved.task != CLASSIFICATION:
        return Report(target, split, {str(run_dir): None}, scores)
    return Report(target, split, {str(run_dir): (result.correct, result.total)})


def compare(
    run_dirs: Sequence[PathLike],
    *,
    out: PathLike | None = None,
    split: str = "validation",
    data: str | None = None,
    device: str | None = None,
) -> Report:
    """Write a page that compares runs, by default ``comparison.html`` in the current folder.

    All arguments are as for :func:`report`. A run whose data set is missing is compared by its recorded results, and
    the page says so.

    Raises:
        ConfigError: a run predicts no classes.
        CheckpointError: a folder contains no usable run, or is given twice.
        OutputError: the page cannot be written.

    >>> from gpunet.experiments.report import compare
    >>> compare(["runs/mlp", "runs/cnn"]).path  # doctest: +SKIP
    PosixPath('comparison.html')
    """
    target = Path(out) if out is not None else Path(COMPARISON)
    folders = [Path(run_dir) for run_dir in run_dirs]
    for place, run_dir in enumerate(folders):
        if run_dir.resolve() in [other.resolve() for other in folders[:place]]:
            raise CheckpointError(f"the run {run_dir} is given twice")
    for run_dir in folders:  # check all of them before the first is evaluated
        if (task := _read_run(run_dir, device, data)[1].task) != CLASSIFICATION:
            raise ConfigError(f"{run_dir} was trained for {task}, but only classifiers can be compared: give one run")
    prepared: dict[DataConfig, RunData] = {}
    runs: list[tuple[RunRecord, SplitResult | None]] = []
    warnings = []
    with atomic_write(target) as temporary:
        for run_dir in folders:
            facts, saved = _read_run(run_dir, device, data)
            logger.info("evaluating %s", run_dir)
            result = None
            try:
                result, _, _ = _evaluate(saved, _data_of(run_dir, saved, facts, data, split, prepared), split)
            except DataError as error:
                warnings.append(f"{facts.name} is compared by its recorded results, without McNemar's test: {error}")
                logger.warning("%s", warnings[-1])
            else:
                if split == "validation" and saved.config.data.refit:
                    warnings.append(f"{facts.name} was trained on the validation images as well (refit)")
                    logger.warning("%s", warnings[-1])
            runs.append((facts, result))
        temporary.write_text(comparison(runs, split=split, warnings=warnings), encoding="utf-8")
    found = {
        str(run_dir): None if result is None else (result.correct, result.total)
        for run_dir, (_, result) in zip(folders, runs, strict=True)
    }
    return Report(target, split, found)


def _read_run(run_dir: Path, device: str | None, data: str | None) -> tuple[RunRecord, SavedModel]:
    if not run_dir.is_dir():
        raise CheckpointError(f"{run_dir} is not a run folder: a report needs a folder written by gpunet train")
    if not (run_dir / BEST).is_file():
        command = f"gpunet train --resume {shlex.quote(str(run_dir))}"
        hint = f"; finish the run with {command}" if (run_dir / "config.toml").is_file() else ""
        raise CheckpointError(f"{run_dir} contains no trained model: there is no {BEST}{hint}")
    saved = load_model(run_dir, device)
    check_entries(saved.metadata, {"validation_accuracy": SHARE.or_none}, f"the header of {saved.file}")
    best = saved.metadata.get("validation_accuracy")
    stage, epoch = saved.metadata.get("from_stage"), saved.metadata.get("epoch")
    config = to_dict(saved.config)
    if not saved.knows_its_data:
        config["data"] = {"data": str(data)}
    facts = RunRecord(
        folder=run_dir,
        kind=saved.config.kind,
        config=config,
        defaults=to_dict(merge(saved.config.kind)),
        history=read_history(run_dir / METRICS),
        result=read_result(run_dir),
        environment=read_environment(run_dir),
        parameters=saved.model.parameter_count,
        best_validation=None if best is None else float(best),
        chosen=f"weights of the stage {stage}" if stage else f"weights of epoch {epoch}",
    )
    return facts, saved


def _data_of(
    run_dir: Path,
    saved: SavedModel,
    facts: RunRecord,
    data: str | None,
    split: str,
    prepared: dict[DataConfig, RunData] | None = None,
) -> RunData:
    """The data set of the run, read and split as in its training."""
    config = saved.data_config(data, split)
    if config.data == FASHION_MNIST:
        if find() is None:
            raise DataError(
                f"the run {run_dir} was trained on Fashion-MNIST, which is not on this machine: download it with "
                "gpunet data fetch, or give its path with --data"
            )
    elif not Path(config.data).exists():
        raise DataError(f"the data set {config.data} of the run {run_dir} does not exist: give its path with --data")
    known = prepared if prepared is not None else {}
    # only the options that determine the images and labels, so that runs share them
    others = ("standardize", "value_range", *AUGMENTATION)
    key = DataConfig(**{name: value for name, value in vars(config).items() if name not in others})
    if key not in known:
        try:
            known[key] = prepare(key)
        except ConfigError as error:
            raise DataError(f"the data set {config.data} of the run {run_dir} has changed: {error}") from error
    found = known[key]
    check_data(saved, found.test, config.data)
    recorded = (facts.environment or {}).get("split_sha256")
    if recorded not in (None, found.split.digest()):
        raise DataError(
            f"the data set {config.data} is not the one that the run {run_dir} was trained on: its split into training "
            "and validation images differs; give the path of the original with --data"
        )
    return found


def _evaluate(saved: SavedModel, data: RunData, split: str) -> tuple[SplitResult, Loader, Mapping[str, float]]:
    dataset = data.part(split)
    found, probabilities, loader = evaluate_saved(saved, dataset)
    return SplitResult(split, dataset, found.loss, probabilities), loader, found.scores
