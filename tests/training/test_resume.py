"""A training that was interrupted, killed or damaged goes on to the same bits, or says why not."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet import nn
from gpunet.data import Loader
from gpunet.errors import CheckpointError, Interrupted, OtherTrainingError
from gpunet.training import Callback, Trainer, load_checkpoint, save_checkpoint
from gpunet.training.snapshot import LAST, PREVIOUS, read_snapshot
from gpunet.training.trainer import BEST, METRICS
from tests.training.problems import images, make_trainer, without_times

OPTIONS: list[dict[str, Any]] = [
    {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "one_cycle", "ema_decay": 0.95},
    {"optimizer": "sgd", "lr": 0.05, "schedule": "plateau", "lr_patience": 0, "clip_norm": 1.0},
    {"optimizer": "adam", "schedule": "cosine", "early_stopping": 3, "label_smoothing": 0.1},
]
AT = {"first epoch": (1, 2), "first step": (3, 1), "last step": (4, 6)}
"""Where the trainings end: epoch and step, of 4 epochs with 6 steps."""


class StopAfter(Exception):
    """Stands for whatever kills a training."""


class At(Callback):
    """Does something once, after a step."""

    def __init__(self, epoch: int, step: int, action: Any) -> None:
        self.at, self.action, self.done = (epoch, step), action, False

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        if (trainer.epoch + 1, step) == self.at and not self.done:
            self.done = True
            self.action()


def kill() -> None:
    raise StopAfter


def send(number: int) -> Any:
    """What sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def content(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Everything in a checkpoint, without the times."""
    tensors, metadata = load_checkpoint(path)
    if "training" in metadata:
        metadata["training"]["records"] = without_times(metadata["training"]["records"])
        metadata["training"]["epoch_seconds"] = None
    return {name: tensor.tobytes() for name, tensor in tensors.items()}, metadata


def assert_same_runs(first: Trainer, second: Trainer) -> None:
    """The same weights in memory, and the same files, but for the times."""
    assert first.flat.values.tobytes() == second.flat.values.tobytes()
    assert first.flat.state.tobytes() == second.flat.state.tobytes()
    assert without_times(first.history.records) == without_times(second.history.records)
    for trainer in (first, second):
        assert trainer.run_dir is not None
        lines = (trainer.run_dir / METRICS).read_text().splitlines()
        assert [json.loads(line) for line in lines] == trainer.history.records
    for name in (BEST, LAST):
        assert content(first.run_dir / name) == content(second.run_dir / name)


def run_folders(tmp_path: Path) -> tuple[Path, Path]:
    folders = tmp_path / "whole", tmp_path / "cut"
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options["optimizer"])
@pytest.mark.parametrize("at", AT.values(), ids=AT)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, options: dict[str, Any], at: tuple[int, int]) -> None:
    whole_dir, cut_dir = run_folders(tmp_path)
    whole = make_trainer(whole_dir, **options)
    whole.fit()
    with pytest.raises(StopAfter):
        make_trainer(cut_dir, callbacks=(At(*at, kill),), **options).fit()
    resumed = make_trainer(cut_dir, **options)
    assert resumed.resume() == (at[0] > 1)
    assert resumed.epoch == at[0] - 1
    resumed.fit()
    assert_same_runs(resumed, whole)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options["optimizer"])
@pytest.mark.parametrize("at", AT.values(), ids=AT)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_the_step_and_the_run_goes_on_from_it(
    tmp_path: Path, options: dict[str, Any], at: tuple[int, int], name: str
) -> None:
    whole_dir, cut_dir = run_folders(tmp_path)
    whole = make_trainer(whole_dir, **options)
    whole.fit()
    number = getattr(signal, name)
    handlers = [signal.getsignal(number), signal.getsignal(signal.SIGINT)]
    stopped = make_trainer(cut_dir, callbacks=(At(*at, send(number)),), **options)
    with pytest.raises(Interrupted) as caught:
        stopped.fit()
    assert caught.value.exit_code == 128 + number
    assert [signal.getsignal(number), signal.getsignal(signal.SIGINT)] == handlers
    resumed = make_trainer(cut_dir, **options)
    assert resumed.resume()
    assert (resumed.epoch, resumed.step) == (at[0] - 1, 6 * (at[0] - 1) + at[1])
    resumed.fit()
    assert_same_runs(resumed, whole)
    stopped.fit()  # in memory, as in a notebook
    assert stopped.flat.values.tobytes() == whole.flat.values.tobytes()
    assert without_times(stopped.history.records) == without_times(whole.history.records)


def test_a_second_signal_stops_at_once_and_ignored_ones_stay_ignored(tmp_path: Path) -> None:
    def twice() -> None:
        send(signal.SIGINT)()
        send(signal.SIGTERM)()
        raise AssertionError("the second signal must not wait for the end of the step")

    trainer = make_trainer(tmp_path, callbacks=(At(2, 3, twice),))
    with pytest.raises(Interrupted) as caught:
        trainer.fit()
    assert caught.value.number == signal.SIGTERM
    assert (trainer.epoch, trainer.step) == (1, 6), "back at the end of the first epoch"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        assert len(make_trainer(epochs=2, callbacks=(At(1, 3, send(signal.SIGHUP)),)).fit().records) == 2
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options["optimizer"])
@pytest.mark.parametrize("at", AT.values(), ids=AT)
def test_a_killed_run_goes_on_within_an_epoch(tmp_path: Path, options: dict[str, Any], at: tuple[int, int]) -> None:
    whole_dir, cut_dir = run_folders(tmp_path)
    whole = make_trainer(whole_dir, **options)
    whole.fit()
    with pytest.raises(StopAfter):
        make_trainer(cut_dir, callbacks=(At(*at, kill),), checkpoint_minutes=1e-9, **options).fit()
    resumed = make_trainer(cut_dir, **options)
    assert resumed.resume()
    assert resumed.step == 6 * (at[0] - 1) + at[1] - 1, "the step before the kill"
    resumed.fit()
    assert_same_runs(resumed, whole)


def test_interrupted_again_and_again_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole_dir, cut_dir = run_folders(tmp_path)
    whole = make_trainer(whole_dir, **OPTIONS[0])
    whole.fit()
    for step in range(1, 24):
        epoch, within = divmod(step - 1, 6)
        trainer = make_trainer(cut_dir, callbacks=(At(epoch + 1, within + 1, send(signal.SIGTERM)),), **OPTIONS[0])
        assert trainer.resume() == (step > 1)
        with pytest.raises(Interrupted):
            trainer.fit()
    last = make_trainer(cut_dir, **OPTIONS[0])
    assert last.resume() and last.step == 23
    last.fit()
    assert_same_runs(last, whole)


def test_an_interruption_before_the_first_checkpoint_leaves_no_half_of_an_epoch(tmp_path: Path) -> None:
    """As by a full disk: the record of an epoch was written, but its checkpoint was not."""
    whole_dir, cut_dir = run_folders(tmp_path)
    whole = make_trainer(whole_dir, epochs=2)
    whole.fit()
    (cut_dir / METRICS).write_text((whole_dir / METRICS).read_text().splitlines()[0] + '\n{"epoch": 9')
    again = make_trainer(cut_dir, epochs=2)
    assert not again.resume()
    again.fit()
    assert_same_runs(again, whole)


def test_fit_after_an_exception_repeats_the_epoch_with_the_same_bits() -> None:
    options = {"schedule": "step", "lr_step": 1, "ema_decay": 0.9}
    whole = make_trainer(**options)
    whole.fit()
    trainer = make_trainer(callbacks=(At(2, 4, kill),), **options)
    with pytest.raises(StopAfter):
        trainer.fit()
    trainer.fit()
    assert trainer.flat.values.tobytes() == whole.flat.values.tobytes()
    assert without_times(trainer.history.records) == without_times(whole.history.records)


def test_callbacks_with_memory_must_be_there_again(tmp_path: Path) -> None:
    class Memory(Callback):
        def state(self) -> dict[str, Any]:
            return {"seen": 1}

    make_trainer(tmp_path, epochs=1, callbacks=(Callback(), Memory())).fit()
    assert make_trainer(tmp_path, epochs=1, callbacks=(Memory(),)).resume(), "one without memory may be missing"
    with pytest.raises(CheckpointError, match=r"with the callbacks \['Memory'\], but this one has \[\]"):
        make_trainer(tmp_path, epochs=1).resume()


def test_a_finished_run_resumes_to_its_best_weights(tmp_path: Path) -> None:
    first = make_trainer(tmp_path, epochs=3)
    first.fit()
    again = make_trainer(tmp_path, epochs=3)
    assert again.resume()
    assert len(again.fit().records) == 3
    assert again.flat.values.tobytes() == first.flat.values.tobytes()


def test_more_epochs_continue_with_a_constant_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"schedule": "constant", "optimizer": "sgd", "lr": 0.02}
    whole = make_trainer(epochs=4, **options)
    whole.fit()
    make_trainer(tmp_path, epochs=2, **options).fit()
    longer = make_trainer(tmp_path, epochs=4, **options)
    assert longer.resume()
    longer.fit()
    assert without_times(longer.history.records) == without_times(whole.history.records)
    assert longer.flat.values.tobytes() == whole.flat.values.tobytes()
    assert not caplog.records


def test_a_stretched_schedule_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer(tmp_path, epochs=2, schedule="cosine", warmup=0.0, lr=0.01).fit()
    longer = make_trainer(tmp_path, epochs=4, schedule="cosine", warmup=0.0, lr=0.01)
    assert longer.resume()
    # half of a cosine from 0.01 to 0, where the one of two epochs has ended
    assert "from 2 to 4 epochs: the learning rate of step 13 is 0.005, not 0" in caplog.text


def test_an_early_stopped_run_stays_stopped_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = make_trainer(tmp_path, epochs=50, early_stopping=1)
    first.fit()
    assert first.epoch < 50
    longer = make_trainer(tmp_path, epochs=60, early_stopping=1)
    assert longer.resume()
    assert len(longer.fit().records) == first.epoch
    assert f"stopped after epoch {first.epoch}, before the 60 that it may have" in caplog.text


def test_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=1).fit()
    other = make_trainer(tmp_path, epochs=1, model=nn.Sequential([nn.Flatten(), nn.Linear(64, 4)]).initialize())
    before = other.flat.values.copy()
    with pytest.raises(CheckpointError, match="another architecture"):
        other.resume()
    np.testing.assert_array_equal(other.flat.values, before)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=1).fit()
    with pytest.raises(OtherTrainingError, match=r"other batch_size \(32, now 16\), lr \(0\.005, now 0\.1\): resume"):
        make_trainer(tmp_path, epochs=1, batch_size=16, lr=0.1).resume()


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("change", ["pixel", "label", "order", "shift"])
def test_other_data_of_the_same_size_are_refused(tmp_path: Path, part: str, change: str) -> None:
    trainer = make_trainer(tmp_path, epochs=1)
    trainer.fit()
    pixels, labels = images(200, 1) if part == "train" else images(100, 2)
    if change == "pixel":
        pixels[7, 3, 3] ^= 1
    elif change == "label":
        labels[7] = (labels[7] + 1) % 4
    elif change == "order":
        pixels, labels = pixels[::-1], labels[::-1]
    other = make_trainer(tmp_path, epochs=1)
    shift = {"train": 1, "validation": 0}[part] + (change == "shift")
    setattr(other, part, Loader(pixels, labels, shift=shift))
    with pytest.raises(OtherTrainingError, match=f"begun with other {'training' if part == 'train' else part} data: "):
        other.resume()


@pytest.mark.parametrize("damage", ["truncated", "text", "foreign", "flipped", "version"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole_dir, cut_dir = run_folders(tmp_path)
    whole = make_trainer(whole_dir)
    whole.fit()
    with pytest.raises(StopAfter):
        make_trainer(cut_dir, callbacks=(At(4, 2, kill),)).fit()
    for name in (LAST, PREVIOUS):
        resumed = make_trainer(cut_dir)
        path = cut_dir / name
        tensors, metadata = load_checkpoint(path)
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        elif damage == "text":
            path.write_text("not a checkpoint")
        elif damage == "foreign":
            from safetensors.numpy import save_file

            save_file({"a": np.ones(2)}, path)
        elif damage == "flipped":
            data = bytearray(path.read_bytes())
            data[-9] ^= 1
            path.write_bytes(data)
        else:
            del metadata["training"]["records"]
            save_checkpoint(path, tensors, metadata)
        if name == LAST:
            shutil.copytree(cut_dir, tmp_path / "again")
            other = make_trainer(tmp_path / "again")
            assert other.resume() and other.epoch == 2
            assert "going back to previous.safetensors, after epoch 2" in caplog.text
            other.fit()
            assert_same_runs(other, whole)
    before, best = resumed.flat.values.copy(), (cut_dir / BEST).read_bytes()
    with pytest.raises(CheckpointError, match=r"last\.safetensors .*cannot be resumed"):
        resumed.resume()
    np.testing.assert_array_equal(resumed.flat.values, before)
    assert (cut_dir / BEST).read_bytes() == best


def test_a_missing_last_checkpoint_is_the_one_before_or_an_error(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=2).fit()
    (tmp_path / LAST).unlink()  # as between the two renames
    trainer = make_trainer(tmp_path, epochs=2)
    assert trainer.resume() and trainer.epoch == 1
    (tmp_path / PREVIOUS).unlink()
    best = (tmp_path / BEST).read_bytes()
    with pytest.raises(CheckpointError, match=r"has a trained model, but no last\.safetensors"):
        make_trainer(tmp_path, epochs=2).resume()
    assert (tmp_path / BEST).read_bytes() == best


def test_a_best_checkpoint_is_not_replaced_by_one_without_weights(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=1).fit()
    best = (tmp_path / BEST).read_bytes()
    tensors, metadata = load_checkpoint(tmp_path / LAST)
    save_checkpoint(tmp_path / LAST, {k: v for k, v in tensors.items() if not k.startswith("best/")}, metadata)
    with pytest.raises(CheckpointError, match="it has no weights of its best epoch"):
        make_trainer(tmp_path, epochs=1).resume()
    assert (tmp_path / BEST).read_bytes() == best


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Anywhere in the file: the length of the header, the header, the tensors."""
    make_trainer(tmp_path, epochs=1, model=nn.Sequential([nn.Flatten(), nn.Linear(64, 4)]).initialize()).fit()
    path = tmp_path / LAST
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, len(whole), 400).tolist()]
    found = 0
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            load_checkpoint(path)
        except CheckpointError:
            found += 1
    assert found == len(places)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", "1"),
        ("epoch", True),
        ("epoch", 2),
        ("records", {}),
        ("records", [{"epoch": 1}]),
        ("best_epoch", 7),
        ("stop", 1),
        ("callbacks", [["EarlyStopping"]]),
        ("identity", None),
        ("schedule", []),
    ],
)
def test_the_state_of_another_version_is_refused_in_one_sentence(tmp_path: Path, name: str, value: Any) -> None:
    make_trainer(tmp_path, epochs=1).fit()
    tensors, metadata = load_checkpoint(tmp_path / LAST)
    metadata["training"][name] = value
    save_checkpoint(tmp_path / LAST, tensors, metadata)
    with pytest.raises(CheckpointError, match=r"last\.safetensors is not the state of a training of this version"):
        read_snapshot(tmp_path)


def test_a_checkpoint_without_a_checksum_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.numpy import save_file

    header = {"format": "gpunet-checkpoint-1", "metadata": '{"a": 1}'}
    save_file({"x": np.ones(2, np.float32)}, tmp_path / "old.safetensors", header)
    with caplog.at_level(logging.WARNING):
        tensors, metadata = load_checkpoint(tmp_path / "old.safetensors")
    assert tensors["x"].tolist() == [1, 1] and metadata == {"a": 1}
    assert "old.safetensors has no checksum" in caplog.text
