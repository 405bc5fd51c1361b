"""The trainer: training epochs, validation and checkpoints; the same seed gives bit-identical weights.

A step depends only on the seed, the step number and the weights: the order of the images, their augmentation and the
dropout masks are functions of (seed, step), batches have a fixed size, and every reduction has a fixed order,
regardless of the number of threads. So an interrupted and resumed run is bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpunet import ops, optim
from gpunet.backend import Array
from gpunet.data.loader import Loader
from gpunet.errors import CheckpointError, ConfigError, DivergedError
from gpunet.nn import ForwardContext, Layer, SoftmaxCrossEntropy
from gpunet.nn.parameter import FlatParameters
from gpunet.optim import schedules
from gpunet.training.callbacks import Callback, EarlyStopping
from gpunet.training.checkpoint import load_checkpoint, prefixed, save_checkpoint, under
from gpunet.training.config import TrainingConfig
from gpunet.training.diagnose import NOT_FINITE_INPUT, first_not_finite
from gpunet.training.evaluation import EVALUATION_BATCH, evaluate
from gpunet.training.history import History, Record
from gpunet.training.state import EpochTotals, StepState

BEST, LAST, METRICS = "checkpoint.safetensors", "last.safetensors", "metrics.jsonl"
"""In a run folder: the model with the best validation accuracy (of the last epoch, with ``keep = "last"``), everything
needed to resume after the last epoch, and the record of each epoch."""


class Trainer:
    """Trains an initialised model on a :class:`~gpunet.data.loader.Loader`.

    Args:
        model: a layer initialised by :meth:`~gpunet.nn.Layer.initialize`.
        config: how to train.
        train, validation: the data, on the model's device.
        run_dir: an existing folder for ``metrics.jsonl``, the best and the last checkpoint; None writes nothing.
        callbacks: called in this order.
        class_weights: weight of each class in the loss, (classes,) on the device; or None.
        metadata, tensors: JSON-serialisable values and host arrays to store in every checkpoint (its configuration).

    Attributes:
        epoch, step: number of finished epochs and steps.
        lr: learning rate of the last step.
        history: the records of all epochs.
        stop: set it to end training after the current epoch.
    """

    def __init__(
        self,
        model: Layer,
        config: TrainingConfig,
        *,
        train: Loader,
        validation: Loader,
        run_dir: Path | None = None,
        callbacks: Sequence[Callback] = (),
        class_weights: Array | None = None,
        metadata: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Any] | None = None,
    ) -> None:
        if model.flat is None:
            raise ConfigError("the model has no arrays yet: call model.initialize(seed) before training it")
        if not model.flat.current:  # a model that shares its layers was initialised since
            model.initialize(device=model.flat.backend, dtype=model.flat.dtype)
        self.model, self.config = model, config
        self.flat: FlatParameters = model.flat
        self.backend = self.flat.backend
        self.train, self.validation, self.run_dir = train, validation, run_dir
        # All batches have the same size, so each epoch drops the images that do not fill its last batch.
        self.batch_size = min(config.batch_size, train.size)
        self.steps_per_epoch = train.size // self.batch_size
        self.optimizer = optim.create(config.optimizer, **vars(config))
        self.optimizer.bind(self.flat)
        self.schedule = schedules.create(
            config.schedule,
            total_steps=config.epochs * self.steps_per_epoch,
            steps_per_epoch=self.steps_per_epoch,
            **vars(config),
        )
        self.average = optim.WeightAverage(self.flat, config.ema_decay) if config.ema_decay else None
        self.loss = SoftmaxCrossEntropy(label_smoothing=config.label_smoothing, weight=class_weights)
        self.callbacks = list(callbacks)
        if config.early_stopping:
            self.callbacks.append(EarlyStopping(config.early_stopping))
        self.metadata, self.tensors = dict(metadata or {}), dict(tensors or {})
        self.history = History(run_dir / METRICS if run_dir else None)
        self.epoch = self.step = 0
        self.stop = False
        self.lr = self.schedule.lr(0)
        self.best_epoch, self.best_accuracy = 0, -1.0
        self._best: dict[str, Any] = {}
        self._state = StepState(self.backend, steps_per_epoch=self.steps_per_epoch, batch_size=self.batch_size)
        self._step_once = self.backend.capture(self._training_step)

    # --- one step ---------------------------------------------------------------------------------------------------

    def _training_step(self) -> None:
        # Only ops on arrays that stay in place: on a GPU this is recorded once and replayed (Backend.capture).
        seed, state = self.config.seed, self._state
        x, labels = self.train.training_batch(state.start, self.batch_size, seed=seed, step=state.step)
        ctx = ForwardContext(training=True, seed=seed, step=state.step, needs_input_grad=False)
        logits, backward = self.model.forward(x, ctx)
        loss, dlogits = self.loss(logits, labels)
        backward(dlogits)
        scale, _ = ops.gradient_scale(self.flat.gradients, loss, max_norm=self.config.clip_norm)
        # From the first non-finite loss or gradient to the end of the epoch, the scale is NaN: updates are skipped, so
        # that the weights can be examined when the host reads the totals.
        state.advance(loss, ops.count_correct(logits, labels), scale)
        self.optimizer.update(state.lr, state.step, scale)
        if self.average is not None:
            self.average.update(state.step)

    def _run_epoch(self) -> EpochTotals:
        self.step = self.epoch * self.steps_per_epoch  # an earlier attempt may have been interrupted
        self.train.shuffle(self.config.seed, self.epoch)
        rates = [self.schedule.lr(self.step + index) for index in range(self.steps_per_epoch)]
        self._state.start_epoch(self.step, rates)
        every = self.backend.steps_between_reads
        for index, rate in enumerate(rates):
            self.lr = rate
            self._step_once()
            self.step += 1
            if (index + 1) % every and index + 1 < self.steps_per_epoch:
                continue
            totals = self._state.totals()
            if not totals.finite:
                first = self.epoch * self.steps_per_epoch
                raise self._diverged(index if totals.failed is None else totals.failed - first)
            for callback in self.callbacks:
                callback.on_step(self, index + 1, totals.loss / totals.steps)
        return totals

    def _diverged(self, index: int) -> DivergedError:
        """The error for a non-finite loss in step `index`, from 0, of this epoch; runs that step again."""
        number, seed = self.epoch * self.steps_per_epoch + index, self.config.seed
        batch = self.train.training_batch(index * self.batch_size, self.batch_size, seed=seed, step=number)
        state = self.flat.state.copy()
        where = first_not_finite(self.model, *batch, self.loss, ForwardContext(training=True, seed=seed, step=number))
        self.flat.state[...] = state  # the diagnosis must not change the running statistics
        where = where or "the norm of the gradients is not finite, although all gradients are"
        return DivergedError(
            f"training diverged in step {number + 1} (epoch {self.epoch + 1}, learning rate {self.lr:.3g}): {where}. "
            "Use a lower --lr or --clip-norm, or check the data"
        )

    def _not_validated(self) -> DivergedError:
        """The error for a validation loss that is not finite after an epoch whose training losses are."""
        where = "it overflows in the sum over the batches"
        for x, labels in self.validation.batches(EVALUATION_BATCH):
            found = first_not_finite(self.model, x, labels, SoftmaxCrossEntropy(), ForwardContext(), gradients=False)
            if found is not None:
                where = found
                break
        if where == NOT_FINITE_INPUT:
            return DivergedError(
                f"the validation loss after epoch {self.epoch + 1} is not finite: {where}. Check the data"
            )
        return DivergedError(
            f"training diverged in epoch {self.epoch + 1}: the validation loss after it is not finite, {where}. "
            "Use a lower --lr, --clip-norm, or check the data"
        )

    # --- the training -----------------------------------------------------------------------------------------------

    def fit(self) -> History:
        """Train up to ``config.epochs`` epochs, then load the weights selected by ``config.keep`` into the model.

        Called again after an interrupt, it repeats the interrupted epoch from its first step, with the weights as they
        are; :meth:`resume` goes back to the end of the last complete epoch.

        Returns:
            the history of all epochs, including those before a resume.

        Raises:
            ConfigError: the model's arrays have moved since the Trainer was made.
            DivergedError: a loss is not finite; the message names the step and the first layer affected.
            OutputError: a checkpoint or the metrics cannot be written.
        """
        if not self.flat.current:
            raise ConfigError(
                "the model's arrays have moved since this Trainer was made, because a model that shares its layers was "
                "initialised: make the Trainer after that"
            )
        try:
            for callback in self.callbacks:
                callback.on_train_start(self)
            with self.backend.use_precision(self.config.precision):
                while self.epoch < self.config.epochs and not self.stop:
                    self._fit_epoch()
        finally:
            for callback in self.callbacks:
                callback.on_train_end(self)
        self.restore_best()
        return self.history

    def _fit_epoch(self) -> None:
        started = time.perf_counter()
        for callback in self.callbacks:
            callback.on_epoch_start(self, self.epoch + 1)
        totals = self._run_epoch()
        trained = time.perf_counter()
        images = self.steps_per_epoch * self.batch_size
        with self.average.applied() if self.average is not None else contextlib.nullcontext():
            validation = evaluate(self.model, self.validation)
            better = validation.accuracy > self.best_accuracy or self.config.keep == "last"
            weights = self.flat.state_dict() if better else None
        if not math.isfinite(validation.loss):
            raise self._not_validated()
        self.epoch += 1
        self.schedule.observe(validation.loss)
        record: Record = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.lr,
            "train_loss": totals.loss / totals.steps,
            "train_accuracy": totals.correct / images,
            "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy,
            "seconds": round(time.perf_counter() - started, 3),
            "images_per_second": round(images / (trained - started), 1),
        }
        for callback in self.callbacks:
            callback.on_epoch_end(self, record)
        if weights is not None:
            self.best_epoch, self.best_accuracy, self._best = self.epoch, validation.accuracy, weights
        # The last checkpoint is written last: an epoch interrupted before it is computed again, with the same bits.
        self.history.append(record)
        if weights is not None:
            self._save_best()
        self._save_last()

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _save_best(self) -> None:
        if self.run_dir is not None:
            metadata = {
                **self.metadata,
                "epoch": self.best_epoch,
                "validation_accuracy": self.best_accuracy,
                "architecture": architecture(self.flat),
            }
            save_checkpoint(self.run_dir / BEST, {**prefixed("model", self._best), **self.tensors}, metadata)

    def _save_last(self) -> None:
        if self.run_dir is None:
            return
        host = self.backend.to_numpy
        tensors = {
            **prefixed("model", self.flat.state_dict()),
            **prefixed("best", self._best),
            **prefixed("optimizer", {name: host(slot) for name, slot in self.optimizer.slots().items()}),
            **self.tensors,
        }
        if self.average is not None:
            tensors |= prefixed("average", {name: host(slot) for name, slot in self.average.slots().items()})
        metadata = {
            **self.metadata,
            "epoch": self.epoch,
            "step": self.step,
            "stop": self.stop,
            "best_epoch": self.best_epoch,
            "best_accuracy": self.best_accuracy,
            "schedule": self.schedule.state(),
            "callbacks": [[type(callback).__name__, callback.state()] for callback in self._stateful()],
            "architecture": architecture(self.flat),
            "batch_size": self.batch_size,
            "train_size": self.train.size,
        }
        save_checkpoint(self.run_dir / LAST, tensors, metadata)

    def resume(self) -> bool:
        """Restore the state of the last checkpoint in the run folder; returns False if there is none yet.

        Raises:
            CheckpointError: the checkpoint is damaged, or has a different architecture, batch size or data set.
        """
        if self.run_dir is None or not (self.run_dir / LAST).exists():
            return False
        path = self.run_dir / LAST
        tensors, metadata = load_checkpoint(path)
        for name, value in (("batch_size", self.batch_size), ("train_size", self.train.size)):
            if metadata.get(name) != value:
                raise CheckpointError(f"{path} was written with {name} {metadata.get(name)}, but this run has {value}")
        self.flat.load_state_dict(under("model", tensors))
        self.optimizer.load_slots(under("optimizer", tensors))
        if self.average is not None:
            self.average.load_slots(under("average", tensors))
        self._best = under("best", tensors)
        self.epoch, self.step, self.stop = metadata["epoch"], metadata["step"], metadata["stop"]
        self.best_epoch, self.best_accuracy = metadata["best_epoch"], metadata["best_accuracy"]
        self.schedule.load_state(metadata["schedule"])
        found, here = [name for name, _ in metadata["callbacks"]], [type(item).__name__ for item in self._stateful()]
        if found != here:
            raise CheckpointError(f"{path} was written with the callbacks {found}, but this run has {here}")
        for callback, (_, state) in zip(self._stateful(), metadata["callbacks"], strict=True):
            callback.load_state(state)
        self.history.restore(self.epoch)
        self._save_best()  # a kill between writing the two files may have left a newer one
        return True

    def _stateful(self) -> list[Callback]:
        """The callbacks with state; others, such as a progress bar, may be added or removed on resume."""
        return [callback for callback in self.callbacks if callback.state()]

    def restore_best(self) -> None:
        """Load the weights with the best validation accuracy (with ``keep = "last"``, the last) into the model."""
        if self._best:
            self.flat.load_state_dict(self._best)


def architecture(flat: FlatParameters) -> dict[str, list[int]]:
    """Names and shapes of all parameters and buffers, which must be the same in a checkpoint and a model."""
    return {name: list(view.shape) for name, view in flat.named(flat.values, flat.state).items()}
