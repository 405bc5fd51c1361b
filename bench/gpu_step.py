"""GPU timings of the convolutions, of training steps and of a full training; the last line of the output is JSON.

python -m bench.gpu_step               kernels and training steps
python -m bench.gpu_step --train 20    the default CNN recipe for 20 epochs, with its test accuracy
python -m bench.gpu_step --sanitize    a few small steps, for compute-sanitizer
python -m bench.gpu_step --compile     compile all kernels, as gpunet warmup does, without a progress bar
--rehearse                             the same on next to no data: that it runs, without a time that means anything
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from bench.gpu_check import LEFT_OUT
from bench.gpu_convolutions import convolutions
from gpunet.backend import PRECISIONS, Backend
from gpunet.data.loader import Loader
from gpunet.devices import get_backend
from gpunet.errors import DataError
from gpunet.experiments.config import RunConfig, merge
from gpunet.experiments.warmup import warm_up
from gpunet.models import create
from gpunet.training import Callback, Trainer, TrainingConfig, evaluate

_IMAGES = 48_000
_SMALL: dict[str, dict[str, Any]] = {"cnn": {"filters": [4, 8]}, "mlp": {"hidden": [16]}}


def random_loader(backend: Backend, images: int = _IMAGES, **augmentation: Any) -> Loader:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 28, 28, 1), np.uint8)
    return Loader(pixels, rng.integers(0, 10, images), backend=backend, **augmentation)


def steps(backend: Backend, config: RunConfig, batch: int, epochs: int = 3, images: int = _IMAGES) -> str:
    """Training throughput on random images: images/s of the fastest epoch."""
    options = {**vars(config.training), "batch_size": batch, "epochs": epochs}
    augmentation = {"flip": config.data.flip, "shift": config.data.shift, "cutout": config.data.cutout}
    model = create(config.model, (28, 28, 1), 10).initialize(device=backend)
    loader, few = random_loader(backend, images, **augmentation), random_loader(backend, min(images, 1000))
    history = Trainer(model, TrainingConfig(**options), train=loader, validation=few, progress=False).fit()
    rate = max(record["images_per_second"] for record in history.records)
    return f"{rate:,.0f} images/s, {1e6 * batch / rate:.0f} us per step"


def timings(backend: Backend, *, rehearse: bool = False) -> dict[str, Any]:
    if rehearse:
        found = convolutions(backend, 2, {"a layer": (4, 4, 7)}, calls=1, repeats=1, rounds=1)
        for kind, small in _SMALL.items():
            found[f"{kind} training, batch 16"] = steps(backend, merge(kind=kind, overrides=small), 16, images=64)
        return found
    found = {}
    for precision in PRECISIONS:
        found |= convolutions(backend, precision=precision)
    for kind in ("cnn", "mlp"):
        for precision in PRECISIONS:
            config = merge(kind=kind, overrides={"precision": precision})
            for batch in (128, 256, 1024):
                found[f"{kind} training, batch {batch}, {precision}"] = steps(backend, config, batch)
    return found


def sanitize(backend: Backend) -> dict[str, Any]:
    """A few steps of a small CNN and MLP with every feature enabled, for tools that slow them down a hundredfold.

    Each array has an allocation of its own, and each kernel is launched by itself: in a block of a pool the tools see
    neither an access beyond the array nor one to what an earlier array has left, and little of a graph.
    """
    backend.captures = False
    if hasattr(backend.xp, "cuda"):
        backend.xp.cuda.set_allocator(None)
    for kind, small in _SMALL.items():
        config = merge(kind=kind, overrides={**small, "dropout": 0.1})
        options = {**vars(config.training), "batch_size": 8, "epochs": 2, "ema_decay": 0.9, "clip_norm": 1.0}
        loader = random_loader(backend, 40, flip=True, shift=1, cutout=3)
        Trainer(
            create(config.model, (28, 28, 1), 10).initialize(device=backend),
            TrainingConfig(**options),
            train=loader,
            validation=loader,
            progress=False,
        ).fit()
    return {"steps": 20}


def train(backend: Backend, epochs: int, *, rehearse: bool = False) -> dict[str, Any]:
    """The default CNN recipe on the real data: time, validation accuracy and test accuracy."""
    from gpunet.experiments.prepare import prepare

    config = merge(kind="cnn", overrides={"epochs": epochs, **(_SMALL["cnn"] if rehearse else {})})
    data = prepare(config.data)
    if rehearse:
        few = np.arange(64)
        parts = replace(data.split, train=data.split.train.take(few), validation=data.split.validation.take(few))
        data = replace(data, split=parts, test=data.test.take(few))
    loaders = {
        "train": data.loader("train", backend, "float32", config.data),
        "validation": data.loader("validation", backend, "float32"),
    }
    shown: list[dict[str, Any]] = []

    class Show(Callback):
        def on_epoch_end(self, trainer: Trainer, record: Any) -> None:
            shown.append(record)
            print(record, flush=True)

    model = create(config.model, data.split.train.image_shape, data.split.train.classes).initialize(device=backend)
    started = time.perf_counter()
    trainer = Trainer(model, config.training, **loaders, callbacks=[Show()], progress=False)
    trainer.fit()
    seconds = time.perf_counter() - started
    test = evaluate(model, data.loader("test", backend, "float32"))
    return {
        "epochs": epochs,
        "seconds": round(seconds, 2),
        "images_per_second": max(record["images_per_second"] for record in shown),
        "validation_accuracy": trainer.best_score,
        "test_accuracy": test.accuracy,
    }


def compile_all(backend: Backend) -> dict[str, Any]:
    started, names = time.perf_counter(), []
    warm_up(backend, lambda name, total: names.append(name))
    return {"compiled": len(names), "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_step")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--train", type=int, metavar="EPOCHS")
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    backend = get_backend(args.device)
    if args.compile:
        found = compile_all(backend)
    elif args.sanitize:
        found = sanitize(backend)
    elif args.train:
        try:
            found = train(backend, args.train, rehearse=args.rehearse)
        except DataError as error:
            print(f"no training: {' '.join(str(error).split())}")
            sys.exit(LEFT_OUT)
    else:
        found = timings(backend, rehearse=args.rehearse)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
