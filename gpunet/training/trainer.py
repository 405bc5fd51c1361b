"""The trainer: training epochs, validation and checkpoints; the same seed gives bit-identical weights.

A step depends only on the seed, the step number and the weights: the order of the images, their augmentation and the
dropout masks are functions of (seed, step), batches have a fixed size, and every reduction has a fixed order,
regardless of the number of threads. So an interrupted and resumed run is bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gpunet import ops, optim
from gpunet.backend import Array, Gather
from gpunet.checks import check_number
from gpunet.data.loader import Loader
from gpunet.errors import CheckpointError, ConfigError, DeviceMemoryError, Interrupted
from gpunet.files import PathLike
from gpunet.nn import ForwardContext, Layer
from gpunet.nn.loss import Loss
from gpunet.nn.parameter import FlatParameters
from gpunet.optim import _slots, schedules
from gpunet.parallel.communicator import Communicator, Serial, from_first
from gpunet.parallel.shards import Result, ShardedStep, shard_count, weighted
from gpunet.training.callbacks import Callback, EarlyStopping
from gpunet.training.checkpoint import architecture, digest, prefixed, save_checkpoint, under
from gpunet.training.config import TrainingConfig
from gpunet.training.description import describe_training, target_tensors
from gpunet.training.diagnose import diverged, not_validated
from gpunet.training.evaluation import Evaluation, Evaluator
from gpunet.training.history import History, Record
from gpunet.training.interrupt import Interrupts
from gpunet.training.metrics import Metric
from gpunet.training.objective import balanced_weights, check_gradient, check_shardable, objective_of, prepare_targets
from gpunet.training.progress import Progress, is_watched
from gpunet.training.ranks import agreed, check_start, check_weights
from gpunet.training.snapshot import LAST, Snapshot, read_snapshot
from gpunet.training.state import EpochTotals, StepState
from gpunet.training.weak import weakly

BEST, METRICS = "checkpoint.safetensors", "metrics.jsonl"
"""In a run folder, beside the snapshots: the model with the best validation metric (of the last epoch, with
``keep = "last"``), and the record of each epoch."""


class Trainer:
    """Trains an initialised model on a :class:`~gpunet.data.loader.Loader`.

    Args:
        model: a layer initialised by :meth:`~gpunet.nn.Layer.initialize`.
        config: how to train.
        train, validation: the data, on the model's device. With a ``sample_weight``, rows count by it.
        loss: a loss, or a name in :data:`gpunet.nn.LOSSES`; by default that of ``config``, which for class indices is
            cross-entropy. For a regression, the network learns standardised targets: see ``Layer.target_scaling``.
        metrics: metrics, or names in :data:`gpunet.training.METRICS`, that are recorded for the validation data; the
            first one decides which epoch is best. By default that of ``config``, or those of the loss's task.
        run_dir: an existing folder for ``metrics.jsonl``, the best and the last checkpoint; None writes nothing.
        callbacks: called in this order.
        progress: whether to show the progress on the standard error, as :class:`Progress` does; by default, if that is
            a terminal or a notebook, unless the callbacks do so.
        class_weights: weight of each class in the loss, (classes,) on the device; by default those of
            ``config.class_weights``.
        metadata, tensors: JSON-serialisable values and host arrays to store in every checkpoint, such as
            ``class_names``. Without a ``config``, what describes the model and its inputs is added, for ``gn.load``.
        identity: JSON-serialisable values by name that must be the same when the training is resumed, in addition to
            the data and to `config` without its number of epochs.
        communicator: the ranks that train this model together, see :mod:`gpunet.parallel`; by default, this process
            alone. Each rank makes a Trainer with the same arguments; only rank 0 writes to `run_dir`.
        checkpoint_minutes: time after which the state is also saved within an epoch; 0: only after each epoch.

    Attributes:
        epoch, step: number of finished epochs and steps.
        lr: learning rate of the last step.
        loss, metrics: those above; `monitor` is the first metric.
        best_epoch, best_score: the epoch of the weights that are kept, and the monitored metric after it; 0 and None
            before the first.
        history: the records of all epochs.
        stop: set it to end training after the current epoch.

    Raises:
        ConfigError: the model is not initialised, or with another dtype than ``config.dtype``, or a number is out of
            range; or loss, metrics, targets and model do not fit each other.

    >>> loader = gn.data.Loader(np.uint8([0, 255] * 50).reshape(100, 1, 1, 1), [0, 1] * 50)  # black and white
    >>> model = gn.models.MLP((1, 8, 2)).initialize(seed=0)
    >>> config = gn.training.TrainingConfig(epochs=10, batch_size=20, lr=0.1)
    >>> history = gn.training.Trainer(model, config, train=loader, validation=loader).fit()
    >>> history.records[-1]["validation_accuracy"]
    1.0
    """

    def __init__(
        self,
        model: Layer,
        config: TrainingConfig,
        *,
        train: Loader,
        validation: Loader,
        loss: Loss | str | None = None,
        metrics: Sequence[str | Metric] | str | Metric | None = None,
        run_dir: PathLike | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool | None = None,
        class_weights: Array | None = None,
        metadata: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Any] | None = None,
        identity: Mapping[str, Any] | None = None,
        checkpoint_minutes: float = 5.0,
        communicator: Communicator | None = None,
    ) -> None:
        if model.flat is None:
            raise ConfigError("the model has no arrays yet: call model.initialize(seed) before training it")
        if model.flat.dtype != config.dtype:
            raise ConfigError(
                f"the model's arrays are {model.flat.dtype}, but the training is configured for {config.dtype}: "
                f'initialise it with dtype="{config.dtype}", or set the dtype of the TrainingConfig'
            )
        if not model.flat.current:  # a model that shares its layers was initialised since
            model.initialize(device=model.flat.backend, dtype=model.flat.dtype)
        self.model, self.config = model, config
        self.flat: FlatParameters = model.flat
        self.backend = self.flat.backend
        if class_weights is None and config.class_weights == "balanced" and train.outputs is None:
            class_weights = balanced_weights(model, train, self.flat.dtype)
        self._objective = objective_of(config, loss, metrics, train, class_weights)
        self.loss, self.metrics, self.monitor = self._objective.loss, self._objective.metrics, self._objective.monitor
        self.train, self.validation = prepare_targets(model, self.loss, train, validation)
        self.run_dir = None if run_dir is None else Path(run_dir)
        # All batches have the same size, so each epoch drops the images that do not fill its last batch.
        self.batch_size = min(config.batch_size, train.size)
        self.steps_per_epoch = train.size // self.batch_size
        self.communicator: Communicator = communicator or Serial()
        shards = shard_count(config.shards, self.batch_size, self.communicator.size)
        self.config = config = replace(config, shards=shards)
        check_shardable(train, shards)
        ranks, rank = self.communicator.size, self.communicator.rank
        if ranks > 1:
            rows = self.batch_size // ranks
            self.train.serve(rank * rows, (rank + 1) * rows, self.batch_size)
        self.optimizer = optim.create(config.optimizer, **vars(config))
        self.optimizer.bind(self.flat)
        self.schedule = self._schedule(config.epochs)
        self.average = optim.WeightAverage(self.flat, config.ema_decay) if config.ema_decay else None
        shown = any(isinstance(callback, Progress) for callback in callbacks)
        if progress is None:
            progress = not shown and is_watched() and self.communicator.rank == 0
        self.callbacks = [*callbacks, *([Progress()] if progress and not shown else [])]
        if config.early_stopping:
            self.callbacks.append(EarlyStopping(config.early_stopping))
        self.metadata, self.tensors = dict(metadata or {}), dict(tensors or {})
        if self.run_dir is not None and "config" not in self.metadata:
            names = self.metadata.get("class_names")
            facts, arrays = describe_training(model, config, train, names, self._objective.task)
            self.metadata, self.tensors = {**facts, **self.metadata}, {**arrays, **self.tensors}
        self.tensors |= target_tensors(model)
        self._identity_given = dict(identity or {})
        self._save_every = 60 * check_number("checkpoint_minutes", checkpoint_minutes, low=0)
        self._output = self.run_dir if self.communicator.rank == 0 else None
        self.history = History(self._output / METRICS if self._output else None)
        self.epoch = self.step = 0
        self.stop = False
        self.lr = self.schedule.lr(0)
        self.best_epoch = 0
        self.best_score: float | None = None
        self._best: dict[str, Any] = {}
        self._epoch_steps, self._epoch_seconds = 0, 0.0  # of the running epoch: finished steps, and time spent on them
        self._state = StepState(self.backend, steps_per_epoch=self.steps_per_epoch, batch_size=self.batch_size)
        self._none_correct = None if train.outputs is None else self.backend.zeros((), "int64")
        self._evaluator = Evaluator(model, validation, self.communicator, loss=self.loss, metrics=self.metrics)
        # Weakly: a graph that refers to its trainer would keep it, and device memory, until the next collection.
        if shards == 1:
            self._captured = self.backend.capture(weakly(self._training_step), only_ops=self._is_known)
        else:
            cut: Any = {"count": shards, "batch_size": self.batch_size, "synchronised": config.sync_batch_norm}
            sharded = ShardedStep(self.flat, self.communicator, **cut)
            self._captured = sharded.captured(weakly(self._gradients), weakly(self._update))
        self._step_once = weakly(self._first_step)

    def _schedule(self, epochs: int) -> schedules.Schedule:
        steps = self.steps_per_epoch
        return schedules.create(
            self.config.schedule, total_steps=epochs * steps, steps_per_epoch=steps, **vars(self.config)
        )

    # --- one step ---------------------------------------------------------------------------------------------------

    def _training_step(self) -> None:
        # Only ops on arrays that stay in place: this is captured once and replayed (Backend.capture).
        found = self._gradients(0, self.batch_size)
        self._update(found.loss, found.correct)

    def _gradients(self, first_row: int, rows: int, gather: Gather | None = None) -> Result:
        """The gradients of some rows of the batch, in the parameters; with `gather`, see :class:`ForwardContext`."""
        seed, state = self.config.seed, self._state
        x, targets = self.train.training_batch(state.start, rows, seed=seed, step=state.step, first_row=first_row)
        weights = self.train.training_weights(state.start, rows)  # with them, there is one shard
        ctx = ForwardContext(True, seed, state.step, needs_input_grad=False, first_row=first_row, gather=gather)
        outputs, backward = self.model.forward(x, ctx)
        loss, gradient = self.loss(outputs, targets, weights)
        check_gradient(self.loss, outputs, gradient, self.flat.dtype)
        loss = self.backend.asarray(loss)  # a loss of one's own may return NumPy's scalar
        correct = ops.count_correct(outputs, targets) if self._none_correct is None else self._none_correct
        result = Result(loss, correct, targets, getattr(self.loss, "weight", None))
        backward(gradient if gather is None else weighted(gradient, result, first_row, gather))
        return result

    def _update(self, loss: Array, correct: Array) -> None:
        """Update the parameters by the gradients of the batch."""
        state = self._state
        scale, _ = ops.gradient_scale(self.flat.gradients, loss, max_norm=self.config.clip_norm)
        # From the first non-finite loss or gradient to the end of the epoch, the scale is NaN: updates are skipped, so
        # that the weights can be examined when the host reads the totals.
        state.advance(loss, correct, scale)
        self.optimizer.update(state.lr, state.step, scale)
        if self.average is not None:
            self.average.update(state.step)

    @property
    def _is_known(self) -> bool:
        """Whether all that a step calls is gpunet's, which computes by ops alone."""
        parts = [self.loss, self.train, self.optimizer, *(layer for _, layer in self.model.named_layers())]
        return all(type(part).__module__.startswith("gpunet.") for part in parts)

    def _first_step(self) -> None:
        # A rehearsal is one more step for layers and losses, which those of others than gpunet may count.
        with self.backend.compile_together(self._rehearse) if self._is_known else contextlib.nullcontext():
            self._captured()
        self._step_once = self._captured

    def _rehearse(self) -> None:
        """The ops of a step, whose kernels do nothing; what others change is changed back."""
        arrays = [*self._arrays().values(), self.flat.gradients]
        # In a step of shards, the layers write to the arrays of a shard, and some may have done so.
        arrays += [parameter.grad for parameter in self.flat.parameters.values()]
        arrays += [buffer.value for buffer in self.flat.buffers.values()]
        copies = [self.backend.copy(array) for array in arrays]
        try:
            self.backend.assign(self._state.step, 1)  # as an optimiser finds it: no kernel counts it up
            first = self.communicator.rank * (self.batch_size // self.communicator.size)
            found = self._gradients(first, self.batch_size // self.config.shards)
            self._update(found.loss, found.correct)
        finally:
            for array, copy in zip(arrays, copies, strict=True):
                self.backend.assign(array, copy)

    def _run_epoch(self, interrupts: Interrupts) -> EpochTotals | None:
        """Run the steps of the epoch that are left; None if a signal ended it after one of them."""
        resumed, started = self._epoch_seconds, time.perf_counter()
        first, done = self.epoch * self.steps_per_epoch, self._epoch_steps
        self.step = first + done
        self.train.shuffle(self.config.seed, self.epoch)
        rates = [self.schedule.lr(first + index) for index in range(self.steps_per_epoch)]
        if done:
            self._state.resume_epoch(rates)
            self.lr = rates[done - 1]
        else:
            self._state.start_epoch(first, rates)
        every = self.backend.steps_between_reads
        alone = self.communicator.size == 1
        saved = started
        for index in range(done, self.steps_per_epoch):
            self.lr = rates[index]
            self.train.prepare(index * self.batch_size, self.batch_size, training=True)
            self._step_once()
            self.step += 1
            last = index + 1 == self.steps_per_epoch
            save = not last and 0 < self._save_every <= time.perf_counter() - saved
            if (index + 1) % every and not (last or (alone and (save or interrupts.number is not None))):
                continue
            number, save = agreed(self.communicator, interrupts, save)
            if last and self.epoch + 1 < self.config.epochs:
                self.train.shuffle_ahead(self.config.seed, self.epoch + 1)  # while a GPU is at the steps in its queue
            totals = self._state.totals()
            if not totals.finite:
                raise diverged(self, index if totals.failed is None else totals.failed - first)
            self._epoch_steps, self._epoch_seconds = index + 1, resumed + time.perf_counter() - started
            for callback in self.callbacks:
                callback.on_step(self, index + 1, totals.loss / totals.steps)
            if number is not None or (alone and interrupts.number is not None):  # which may come during a callback
                return None
            if save:
                self._save_last()
                saved = time.perf_counter()
        return self._state.totals()

    # --- the training -----------------------------------------------------------------------------------------------

    def fit(self) -> History:
        """Train up to ``config.epochs`` epochs, then load the weights selected by ``config.keep`` into the model.

        A signal (Ctrl-C, SIGTERM, SIGHUP) ends it after the running step, whose state is saved in the run folder.
        Called again, it goes on from there. If an exception ends it, the model, the optimiser and the average have
        the values that they had before the epoch, or when it was resumed.

        Returns:
            the history of all epochs, including those before a resume.

        Raises:
            ConfigError: the model's arrays have moved since the Trainer was made.
            DeviceMemoryError: the device has too little memory; the message says which batch size to try.
            DivergedError: a loss is not finite; the message names the step and the first layer affected.
            Interrupted: a signal arrived.
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
            check_start(self)
            self.history.write()
            self._save_best()  # a kill may have left that of an earlier epoch
            with self.backend.active(), self.backend.use_precision(self.config.precision), Interrupts() as interrupts:
                while self.epoch < self.config.epochs and not self.stop:
                    self._fit_epoch(interrupts)
                    number, _ = agreed(self.communicator, interrupts, False)
                    if number is not None:
                        raise Interrupted(number)
            self.history.write()  # once more, so that it is on the disk
        finally:
            for callback in self.callbacks:
                callback.on_train_end(self)
        self.restore_best()
        return self.history

    def _fit_epoch(self, interrupts: Interrupts) -> None:
        try:
            self._run_and_record(interrupts)
            return
        except DeviceMemoryError as error:
            advice = f"train with batch_size {self.batch_size // 2} instead of {self.batch_size}"
            found = error.advised(advice if self.batch_size > 1 else "use a smaller model")
        raise found

    def _run_and_record(self, interrupts: Interrupts) -> None:
        for callback in self.callbacks:
            callback.on_epoch_start(self, self.epoch + 1)
        with self._unchanged_on_failure():
            totals = self._run_epoch(interrupts)
            trained = time.perf_counter()
            validated = None if totals is None else self._validate()
        if totals is None or validated is None:
            self._save_last()
            return
        validation, weights = validated
        images = self.steps_per_epoch * self.batch_size
        record: Record = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.lr,
            "train_loss": totals.loss / totals.steps,
            **({"train_accuracy": totals.correct / images} if self._none_correct is None else {}),
            "validation_loss": validation.loss,
            **{f"validation_{name}": score for name, score in validation.scores.items()},
            "seconds": round(self._epoch_seconds + time.perf_counter() - trained, 3),
            "images_per_second": round(images / self._epoch_seconds, 1),
        }
        self.epoch, self._epoch_steps, self._epoch_seconds = self.epoch + 1, 0, 0.0
        self.schedule.observe(validation.loss)
        self.history.append(record)
        if weights is not None:
            score = validation.scores[self.monitor.name]
            self.best_epoch, self.best_score, self._best = self.epoch, score, weights
        for callback in self.callbacks:
            callback.on_epoch_end(self, record)
        check_weights(self)
        # First what a resume needs: the other files are derived from it.
        self._save_last()
        if weights is not None:
            self._save_best()
        self.history.append_to_file()

    def _validate(self) -> tuple[Evaluation, dict[str, Any] | None]:
        """The evaluation after an epoch, and the weights, if they are to be kept."""
        with self.average.applied() if self.average is not None else contextlib.nullcontext():
            validation = self._evaluator()
            score = validation.scores[self.monitor.name]
            better = self.monitor.is_better(score, self.best_score) or self.config.keep == "last"
            weights = self.flat.state_dict() if better else None
        if not math.isfinite(validation.loss):
            raise not_validated(self)
        return validation, weights

    def _arrays(self) -> dict[str, Array]:
        """All arrays that a step changes, by the names that they have in a snapshot; not copies."""
        found = {"flat/values": self.flat.values, "flat/state": self.flat.state}
        found |= prefixed("optimizer", self.optimizer.slots()) | prefixed("epoch", self._state.arrays)
        return found if self.average is None else found | prefixed("average", self.average.slots())

    @contextlib.contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        """If the block raises, take all that a step changes back: a step may be half done, or not finite."""
        arrays = {name: self.backend.copy(array) for name, array in self._arrays().items()}
        steps, seconds = self._epoch_steps, self._epoch_seconds
        try:
            yield
        except BaseException:
            for name, array in self._arrays().items():
                self.backend.assign(array, arrays[name])
            self._epoch_steps, self._epoch_seconds = steps, seconds
            self.step = self.epoch * self.steps_per_epoch + steps
            raise

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _save_best(self) -> None:
        if self._output is not None and self._best:
            metadata = {
                **self.metadata,
                "epoch": self.best_epoch,
                f"validation_{self.monitor.name}": self.best_score,
                "architecture": architecture(self.flat),
            }
            save_checkpoint(self._output / BEST, {**prefixed("model", self._best), **self.tensors}, metadata)

    def _save_last(self) -> None:
        if self._output is None:
            return
        host = self.backend.to_numpy
        state = {name: host(array) for name, array in self._arrays().items() if not name.startswith("flat/")}
        Snapshot(
            {**prefixed("model", self.flat.state_dict()), **prefixed("best", self._best), **state, **self.tensors},
            epoch=self.epoch,
            epoch_steps=self._epoch_steps,
            epoch_seconds=self._epoch_seconds,
            epochs=self.config.epochs,
            stop=self.stop,
            best_epoch=self.best_epoch,
            best_score=self.best_score,
            schedule=self.schedule.state(),
            callbacks=[[type(callback).__name__, callback.state()] for callback in self._stateful()],
            records=self.history.records,
            identity=self.identity,
            about={**self.metadata, "architecture": architecture(self.flat)},
        ).write(self._output)

    def resume(self) -> bool:
        """Restore the state of the last checkpoint in the run folder; returns False if there is none yet.

        Raises:
            OtherTrainingError: it is of a training with other data or settings; only the number of epochs may differ.
            CheckpointError: it is damaged, missing beside a trained model, or has a different architecture.
        """
        if self.run_dir is None:
            return False
        folder = self.run_dir
        snapshot, trained = from_first(self.communicator, lambda: (read_snapshot(folder), (folder / BEST).exists()))
        if snapshot is None:
            if trained:
                raise CheckpointError(
                    f"{self.run_dir} cannot be resumed: it has a trained model, but no {LAST}; start a new run"
                )
            return False
        snapshot.check_identity(self.identity, self.run_dir)
        try:
            with self._unchanged_on_failure():
                self._restore(snapshot)
        except (KeyError, TypeError, ValueError) as error:  # from the state of a callback or a schedule
            raise CheckpointError(f"{self.run_dir} cannot be resumed: {type(error).__name__} {error}") from error
        rates = tuple(self._schedule(epochs).lr(self.step) for epochs in (snapshot.epochs, self.config.epochs))
        snapshot.explain_epochs(self.config, self.step, rates)
        return True

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same when the training is resumed."""
        data = {"training data": self.train.digest(), "validation data": self.validation.digest()}
        left_out = {"epochs", "loss", "metric"} | ({"shards"} if self.config.shards == 1 else set())
        left_out |= set() if self.config.sync_batch_norm else {"sync_batch_norm"}  # as before there was one
        settings = {name: value for name, value in vars(self.config).items() if name not in left_out}
        scaling = digest(target_tensors(self.model))
        found = {"target scaling": scaling} if self.model.target_scaling is not None else {}
        return {**data, **settings, **self._objective.identity, **found, **self._identity_given}

    def _restore(self, snapshot: Snapshot) -> None:
        self.flat.load_state_dict(under("model", snapshot.tensors))
        if snapshot.best_epoch:
            self.flat.check_state_dict(under("best", snapshot.tensors))
        self.optimizer.load_slots(under("optimizer", snapshot.tensors))
        if self.average is not None:
            self.average.load_slots(under("average", snapshot.tensors))
        _slots.load("the counters", self._state.arrays, under("epoch", snapshot.tensors), self.backend)
        self.schedule.load_state(snapshot.schedule)
        here = [type(item).__name__ for item in self._stateful()]
        # Those of rank 0 are saved; the other ranks may have fewer, as of such that write.
        saved = [entry for entry in snapshot.callbacks if self._output is not None or entry[0] in here]
        found = [name for name, _ in saved]
        if found != here:
            raise CheckpointError(
                f"the training in {self.run_dir} was begun with the callbacks {found}, but this one has {here}"
            )
        for callback, (_, state) in zip(self._stateful(), saved, strict=True):
            callback.load_state(state)
        self._best = under("best", snapshot.tensors)
        self.best_epoch, self.best_score = snapshot.best_epoch, snapshot.best_score
        self.epoch, self._epoch_steps, self.stop = snapshot.epoch, snapshot.epoch_steps, snapshot.stop
        self._epoch_seconds = snapshot.epoch_seconds
        self.step = self.epoch * self.steps_per_epoch + self._epoch_steps
        self.history.records = list(snapshot.records)

    def _stateful(self) -> list[Callback]:
        """The callbacks with state; others, such as a progress bar, may be added or removed on resume."""
        return [callback for callback in self.callbacks if callback.state()]

    def restore_best(self) -> None:
        """Load the weights with the best validation metric (with ``keep = "last"``, the last) into the model."""
        if self._best:
            self.flat.load_state_dict(self._best)
