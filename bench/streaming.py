"""Packed data against the same data in memory: speed of training steps, peak memory, and a killed run's bits.

    python -m bench.streaming FOLDER [--images 1000000] [--steps 200] [--rounds 7] [--models mlp,cnn] [--part speed]

FOLDER gets, once, images 28 x 28 of noise in ten classes (`--images` of them, a tenth as many to test) as NPY files,
and these packed. Then:

* ``speed``: steps at batch size 128 from memory and from the disk, taking turns in one process, as the ratio of the
  medians of images per second. The order of an epoch is not in it, nor is the disk: the files are in the page cache.
* ``epoch``: an epoch of the MLP by ``gpunet train --stream always``, and with ``never``: seconds, peak memory of the
  process (``VmHWM``; nothing is mapped, so all of it is the process's own), and SHA-256 of the trained weights.
* ``resume``: the same streaming run ended by SIGKILL after a checkpoint within the epoch, and resumed: the SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import ROOT, available_cores, pinned
from gpunet.backend import CPU
from gpunet.data.config import DataConfig
from gpunet.data.pack import pack
from gpunet.data.packed import INDEX
from gpunet.experiments.prepare import prepare
from gpunet.models import CNN, MLP
from gpunet.nn import Layer
from gpunet.training import Callback, Trainer, TrainingConfig
from gpunet.training.checkpoint import load_checkpoint
from gpunet.training.snapshot import LAST
from gpunet.training.trainer import BEST

BATCH = 128
PARTS = ("speed", "epoch", "resume")
_BLOCK = 4096


def make(folder: Path, images: int) -> Path:
    """The packed data in `folder`, made in bounded memory unless they are there."""
    packed = folder / "packed"
    if (packed / INDEX).exists():
        return packed
    source = folder / "arrays"
    source.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 128, (10, 28, 28), np.uint8)
    for part, count in (("train", images), ("test", images // 10)):
        labels = rng.integers(0, 10, count, np.int32)
        np.save(source / f"y_{part}.npy", labels)
        pixels = np.lib.format.open_memmap(source / f"x_{part}.npy", "w+", np.uint8, (count, 28, 28))
        for start in range(0, count, _BLOCK):
            own = labels[start : start + _BLOCK]
            pixels[start : start + _BLOCK] = shades[own] + rng.integers(0, 128, (len(own), 28, 28), np.uint8)
        pixels.flush()
        del pixels
    pack(source, packed)
    return packed


class _EnoughError(Exception):
    pass


class _Clock(Callback):
    """Ends the epoch after `steps`, with the time between the first and the last."""

    def __init__(self, steps: int) -> None:
        self.steps, self.begin, self.seconds = steps, 0.0, 0.0

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        if step == 1:
            self.begin = time.perf_counter()
        if step == self.steps:
            self.seconds = time.perf_counter() - self.begin
            raise _EnoughError


def speed(packed: Path, model: str, steps: int, rounds: int) -> dict[str, Any]:
    """Images per second from memory and from the disk, taking turns, and the ratio of their medians."""
    for file in packed.iterdir():
        file.read_bytes()  # into the page cache
    data = prepare(DataConfig(data=str(packed)))
    shape, classes = data.test.image_shape, data.test.classes
    trainers, clocks = {}, {}
    for stream in ("never", "always"):
        layer: Layer = MLP((784, 128, 64, classes)) if model == "mlp" else CNN(shape, classes, filters=(8, 16, 32))
        layer.initialize(0, device=CPU)
        own = replace(data, config=replace(data.config, stream=stream))
        clocks[stream] = _Clock(steps)
        trainers[stream] = Trainer(
            layer,
            TrainingConfig(epochs=1, batch_size=BATCH),
            train=own.loader("train", CPU, "float32"),
            validation=own.loader("validation", CPU, "float32"),
            callbacks=[clocks[stream]],
        )
    found: dict[str, list[float]] = {stream: [] for stream in trainers}
    for number in range(rounds + 1):
        for stream, trainer in trainers.items():
            try:
                trainer.fit()
            except _EnoughError:
                if number:  # the first round compiles
                    found[stream].append((steps - 1) * BATCH / clocks[stream].seconds)
    medians = {stream: statistics.median(rates) for stream, rates in found.items()}
    ratios = [disk / memory for memory, disk in zip(found["never"], found["always"], strict=True)]
    return {
        "model": model,
        "in_memory": round(medians["never"]),
        "streaming": round(medians["always"]),
        "ratio": round(medians["always"] / medians["never"], 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def _command(packed: Path, runs: Path, name: str, *more: str) -> list[str]:
    words = ["train", "mlp", "--data", str(packed), "--epochs", "1", "--preset", "default", "--batch-size", str(BATCH)]
    return [sys.executable, "-m", "gpunet", *words, "--runs-dir", str(runs), "--name", name, "-q", *more]


def _weights(run: Path) -> str:
    tensors, _ = load_checkpoint(run / BEST)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def epoch(packed: Path, runs: Path, stream: str) -> dict[str, Any]:
    """One epoch by the command line."""
    name = f"epoch-{stream}-{time.time_ns()}"
    subprocess.run(_command(packed, runs, name, "--stream", stream), cwd=ROOT, env=_environment(), check=True)
    (run,) = runs.glob(f"{name}-*")
    result = json.loads((run / "result.json").read_text())
    return {
        "stream": stream,
        "images_per_second": result["images_per_second"],
        "seconds": result["seconds"],
        "peak_mb": round(result["peak_memory_bytes"] / 1e6, 1),
        "weights": _weights(run)[:16],
    }


def resumed(packed: Path, runs: Path) -> dict[str, Any]:
    """The epoch, killed after it has saved its state within the epoch, and resumed."""
    name = f"killed-{time.time_ns()}"
    words = _command(packed, runs, name, "--stream", "always", "--checkpoint-minutes", "0.02")
    with subprocess.Popen(words, cwd=ROOT, env=_environment()) as process:
        while process.poll() is None and not list(runs.glob(f"{name}-*/{LAST}")):
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    (run,) = runs.glob(f"{name}-*")
    killed = not (run / "result.json").exists()
    words = [sys.executable, "-m", "gpunet", "train", "--resume", str(run), "-q"]
    subprocess.run(words, cwd=ROOT, env=_environment(), check=True)
    return {"killed_within_the_epoch": killed, "weights": _weights(run)[:16]}


def _environment() -> dict[str, str]:
    return {**pinned(available_cores()), "GPUNET_DEVICE": "cpu", "PYTHONPATH": os.pathsep.join([str(ROOT)])}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and print a line of JSON for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default="mlp,cnn")
    parser.add_argument("--part", choices=PARTS, action="append")
    args = parser.parse_args(words)
    packed = make(args.folder, args.images)
    runs = args.folder / "runs"
    parts = args.part or PARTS
    if "speed" in parts:
        for model in args.models.split(","):
            print(json.dumps(speed(packed, model, args.steps, args.rounds)), flush=True)
    if "epoch" in parts:
        for stream in ("always", "never"):
            print(json.dumps(epoch(packed, runs, stream)), flush=True)
    if "resume" in parts:
        print(json.dumps(resumed(packed, runs)), flush=True)


if __name__ == "__main__":
    main()
