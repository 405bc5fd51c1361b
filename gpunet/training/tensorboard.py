"""TensorBoard event files: the scalars of each epoch and the configuration of the run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpunet.errors import ConfigError, OutputError
from gpunet.files import PathLike
from gpunet.packages import pip_install
from gpunet.training.callbacks import Callback

if TYPE_CHECKING:
    from gpunet.training.history import Record
    from gpunet.training.trainer import Trainer

FOLDER = "tensorboard"
"""The folder for event files in a run folder."""

_TAGS = {
    "lr": "learning_rate",
    "seconds": "time/seconds",
    "images_per_second": "time/images_per_second",
}
"""What TensorBoard calls entries of an epoch's record; ``validation_loss`` is ``loss/validation`` and so on."""


class TensorBoard(Callback):
    """Writes a TensorBoard event file with the record of each epoch; the step is the number of the epoch.

    A resumed run starts a new file with the earlier epochs and then removes the old one, which may contain an
    incomplete epoch, so that each epoch appears once.

    Args:
        folder: where the event file goes; by default ``tensorboard`` in the trainer's run folder.

    Raises:
        ConfigError: tensorboardX is not installed; or, when the training starts, there is neither a `folder` nor a
            run folder.
        OutputError: the file cannot be written.

    >>> from pathlib import Path
    >>> loader = gn.data.Loader(np.uint8([0, 255] * 50).reshape(100, 1, 1, 1), [0, 1] * 50)
    >>> model, config = gn.models.MLP((1, 2)).initialize(seed=0), gn.training.TrainingConfig(epochs=1)
    >>> callbacks = [gn.training.TensorBoard(Path("events"))]
    >>> history = gn.training.Trainer(model, config, train=loader, validation=loader, callbacks=callbacks).fit()
    >>> [file.name for file in Path("events").iterdir()]
    ['events.out.tfevents...']
    """

    def __init__(self, folder: PathLike | None = None) -> None:
        require_tensorboardx()
        self.folder = None if folder is None else Path(folder)
        self._writer: Any = None

    def on_train_start(self, trainer: Trainer) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.summary import text

        folder = self.folder
        if folder is None:
            if trainer.run_dir is None:
                raise ConfigError("TensorBoard needs a folder for its events: give it one, or the trainer a run_dir")
            folder = trainer.run_dir / FOLDER
        with _output(folder):
            folder.mkdir(parents=True, exist_ok=True)
            old = sorted(folder.glob("events.out.tfevents.*"))
            # Not SummaryWriter: on a full disk its thread would die silently, and then block training.
            self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
            self._write(text("configuration", _configuration(trainer)), 0, time.time())
            # As if the earlier epochs had just ended: pauses between stop and resume are left out.
            left = sum(record["seconds"] for record in trainer.history.records)
            for record in trainer.history.records:
                left -= record["seconds"]
                self._write_record(record, time.time() - left)
            self._writer.flush()
            for file in old:
                file.unlink()

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        with _output(self.folder or trainer.run_dir):
            self._write_record(record, time.time())
            self._writer.flush()

    def on_train_end(self, trainer: Trainer) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with _output(self.folder or trainer.run_dir):
                writer.close()

    def _write_record(self, record: Record, moment: float) -> None:
        from tensorboardX.summary import scalar

        for name, value in record.items():
            part, _, quantity = name.partition("_")
            tag = f"{quantity}/{part}" if part in ("train", "validation") else _TAGS.get(name)
            if tag is not None and value is not None:
                self._write(scalar(tag, value), record["epoch"], moment)

    def _write(self, summary: Any, step: int, moment: float) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(summary=summary, step=step, wall_time=moment))


def require_tensorboardx() -> None:
    """Check that event files can be written.

    Raises:
        ConfigError: tensorboardX is not installed.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"TensorBoard events need tensorboardX, which cannot be imported ({error}): {pip_install('tensorboard')}"
        ) from error


def _configuration(trainer: Trainer) -> str:
    """The run's TOML or, if there is none, the options of the trainer, as Markdown."""
    options = vars(trainer.config)
    text = trainer.metadata.get("config") or "\n".join(f"{name} = {value!r}" for name, value in options.items())
    return f"```toml\n{text}\n```"


@contextlib.contextmanager
def _output(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write TensorBoard events to {folder}: {error.strerror or error}") from error
