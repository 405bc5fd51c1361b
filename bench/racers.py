"""The contestants of the race: each runs in a separate process and measures its rate on request.

    python -m bench.racers CONTESTANT CASE BATCH

prints ``made`` when it has its model. It answers a line ``warm`` on stdin with ``ready`` after a warm-up, and each line
``go SECONDS`` with images per second. With a further argument ``first``, it prints ``done`` after its first step.
Nothing is imported that the contestant does not need.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

CASES = ("cnn-train", "cnn-infer", "mlp-train")
TORCH = {f"pytorch {how} {layout}": (how, layout) for how in ("eager", "compile") for layout in ("NCHW", "NHWC")}
MLP_IMAGES = 12_800
"""Images per epoch of the MLP: scikit-learn can only be run for whole epochs."""

Turn = Callable[[], int]
"""A unit of work; returns the number of images processed."""


def contestants(case: str) -> list[str]:
    """The contestants of a case."""
    if case == "mlp-train":  # feature vectors have no memory layout
        return ["gpunet", *(name for name, (_, layout) in TORCH.items() if layout == "NCHW"), "scikit-learn"]
    return ["gpunet", *TORCH]


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 28, 28, 1), np.uint8), rng.integers(0, 10, count)


def images_of_a_turn(case: str, batch: int) -> int:
    """Few enough that a turn ends soon after its time."""
    return MLP_IMAGES if case == "mlp-train" else max(batch, 512)


def model_of(case: str) -> Any:
    """The default architecture, without dropout, so that all contestants do the same work."""
    from gpunet.experiments.config import merge
    from gpunet.models import create

    kind = case.split("-")[0]
    config = merge(kind=kind, overrides={"dropout": 0.0, "activation": "relu"})
    return create(config.model, (28, 28, 1), 10)


# --- gpunet -----------------------------------------------------------------------------------------------------------


def gpunet(case: str, batch: int, count: int | None = None, backend: Any = None, precision: str = "float32") -> Turn:
    """On the CPU by default; `precision` is a GPU's."""
    from gpunet.backend import CPU
    from gpunet.data.loader import Loader
    from gpunet.training import Trainer, TrainingConfig
    from gpunet.training.interrupt import Interrupts

    backend = CPU if backend is None else backend
    model = model_of(case).initialize(device=backend)
    if case == "cnn-infer":
        x = backend.asarray(np.random.default_rng(0).random((batch, 28, 28, 1), np.float32))
        predict = backend.capture(lambda: model(x), only_ops=True)

        def infer() -> int:
            with backend.use_precision(precision):
                predict()
            return batch

        return infer
    pixels, labels = images(count or images_of_a_turn(case, batch))
    loader = Loader(pixels, labels, backend=backend)
    recipe: dict[str, Any] = {"optimizer": "adam", "lr": 1e-3, "schedule": "constant", "precision": precision}
    config = TrainingConfig(batch_size=batch, epochs=10**6, **recipe)
    trainer = Trainer(model, config, train=loader, validation=loader, progress=False)

    def epoch() -> int:
        trainer.epoch, trainer._epoch_steps = trainer.epoch + 1, 0  # without the validation that Trainer.fit adds
        with backend.active(), backend.use_precision(precision):
            totals = trainer._run_epoch(Interrupts())
        assert totals is not None
        return totals.steps * batch

    return epoch


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def torch_model(model: Any) -> Any:
    """A gpunet model's layers as PyTorch modules."""
    from torch import nn as torch_nn

    from gpunet import nn

    def convert(layer: Any) -> list[Any]:
        if isinstance(layer, nn.Conv2d):
            k, _, inputs, outputs = layer.weight.shape
            return [torch_nn.Conv2d(inputs, outputs, k, padding=k // 2, bias=layer.bias is not None)]
        if isinstance(layer, nn.BatchNorm):
            return [torch_nn.BatchNorm2d(layer.gamma.shape[0])]
        if isinstance(layer, nn.Linear):
            return [torch_nn.Linear(*layer.weight.shape)]
        if isinstance(layer, nn.ReLU):
            return [torch_nn.ReLU()]
        if isinstance(layer, nn.MaxPool2d):
            return [torch_nn.MaxPool2d(2)]
        if isinstance(layer, nn.GlobalAvgPool2d):
            return [torch_nn.AdaptiveAvgPool2d(1), torch_nn.Flatten()]
        if isinstance(layer, nn.Flatten):
            return [torch_nn.Flatten()]
        if isinstance(layer, nn.Dropout):
            return []
        children = [child for _, child in layer.children()]
        if not children:
            raise TypeError(f"no counterpart of {type(layer).__name__} in PyTorch")
        return [converted for child in children for converted in convert(child)]

    return torch_nn.Sequential(*convert(model))


def pytorch(case: str, batch: int, how: str, layout: str, count: int | None = None) -> Turn:
    import torch

    torch.manual_seed(0)
    model = torch_model(model_of(case))
    memory = torch.channels_last if layout == "NHWC" else torch.contiguous_format
    if case != "mlp-train":
        model = model.to(memory_format=memory)
    run = torch.compile(model) if how == "compile" else model
    if case == "cnn-infer":
        model.eval()
        x = torch.rand(batch, 1, 28, 28).contiguous(memory_format=memory)

        def infer() -> int:
            with torch.inference_mode():
                run(x)
            return batch

        return infer
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    pixels, labels = images(count or images_of_a_turn(case, batch))
    data = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)
    x = data.flatten(1) if case == "mlp-train" else data.contiguous(memory_format=memory)
    y = torch.from_numpy(labels)

    def epoch() -> int:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(run(x[rows]), y[rows]).backward()
            optimizer.step()
        return len(x) // batch * batch

    return epoch


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def scikit_learn(case: str, batch: int, count: int | None = None) -> Turn:
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # max_iter=1 always triggers a convergence warning
    pixels, labels = images(count or images_of_a_turn(case, batch))
    x = (pixels.reshape(len(pixels), -1) / np.float32(255)).astype(np.float32)
    model = MLPClassifier((128, 64), batch_size=batch, alpha=0.0, max_iter=1, warm_start=True, random_state=0)

    def epoch() -> int:
        model.fit(x, labels)
        return len(x)

    return epoch


def make(contestant: str, case: str, batch: int, count: int | None = None) -> Turn:
    """A contestant's turn: training on `count` images, by default as many as in the race."""
    if contestant == "gpunet":
        return gpunet(case, batch, count)
    if contestant == "scikit-learn":
        return scikit_learn(case, batch, count)
    return pytorch(case, batch, *TORCH[contestant], count)


def main() -> None:
    contestant, case, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if sys.argv[4:] == ["first"]:
        make(contestant, case, batch, count=batch)()
        print("done", flush=True)
        return
    answers = os.fdopen(os.dup(1), "w")  # keep what libraries print out of the answers
    os.dup2(2, 1)
    turn = make(contestant, case, batch)
    print("made", file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "warm":
            for _ in range(2):
                turn()
            print("ready", file=answers, flush=True)
            continue
        until = time.perf_counter() + float(line.split()[1])
        started, done = time.perf_counter(), 0
        while time.perf_counter() < until:
            done += turn()
        print(done / (time.perf_counter() - started), file=answers, flush=True)


if __name__ == "__main__":
    main()
