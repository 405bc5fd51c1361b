"""The hybrid's pipeline: train the CNN, train the MLP on its features, then, optionally, both jointly."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpunet.backend import Array
from gpunet.data.loader import Loader
from gpunet.errors import CheckpointError, OtherTrainingError
from gpunet.files import PathLike, make_folder
from gpunet.models import CNN, Hybrid, HybridConfig
from gpunet.nn import Layer
from gpunet.nn.loss import Loss
from gpunet.parallel.communicator import Communicator, Serial, from_first
from gpunet.training.callbacks import Callback
from gpunet.training.checkpoint import digest
from gpunet.training.config import HybridTrainingConfig, TrainingConfig
from gpunet.training.evaluation import extract
from gpunet.training.history import Record
from gpunet.training.metrics import Metric
from gpunet.training.trainer import BEST, Trainer

logger = logging.getLogger("gpunet")

STAGES = ("cnn", "classifier", "joint")


def stage_folder(stage: str) -> str:
    """The folder for the files of `stage`, relative to the run folder."""
    return f"stages/{STAGES.index(stage) + 1}-{stage}"


@dataclasses.dataclass(frozen=True)
class HybridFit:
    """The trained hybrid, and the records of its stages."""

    hybrid: Hybrid
    records: list[Record]
    """The records of all stages in sequence, each with its ``stage``."""
    validation_score: float
    """The monitored metric of the hybrid as it is returned."""
    metric: str
    """Its name."""
    stage: str
    """The stage whose weights it has, ``joint``, or ``classifier`` if joint training did not help."""
    epoch: int
    """The epoch of that stage, from 1."""


def fit_hybrid(
    config: HybridConfig,
    training: TrainingConfig,
    stages: HybridTrainingConfig,
    *,
    train: Loader,
    validation: Loader,
    classes: int,
    loss: Loss | str | None = None,
    metrics: Sequence[str | Metric] | str | Metric | None = None,
    run_dir: PathLike | None = None,
    callbacks: Callable[[str], Sequence[Callback]] = lambda stage: (),
    class_weights: Array | None = None,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    identity: Callable[[str], Mapping[str, Any]] = lambda stage: {},
    checkpoint_minutes: float = 5.0,
    progress: bool | None = None,
    resume: bool = False,
    communicator: Communicator | None = None,
) -> HybridFit:
    """Train a hybrid from scratch, in one call.

    1. ``cnn``: the CNN with its own classifier, as configured by `training`.
    2. ``classifier``: the MLP on the features of the best CNN, extracted once from the original images (frozen
       features, no augmentation), for ``classifier_epochs`` at ``classifier_lr``.
    3. ``joint``: both jointly on the (augmented) images, for ``joint_epochs`` at ``joint_lr``. Its weights are kept
       only if their validation metric is better than that of the second stage, or with ``keep = "last"``.

    Args:
        config, training, stages: the architecture and how to train.
        train, validation: images on the device.
        classes: number of classes, or of targets or labels.
        loss, metrics: as for :class:`Trainer`, in all stages.
        run_dir: an existing folder; each stage has its own folder in ``stages/`` there. None writes nothing.
        callbacks: returns the callbacks for a stage.
        class_weights, metadata, tensors, checkpoint_minutes, progress, communicator: as for :class:`Trainer`.
        identity: returns that of a stage.
        resume: resume the run in `run_dir`. Finished stages are not repeated, unless a stage before them has gone on
            to other weights: then they start over, with a warning.

    Raises: as for :meth:`Trainer.fit` and, with `resume`, :meth:`Trainer.resume`.

    >>> images = np.zeros((20, 8, 8, 1), np.uint8)
    >>> images[:10, :4] = images[10:, 4:] = 255  # bright above, bright below
    >>> loader = gn.data.Loader(images, [0] * 10 + [1] * 10)
    >>> found = gn.training.fit_hybrid(
    ...     gn.models.HybridConfig(filters=(4,), classifier_hidden=(8,)),
    ...     gn.training.TrainingConfig(epochs=2, batch_size=10),
    ...     gn.training.HybridTrainingConfig(classifier_epochs=10, classifier_lr=0.01),
    ...     train=loader, validation=loader, classes=2,
    ... )
    >>> found.stage, found.validation_score, [record["stage"] for record in found.records].count("classifier")
    ('classifier', 1.0, 10)
    """
    run_dir = None if run_dir is None else Path(run_dir)
    records: list[Record] = []
    ranks = communicator or Serial()

    def run(stage: str, model: Layer, how: TrainingConfig, data: tuple[Loader, Loader], after: Layer | None) -> Trainer:
        folder = None if run_dir is None else Path(run_dir) / stage_folder(stage)
        if folder is not None and ranks.rank == 0:
            make_folder(folder)
        facts = dict(identity(stage))
        if after is not None:
            assert after.flat is not None
            facts["weights of the stage before"] = digest(after.flat.state_dict())
        trainer = Trainer(
            model,
            how,
            train=data[0],
            validation=data[1],
            loss=loss,
            metrics=metrics,
            run_dir=folder,
            callbacks=callbacks(stage),
            progress=progress,
            class_weights=class_weights,
            metadata={**(metadata or {}), "stage": stage},
            tensors=tensors,
            identity=facts,
            checkpoint_minutes=checkpoint_minutes,
            communicator=ranks,
        )
        if resume:
            try:
                trainer.resume()
            except OtherTrainingError as error:
                if after is None or folder is None:
                    raise
                logger.warning("the stage %s starts over: %s", stage, error)
                if ranks.rank == 0:
                    shutil.rmtree(folder)
                    make_folder(folder)
        trainer.fit()
        records.extend({"stage": stage, **record} for record in trainer.history.records)
        return trainer

    first = None if run_dir is None else run_dir / stage_folder("cnn")

    def check_stages() -> None:
        if run_dir is not None and first is not None and (run_dir / BEST).exists() and not first.exists():
            raise CheckpointError(
                f"{run_dir} cannot be resumed: it has a trained model, but no {first}; start a new run"
            )

    if resume:
        from_first(ranks, check_stages)
    backend, dtype, seed = train.backend, training.dtype, training.seed
    cnn = CNN.from_config(config, train.input_shape, classes)
    hybrid = Hybrid.on(cnn, config, classes)  # before the long training, so that an invalid option fails early
    cnn.initialize(seed, device=backend, dtype=dtype)
    run("cnn", cnn, training, (train, validation), None)

    features = [
        Loader(
            extract(hybrid.extract_features, loader),
            loader.targets,
            sample_weight=loader.sample_weight,
            backend=backend,
            dtype=dtype,
        )
        for loader in (train, validation)
    ]
    hybrid.classifier.initialize(seed, device=backend, dtype=dtype)
    how = dataclasses.replace(training, epochs=stages.classifier_epochs, lr=stages.classifier_lr)
    trainer = run("classifier", hybrid.classifier, how, (features[0], features[1]), cnn)
    best, stage, epoch = trainer.best_score, "classifier", trainer.best_epoch
    assert best is not None

    hybrid.target_scaling = hybrid.classifier.target_scaling
    hybrid.initialize(seed, device=backend, dtype=dtype)  # keeps all values, and joins the arrays of both parts again
    if stages.joint_epochs:
        assert hybrid.flat is not None
        before = hybrid.flat.state_dict()
        how = dataclasses.replace(training, epochs=stages.joint_epochs, lr=stages.joint_lr)
        trainer = run("joint", hybrid, how, (train, validation), hybrid)
        joint = trainer.best_score
        assert joint is not None
        if trainer.monitor.is_better(joint, best) or training.keep == "last":
            best, stage, epoch = joint, "joint", trainer.best_epoch
        else:
            hybrid.flat.load_state_dict(before)
            logger.info(
                "joint training reached the validation %s %s, the frozen features %s: keeping the latter",
                trainer.monitor.name,
                trainer.monitor.text(joint),
                trainer.monitor.text(best),
            )
    return HybridFit(hybrid, records, best, trainer.monitor.name, stage, epoch)
