"""TensorBoard's events: what is in the files, read by the record format's own definition; each epoch once."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.errors import ConfigError, OutputError
from gpunet.training import Callback, TensorBoard
from gpunet.training.history import Record
from gpunet.training.trainer import Trainer
from tests.training.problems import make_trainer

pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install -e '.[tensorboard]'")

TAGS = {
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "validation_accuracy",
    "learning_rate": "lr",
    "time/seconds": "seconds",
    "time/images_per_second": "images_per_second",
}


def events(folder: Path) -> list[Any]:
    """All events of the only event file in `folder`: length, its checksum, the event, its checksum, again and again."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.glob("events.out.tfevents.*")
    content, place, found = file.read_bytes(), 0, []
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        found.append(Event.FromString(content[place + 12 : place + 12 + length]))
        place += 12 + length + 4
    assert place == len(content)
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) pairs of each tag, in the order of the file."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def assert_holds(folder: Path, records: list[Record]) -> None:
    found = scalars(folder)
    assert found.keys() == TAGS.keys()
    for tag, name in TAGS.items():
        expected = [(record["epoch"], float(np.float32(record[name]))) for record in records]
        assert found[tag] == expected, tag


class StopAfter(Callback):
    """Kills a training after the events of an epoch are written and before its checkpoint is."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        if record["epoch"] == self.epoch:
            raise RuntimeError("killed")


def test_each_epoch_and_the_configuration(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, (TensorBoard(),), epochs=2)
    trainer.metadata["config"] = "[training]\nepochs = 2"
    trainer.fit()
    assert_holds(tmp_path / "tensorboard", trainer.history.records)
    texts = [
        (value.tag, value.tensor.string_val[0].decode(), value.metadata.plugin_data.plugin_name)
        for event in events(tmp_path / "tensorboard")
        for value in event.summary.value
        if value.HasField("tensor")
    ]
    assert texts == [("configuration/text_summary", "```toml\n[training]\nepochs = 2\n```", "text")]


def test_a_resumed_run_has_each_epoch_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        make_trainer(tmp_path, (TensorBoard(), StopAfter(2)), epochs=3).fit()
    assert [step for step, _ in scalars(tmp_path / "tensorboard")["loss/train"]] == [1, 2]
    resumed = make_trainer(tmp_path, (TensorBoard(),), epochs=3)
    assert resumed.resume() and resumed.epoch == 1
    resumed.fit()
    assert_holds(tmp_path / "tensorboard", resumed.history.records)
    moments = [event.wall_time for event in events(tmp_path / "tensorboard") if event.step]
    assert moments == sorted(moments)


def test_events_of_a_finished_run(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=2).fit()
    again = make_trainer(tmp_path, (TensorBoard(tmp_path / "elsewhere"),), epochs=2)
    assert again.resume()
    assert_holds(tmp_path / "elsewhere", again.fit().records)


def test_it_changes_nothing_in_the_training(tmp_path: Path) -> None:
    plain, watched = make_trainer(epochs=1), make_trainer(callbacks=(TensorBoard(tmp_path),), epochs=1)
    plain.fit()
    watched.fit()
    assert plain.flat.values.tobytes() == watched.flat.values.tobytes()
    text = events(tmp_path)[1].summary.value[0].tensor.string_val[0].decode()
    assert "epochs = 1\n" in text and "optimizer = 'adamw'\n" in text, "without a TOML, the trainer's options"


def test_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TensorBoard needs a folder for its events: give it one, or the trainer"):
        make_trainer(callbacks=(TensorBoard(),)).fit()
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write TensorBoard events to .*tensorboard: File exists"):
        make_trainer(tmp_path, (TensorBoard(),)).fit()


def test_without_tensorboardx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"need tensorboardX, which cannot be imported .*pip install '?tensorboardX"):
        TensorBoard()
