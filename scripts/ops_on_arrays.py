"""
Ops on raw arrays
=================

Differentiate a convolution on raw arrays, without layers or models: recover the filter that produced an image.

.. code-block:: sh

    python scripts/ops_on_arrays.py
    python scripts/ops_on_arrays.py --device cuda

Every op in ``gn.ops`` is a function of NumPy or CuPy arrays with a matching ``_backward``.
"""

import argparse

import numpy as np

import gpunet as gn
from gpunet.backend import Array


def main() -> None:
    parser = argparse.ArgumentParser(description="Gradient descent on the weights of one convolution.")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()

    backend = gn.get_backend(args.device)
    rng = np.random.default_rng(0)
    x = backend.asarray(rng.standard_normal((8, 16, 16, 1)))  # images NHWC, float64
    sobel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float64).reshape(3, 3, 1, 1)  # weights HWIO
    target = gn.ops.conv2d(x, backend.asarray(sobel), padding="same")

    weight = backend.zeros((3, 3, 1, 1), "float64")
    for step in range(args.steps):
        y = gn.ops.conv2d(x, weight, padding="same")
        error = y - target
        loss = float((error * error).mean()) / 2
        dy = error / error.size  # the gradient of the loss
        _, dweight, _ = gn.ops.conv2d_backward(dy, x, weight, padding="same", needs=("weight",))
        weight = weight - 0.5 * dweight
        if step % 50 == 0:
            print(f"step {step:>3}  loss {loss:.2e}")

    # Check the gradient by central differences along one direction.
    direction = backend.asarray(rng.standard_normal(sobel.shape))
    start = backend.zeros(sobel.shape, "float64")

    def loss_at(weight: Array) -> float:
        error = gn.ops.conv2d(x, weight, padding="same") - target
        return float((error * error).mean()) / 2

    h = 1e-5
    differences = (loss_at(start + h * direction) - loss_at(start - h * direction)) / (2 * h)
    dy = (gn.ops.conv2d(x, start, padding="same") - target) / target.size
    _, dweight, _ = gn.ops.conv2d_backward(dy, x, start, padding="same", needs=("weight",))
    print(f"slope by backward {float((dweight * direction).sum()):.8f}, by finite differences {differences:.8f}")
    print("recovered filter:")
    print(backend.to_numpy(weight)[:, :, 0, 0].round(3))


if __name__ == "__main__":
    main()
