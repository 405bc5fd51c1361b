"""One training step of the default MLP, from a batch of floats to new weights, against scikit-learn and PyTorch.

All start from the same weights and see the same batch, with SGD with momentum, the one update rule that is identical in
all three. ``python -m bench.race`` compares whole epochs with Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bench.contest import Call, Problem
from bench.racers import images, model_of, torch_model
from gpunet import ops
from gpunet.backend import backend_of
from gpunet.nn import ForwardContext
from gpunet.optim import create

IMPLEMENTATIONS = ("numpy", "numba", "cupy", "rawkernel", "scikit-learn", "pytorch")
SIZES = (784, 128, 64, 10)
LR, MOMENTUM = 0.1, 0.9


def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """``w0``, ``b0``, ... of the layers, on the scale of He initialisation."""
    found = {}
    for number, (inputs, outputs) in enumerate(pairwise(SIZES)):
        found[f"w{number}"] = rng.standard_normal((inputs, outputs), dtype=np.float32) * np.float32((2 / inputs) ** 0.5)
        found[f"b{number}"] = rng.standard_normal(outputs, dtype=np.float32) * np.float32(0.1)
    return found


def ours(a: Any) -> Call:
    model = model_of("mlp-train").initialize(device=backend_of(a.x))
    flat = model.flat
    for number in range(3):
        layer = model.layers[f"linear{number + 1}"]
        layer.weight.value[...], layer.bias.value[...] = getattr(a, f"w{number}"), getattr(a, f"b{number}")
    optimizer = create("sgd", momentum=MOMENTUM, nesterov=False, beta1=0.9, beta2=0.999, weight_decay=0.0)
    optimizer.bind(flat)
    ctx = ForwardContext(training=True, seed=0, step=0, needs_input_grad=False)

    def step() -> Any:
        logits, backward = model.forward(a.x, ctx)
        loss, dlogits = ops.softmax_cross_entropy(logits, a.labels)
        backward(dlogits)
        scale, _ = ops.gradient_scale(flat.gradients, loss)
        optimizer.update(LR, 1, scale)
        return model.layers["linear1"].weight.value

    return step


def expression(xp: Any, a: Any) -> Call:
    parameters = [getattr(a, f"{kind}{number}") for number in range(3) for kind in "wb"]
    velocities = [xp.zeros_like(parameter) for parameter in parameters]
    rows = xp.arange(len(a.labels))

    def step() -> Any:
        inputs = [a.x]
        for number in range(3):
            z = inputs[-1] @ parameters[2 * number] + parameters[2 * number + 1]
            inputs.append(xp.maximum(z, 0) if number < 2 else z)
        e = xp.exp(inputs[3] - inputs[3].max(1, keepdims=True))
        dz = e / e.sum(1, keepdims=True)
        dz[rows, a.labels] -= 1
        dz /= len(rows)
        gradients = []
        for number in (2, 1, 0):
            gradients[:0] = [inputs[number].T @ dz, dz.sum(0)]
            if number:
                dz = dz @ parameters[2 * number].T * (inputs[number] > 0)
        for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
            velocity[...] = MOMENTUM * velocity + gradient
            parameter -= LR * velocity
        return parameters[0]

    return step


def scikit_learn(a: Any) -> Call:
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        SIZES[1:-1], solver="sgd", alpha=0.0, batch_size=len(a.x), learning_rate_init=LR, momentum=MOMENTUM,
        nesterovs_momentum=False, random_state=0,
    )  # fmt: skip
    model.partial_fit(a.x, a.labels, classes=np.arange(SIZES[-1]))  # allocates the weights, which are then overwritten
    for number in range(3):
        model.coefs_[number][...], model.intercepts_[number][...] = getattr(a, f"w{number}"), getattr(a, f"b{number}")
    for velocity in model._optimizer.velocities:
        velocity[...] = 0

    def step() -> Any:
        model.partial_fit(a.x, a.labels)
        return model.coefs_[0]

    return step


def torchs(torch: Any, a: Any, variant: str) -> Call:
    model = torch_model(model_of("mlp-train"))
    layers = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.weight.copy_(getattr(a, f"w{number}").T)
            layer.bias.copy_(getattr(a, f"b{number}"))
    optimizer, labels = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM), a.labels.long()

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(a.x), labels).backward()
        optimizer.step()
        return layers[0].weight.detach().T

    return step


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_mlp_step(implementation: str, batch: int, rng: np.random.Generator, contest: Callable[..., None]) -> None:
    pixels, labels = images(batch)
    labels[: min(batch, SIZES[-1])] = np.arange(min(batch, SIZES[-1]))
    start = weights(rng)
    arrays = {
        "x": pixels.reshape(batch, -1) / np.float32(255),
        "labels": labels.astype(np.int32),
        **start,
    }

    def oracle() -> Any:
        doubles = {name: array.astype(np.float64) for name, array in arrays.items() if name != "labels"}
        given = type("Arrays", (), {**doubles, "labels": arrays["labels"]})
        before = given.w0.copy()
        step = expression(np, given) if implementation == "scikit-learn" else scikit_learn(given)
        return step() - before

    size = sum(array.size for array in start.values())
    forward = 2 * batch * sum(i * o for i, o in pairwise(SIZES))
    contest(
        Problem(
            op="mlp_step",
            shape="784-128-64-10",
            direction="step",
            batch=batch,
            arrays=arrays,
            # The batch, the parameters in both passes, the gradients, and the reads and writes of the update.
            bytes_moved=arrays["x"].nbytes + 4 * size * (2 + 1 + 5),
            flops=3 * forward - 2 * batch * SIZES[0] * SIZES[1],  # no gradient of the images
            # The change of the weights is compared, which is smaller than they are and so loses their last bits.
            terms=SIZES[0],
            scale=float(np.abs(start["w0"]).max()),
            ours=ours,
            expression=expression,
            oracle=oracle,
            oracle_is="scikit-learn",
            others={"scikit-learn": scikit_learn},
            pytorch=torchs,
            read=lambda weight: np.asarray(weight.get() if hasattr(weight, "get") else weight) - start["w0"],
        ),
        implementation,
    )
