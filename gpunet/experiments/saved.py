"""A model as a file: architecture, weights, scaling, classes and versions, in the format of all checkpoints."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import ops
from gpunet.backend import Array, Backend
from gpunet.data import Dataset, read_image
from gpunet.data.config import DataConfig
from gpunet.data.dataset import EIGHT_BITS
from gpunet.data.loader import Loader
from gpunet.data.pixels import to_uint8
from gpunet.data.scaling import Scaling
from gpunet.data.targets import TargetScaling
from gpunet.devices import get_backend
from gpunet.dlpack import on_host
from gpunet.errors import CheckpointError, ConfigError, DataError, DTypeError, ShapeError
from gpunet.experiments.config import RunConfig, from_toml, merge
from gpunet.files import PathLike
from gpunet.models import CNN, CNNConfig, create
from gpunet.nn import Layer, Sequential
from gpunet.tasks import CLASSIFICATION, MULTILABEL, REGRESSION, TASKS
from gpunet.training.checkpoint import architecture, load_checkpoint, prefixed, save_checkpoint, under
from gpunet.training.description import FEATURES, describe, description_of, scaling_tensors, target_tensors, versions
from gpunet.training.evaluation import predictions, sigmoid
from gpunet.training.trainer import BEST


@dataclass(frozen=True)
class SavedModel:
    """A trained model with everything needed to use it.

    Called with images, a classifier returns their classes and the probabilities of all classes; see
    :meth:`predict_proba`.

    >>> gn.save(gn.models.CNN((8, 8, 1), 2, (4,)).initialize(seed=0), "model.safetensors")
    >>> saved = gn.load("model.safetensors")
    >>> classes, probabilities = saved(np.zeros((3, 8, 8, 1), np.float32))
    >>> classes.shape, probabilities.shape, saved.input_shape
    ((3,), (3, 2), (8, 8, 1))
    """

    model: Sequential
    config: RunConfig
    input_shape: tuple[int, ...]
    """Of an image (H, W, C), or (F,) for features."""
    class_names: tuple[str, ...]
    pixel_scaling: Scaling | None
    """From pixels to inputs; None if inputs reach the network unchanged."""
    metadata: dict[str, Any]
    file: Path
    """The checkpoint."""

    @property
    def task(self) -> str:
        """What it was trained for, one of :data:`gpunet.tasks.TASKS`."""
        return str(self.metadata.get("task", CLASSIFICATION))

    @property
    def backend(self) -> Backend:
        """The device that the model is on."""
        assert self.model.flat is not None
        return self.model.flat.backend

    @property
    def scaling(self) -> Scaling:
        """The scaling of pixels.

        Raises:
            CheckpointError: the model has none, because it takes features.
        """
        if self.pixel_scaling is None:
            raise CheckpointError(
                f"the model in {self.file} takes inputs {self.input_shape} unchanged and has no scaling of pixels, "
                "so it cannot classify pictures: give it arrays, or save it with scaling="
            )
        return self.pixel_scaling

    @property
    def of_table(self) -> bool:
        """Whether it takes the features of a table rather than images."""
        return self.metadata.get("table") is True

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of the columns of the table that it was trained on, if they are known."""
        return tuple(self.metadata.get("feature_names", ()))

    @property
    def value_range(self) -> tuple[float, float]:
        """The pixel values that its scaling maps to 0 and 1, before standardisation."""
        low, high = self.config.data.value_range or EIGHT_BITS
        return low, high

    @property
    def knows_its_data(self) -> bool:
        """Whether the file says which data the model was trained on, as one of a run of ``gpunet train`` does."""
        return isinstance(self.metadata["config"], str)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures that the model takes.

        Raises:
            CheckpointError: it takes features.
        """
        if self.of_table or self.scaling is None or len(self.input_shape) != 3:
            raise CheckpointError(f"the model in {self.file} takes inputs {self.input_shape}, not pictures")
        height, width, channels = self.input_shape
        return height, width, channels

    def data_config(self, data: str | None = None, split: str = "test") -> DataConfig:
        """The options of the data that the model was trained on, at another path if `data` is given.

        Raises:
            CheckpointError: the file does not say which data those were, or how they were split.
        """
        if self.knows_its_data:
            return self.config.data if data is None else DataConfig(**{**vars(self.config.data), "data": data})
        if data is None or split != "test":
            raise CheckpointError(
                f"{self.file} does not say which data the model was trained on, nor how they were split: give a data "
                "set with --data (data= in Python), of which the test images are used"
            )
        return DataConfig(data=data)

    def predict_proba(self, images: Any) -> np.ndarray:
        """Probabilities of the classes, or of each label, (n, classes), for `images`.

        On the CPU, those of an image are to the last bit the same in any batch.

        Args:
            images: uint8 (n, H, W, C), or (n, H, W) for one channel; or paths of pictures of any size, one or several,
                see :func:`gpunet.data.read_image`. For a model of pixels of another range, or of a table, numbers
                (n, H, W, C) or (n, F) as in its data set. For a model without a scaling, numbers that are used
                unchanged.

        Raises:
            DataError: they are none of these, or do not fit the model.
            CheckpointError: a probability is not finite; the model has no scaling for pictures; it predicts numbers.
        """
        if self.task == REGRESSION:
            raise CheckpointError(f"the model in {self.file} predicts numbers, not probabilities: use predict")
        return self._outputs(images, ops.softmax if self.task == CLASSIFICATION else None)

    def _outputs(self, images: Any, last: Callable[[Array], Array] | None) -> np.ndarray:
        """What the model, followed by `last`, makes of `images`: probabilities, or numbers in the targets' units."""
        inputs = self._inputs(images)
        scaling: dict[str, Any] = {}
        if self.pixel_scaling is not None and inputs.dtype == np.uint8:
            scaling = {**self.pixel_scaling.to_arrays()}
        elif self.pixel_scaling is not None:
            inputs = self.pixel_scaling.apply(inputs)

        def loader(inputs: np.ndarray) -> Loader:
            labels = np.zeros(len(inputs), np.int32)
            return Loader(inputs, labels, backend=self.backend, dtype=self.config.training.dtype, **scaling)

        found = predictions(lambda x: self.model(x) if last is None else last(self.model(x)), inputs, loader)
        check_finite(self, found)
        if self.task == MULTILABEL:
            return sigmoid(found)
        return found if self.model.target_scaling is None else self.model.target_scaling.original(found)

    def pictures(self, pixels: np.ndarray) -> np.ndarray:
        """`pixels`, uint8 (n, H, W, C) from black to white, with the values that the model was trained on."""
        return Dataset(pixels, np.zeros(len(pixels), np.int32), self.class_names).in_range(self.value_range).in_memory()

    def predict(self, images: Any) -> np.ndarray:
        """The most probable classes, int64 (n,): indices into `class_names`. Arguments as :meth:`predict_proba`.

        A regression: numbers in the units of its targets, float64 (n, K), or (n,) for a single target. Several labels:
        whether each is more probable than not, int64 (n, K).
        """
        if self.task == REGRESSION:
            numbers = self._outputs(images, None)
            return numbers[:, 0] if numbers.shape[1] == 1 else numbers
        found = self.predict_proba(images)
        return found.argmax(1) if self.task == CLASSIFICATION else (found > 0.5).astype(np.int64)

    def __call__(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
        """Classes (n,), or labels (n, K), and probabilities (n, classes). Arguments as :meth:`predict_proba`."""
        probabilities = self.predict_proba(images)
        if self.task == MULTILABEL:
            return (probabilities > 0.5).astype(np.int64), probabilities
        return probabilities.argmax(1), probabilities

    def _inputs(self, images: Any) -> np.ndarray:
        if isinstance(images, (str, os.PathLike)):
            images = [images]
        if isinstance(images, (list, tuple)) and images and all(isinstance(one, (str, os.PathLike)) for one in images):
            return self.pictures(np.stack([read_image(path, self.image_shape) for path in images]))
        try:
            array = np.asarray(on_host(images))
        except (ValueError, TypeError) as error:
            raise DataError(f"images must be an array, or paths of pictures: {error}") from error
        shape = self.input_shape
        if array.ndim == 3 and len(shape) == 3 and shape[2] == 1:
            array = array[..., None]
        flat = len(shape) == 1 or self.of_table
        fits = array.shape[1:] == shape or (flat and math.prod(array.shape[1:]) == math.prod(shape))
        if array.ndim < 2 or not len(array) or not fits:
            raise DataError(
                f"the model takes arrays (n, {', '.join(map(str, shape))}), n >= 1, got shape {array.shape}"
            )
        if self.pixel_scaling is not None and self.value_range == EIGHT_BITS and not self.of_table:
            return to_uint8(array, "images", exact=True)
        if array.dtype.kind not in "uif" or not np.isfinite(array).all():
            raise DataError(f"the model takes finite numbers, got {array.dtype}")
        return array.reshape(len(array), *shape).astype(self.config.training.dtype)


def check_finite(saved: SavedModel, probabilities: np.ndarray, loss: float | None = None) -> None:
    """Check what the model has predicted.

    Raises:
        CheckpointError: a probability or the loss is not finite.
    """
    wrong = np.count_nonzero(~np.isfinite(probabilities).all(axis=1))
    if wrong or not (loss is None or np.isfinite(loss)):
        shown = "" if loss is None else f" (loss {loss})"
        what = "class probabilities" if saved.task == CLASSIFICATION else "outputs"
        raise CheckpointError(
            f"the model in {saved.file} gives {what} that are NaN or infinite for {wrong} of "
            f"{len(probabilities)} images{shown}: its weights are too large; use another checkpoint, or train "
            "again"
        )


def description(config: RunConfig, toml: str, dataset: Dataset) -> dict[str, Any]:
    """The metadata stored in every checkpoint of a run, so that it can be used without its run folder."""
    return {
        "kind": config.kind,
        "config": toml,
        "input_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
        "table": dataset.is_table,
        **({"feature_names": list(dataset.feature_names)} if dataset.feature_names else {}),
        "versions": versions(),
        **({} if dataset.task == CLASSIFICATION else {"task": dataset.task}),
    }


def save_model(
    model: Layer | SavedModel,
    path: PathLike,
    *,
    scaling: Scaling | None = None,
    class_names: Sequence[str] | None = None,
    input_shape: Sequence[int] | None = None,
    task: str | None = None,
) -> None:
    """Write `model` to the file `path`, atomically, for :func:`gpunet.load`.

    Args:
        model: one of :data:`gpunet.models.MODELS`, initialised; or a saved model, which has all else.
        scaling: of pixels, or of the features of a table, to inputs; None if the model is given its inputs as they are.
        class_names: by default 0, 1, 2 and so on; of the targets or labels for other tasks.
        input_shape: (H, W, C) of an image, for an MLP that does not know it.
        task: one of :data:`gpunet.tasks.TASKS`; by default ``regression`` for a model that was trained for one, else
            ``classification``.

    Raises:
        ConfigError: the model has no arrays or does not say how it was built; the scaling or the names do not fit it.
        OutputError: the file cannot be written.

    >>> model = gn.models.MLP((4, 3, 2)).initialize(seed=0)
    >>> gn.save(model, "model.safetensors", class_names=["cat", "dog"])
    >>> x = np.ones((1, 4), np.float32)
    >>> bool((gn.load("model.safetensors").model(x) == model(x)).all())
    True
    """
    if isinstance(model, SavedModel):
        if any(given is not None for given in (scaling, class_names, input_shape, task)):
            raise ConfigError("a saved model has its own scaling, class_names, input_shape and task: leave these out")
        assert model.model.flat is not None
        state = {**prefixed("model", model.model.flat.state_dict()), **scaling_tensors(model.pixel_scaling)}
        save_checkpoint(path, {**state, **target_tensors(model.model)}, model.metadata)
        return
    found = description_of(model)
    if model.flat is None:
        raise ConfigError("the model has no arrays yet: call model.initialize(seed) before saving it")
    if not model.flat.current:
        raise ConfigError("the model's arrays have moved to another model that shares its layers: save that one")
    shape = tuple(found.input_shape if input_shape is None else input_shape)
    if shape != found.input_shape and (len(found.input_shape) != 1 or math.prod(shape) != found.input_shape[0]):
        raise ConfigError(f"the model takes inputs {found.input_shape}, which do not fit input_shape {shape}")
    of_table = scaling is not None and len(shape) == 1 and scaling.scale.shape == (1, 1, *shape)
    if of_table:  # the features of a row are the channels of an image of one pixel
        shape = (1, 1, *shape)
    if scaling is not None and (len(shape) != 3 or scaling.scale.shape not in (shape, (1, 1, shape[-1]))):
        raise ConfigError(
            f"a scaling {scaling.scale.shape} does not fit the model's inputs {shape}: it needs images (H, W, C), for "
            "an MLP given by input_shape=, or one number for each feature, (1, 1, F)"
        )
    names = [str(number) for number in range(found.classes)] if class_names is None else list(class_names)
    if len(names) != found.classes or len(set(names)) != len(names) or not all(isinstance(one, str) for one in names):
        raise ConfigError(f"class_names must be {found.classes} different strings, got {names!r:.200}")
    of_numbers = model.target_scaling is not None
    task = task or (REGRESSION if of_numbers else CLASSIFICATION)
    if task not in TASKS or (of_numbers and task != REGRESSION):
        fitting = REGRESSION if of_numbers else ", ".join(TASKS)
        raise ConfigError(f"task must be {fitting} for this model, got {task!r:.80}")
    metadata = _metadata(model, scaling, names, shape)
    if task != CLASSIFICATION:
        metadata["task"] = task
    if of_table:
        metadata["table"] = True
    tensors = {**prefixed("model", model.flat.state_dict()), **scaling_tensors(scaling), **target_tensors(model)}
    save_checkpoint(path, tensors, metadata)


def _metadata(model: Layer, scaling: Scaling | None, names: Sequence[str], shape: Sequence[int]) -> dict[str, Any]:
    assert model.flat is not None
    metadata = describe(description_of(model), None, scaling=scaling, input_shape=list(shape), class_names=list(names))
    metadata["config"]["training"] = {"dtype": str(model.flat.dtype)}
    metadata["architecture"] = architecture(model.flat)
    return metadata


def as_saved(
    model: Sequential,
    file: Path,
    *,
    scaling: Scaling | None,
    class_names: Sequence[str],
    input_shape: Sequence[int],
    value_range: tuple[float, float] = EIGHT_BITS,
    table: bool = False,
) -> SavedModel:
    """A model in memory that came from `file`, as what :func:`load_model` returns; the arguments must fit each other.

    Raises:
        CheckpointError: they do not describe a usable model.
    """
    metadata = {**_metadata(model, scaling, class_names, input_shape), "table": table}
    metadata["config"]["data"] = {"value_range": list(value_range)}
    config, shape, names = _described(metadata)
    return SavedModel(model, config, shape, names, scaling, metadata, file)


def load_model(path: PathLike, device: str | Backend | None = None) -> SavedModel:
    """The model in a run folder (its best checkpoint), a checkpoint or a file of :func:`gpunet.save`, on `device`.

    Raises:
        CheckpointError: there is none, it is damaged, its weights do not fit its configuration, or one is not finite.
        DeviceError: the device is not available.

    >>> gn.save(gn.models.MLP((4, 3, 2)).initialize(seed=0), "model.safetensors", class_names=["cat", "dog"])
    >>> saved = gn.load("model.safetensors")
    >>> saved.class_names, saved.predict_proba(np.ones((5, 4))).shape
    (('cat', 'dog'), (5, 2))
    """
    backend = get_backend(device)
    file = Path(path) / BEST if Path(path).is_dir() else Path(path)
    try:
        tensors, metadata = load_checkpoint(file)
    except CheckpointError as error:
        if file.exists() and (Path(path) / "config.toml").is_file():
            hint = f"gpunet train --resume {shlex.quote(str(path))} writes it again"
            raise CheckpointError(f"{error}; {hint}") from error
        raise
    try:
        config, input_shape, names = _described(metadata)
        plain = metadata.get("inputs") == FEATURES
        scaling = None if plain else Scaling.from_arrays(under("input", tensors))
        targets = _target_scaling(metadata, tensors, len(names))
        stage = metadata.get("stage")
        if stage == "classifier":
            raise CheckpointError("it is the classifier of a hybrid and needs its CNN: give the hybrid's run folder")
        if stage == "cnn" and isinstance(config.model, CNNConfig):
            model: Sequential = CNN.from_config(config.model, input_shape, len(names))
        else:
            model = create(config.model, input_shape, len(names))
    except (CheckpointError, ConfigError, DataError, DTypeError, ShapeError) as error:
        raise CheckpointError(f"{file} does not describe a usable model: {error}") from error
    stored = sum(tensor.size for tensor in under("model", tensors).values())
    if model.parameter_count > max(2 * stored, 10**6):  # checked before memory is taken for them
        raise CheckpointError(
            f"{file}: the checkpoint is for another architecture: it has {stored} numbers, this model needs "
            f"{model.parameter_count}"
        )
    model.initialize(config.training.seed, device=backend, dtype=config.training.dtype)
    assert model.flat is not None
    try:
        model.flat.load_state_dict(under("model", tensors))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    model.target_scaling = targets
    return SavedModel(model, config, input_shape, names, scaling, metadata, file)


def _target_scaling(metadata: dict[str, Any], tensors: dict[str, np.ndarray], outputs: int) -> TargetScaling | None:
    task = metadata.get("task", CLASSIFICATION)
    if task not in TASKS:
        raise CheckpointError(f"its task must be one of {', '.join(TASKS)}, got {task!r:.80}")
    found = TargetScaling.from_arrays(under("target", tensors))
    if found is not None and (task != REGRESSION or len(found.mean) != outputs):
        raise CheckpointError(f"a scaling of {len(found.mean)} targets does not fit {outputs} outputs for {task}")
    return found


def _described(metadata: dict[str, Any]) -> tuple[RunConfig, tuple[int, ...], tuple[str, ...]]:
    """Configuration, shape of an input and class names in the header of a checkpoint."""
    text = metadata.get("config") if isinstance(metadata, dict) else None
    if not isinstance(text, (str, dict)):
        raise CheckpointError(
            "its header has no configuration; a Trainer writes that of a model made by a class of gpunet.models, or by "
            "gpunet.models.create"
        )
    shape = metadata.get("input_shape")
    ranks = (1, 3) if metadata.get("inputs") == FEATURES else (3,)
    if (
        not isinstance(shape, list)
        or len(shape) not in ranks
        or any(type(side) is not int or side < 1 for side in shape)
    ):
        raise CheckpointError(f"input_shape must be [height, width, channels], got {shape!r:.80}")
    source = "its configuration"
    config = from_toml(text, source=source) if isinstance(text, str) else merge(toml=text, source=source)
    return config, tuple(shape), _class_names(metadata)


def _class_names(metadata: Any) -> tuple[str, ...]:
    names = metadata.get("class_names") if isinstance(metadata, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"class_names must be a list of names, got {names!r:.80}")
    return tuple(names)


def load_class_names(path: PathLike) -> tuple[str, ...]:
    """The class names of the model in a run folder or a checkpoint file.

    Raises:
        CheckpointError: there is none, or it has no class names.
    """
    file = Path(path) / BEST if Path(path).is_dir() else Path(path)
    _, metadata = load_checkpoint(file)
    try:
        return _class_names(metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
