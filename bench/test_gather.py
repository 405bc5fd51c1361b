"""Gathering a training batch from a shuffled uint8 data set, plain and augmented."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.contest import Call, Problem
from gpunet import ops
from gpunet.ops import random
from gpunet.ops.gather import reference

IMPLEMENTATIONS = ("reference", "numpy", "numba", "cupy", "rawkernel", "pytorch")
SHAPES = {"28x28x1": (28, 28, 1), "32x32x3": (32, 32, 3)}
AUGMENTATIONS: dict[str, dict[str, Any]] = {"plain": {}, "augmented": {"flip": True, "shift": 2, "cutout": 8}}
IMAGES = 4096
SEED, STEP = 1, 2


def draws(batch: int, height: int, width: int, flip: bool, shift: int, cutout: int) -> dict[str, np.ndarray]:
    """The random choices for each row: flip, shift down and right, first row and column of the cutout.

    The expressions take these as inputs, so that their time excludes random numbers; gpunet's includes them.
    """
    stream = random.PhiloxStream(SEED, random.AUGMENT, STEP)
    words = stream.bits(8 * batch).reshape(batch, 8).astype(np.int64)
    return {
        "mirrored": flip & (words[:, 0] >= 2**31),
        "down": (words[:, 1] * (2 * shift + 1) >> 32) - shift,
        "right": (words[:, 2] * (2 * shift + 1) >> 32) - shift,
        "top": (words[:, 4] * height >> 32) - cutout // 2,
        "left": (words[:, 5] * width >> 32) - cutout // 2,
    }


def of(module: Any, batch: int, options: dict[str, Any], a: Any) -> Call:
    return lambda: module.gather_batch(
        a.images, a.labels, a.order, start=3, size=batch, seed=SEED, step=STEP, **options
    )[0]


def expression(batch: int, options: dict[str, Any], xp: Any, a: Any) -> Call:
    """Fancy indexing: shift and flip in one gather, then the cutout by a mask."""
    if not options:
        return lambda: a.images[a.order[3 : 3 + batch]] / xp.float32(255)
    return _augmented(batch, options, a, xp.arange, xp.pad, xp.where, lambda array: array / xp.float32(255))


def torchs(batch: int, options: dict[str, Any], torch: Any, a: Any, variant: str) -> Call:
    if not options:
        return lambda: a.images[a.order[3 : 3 + batch]].float().div_(255)

    def pad(images: Any, widths: Any) -> Any:
        (_, _), (above, below), (before, behind), (_, _) = widths
        return torch.nn.functional.pad(images, (0, 0, before, behind, above, below))

    return _augmented(batch, options, a, torch.arange, pad, torch.where, lambda array: array.float().div_(255))


def _augmented(batch: int, options: dict[str, Any], a: Any, arange: Any, pad: Any, where: Any, scaled: Any) -> Call:
    height, width = a.images.shape[1:3]
    shift, cutout = options["shift"], options["cutout"]
    i, j = arange(height)[None, :, None], arange(width)[None, None, :]
    down, right, mirrored, top, left = (
        getattr(a, name)[:, None, None] for name in ("down", "right", "mirrored", "top", "left")
    )

    def augmented() -> Any:
        images = pad(a.images[a.order[3 : 3 + batch]], ((0, 0), (shift, shift), (shift, shift), (0, 0)))
        columns = where(mirrored, width - 1 - j, j)
        moved = images[arange(batch)[:, None, None], i - down + shift, columns - right + shift]
        cut = (i >= top) & (i < top + cutout) & (j >= left) & (j < left + cutout)
        return scaled(moved * ~cut[..., None])

    return augmented


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gather_batch(
    shape: str,
    augmentation: str,
    implementation: str,
    batch: int,
    rng: np.random.Generator,
    contest: Callable[..., None],
) -> None:
    height, width, channels = SHAPES[shape]
    options = AUGMENTATIONS[augmentation]
    images = rng.integers(0, 256, (IMAGES, height, width, channels), np.uint8)
    arrays = {
        "images": images,
        "labels": rng.integers(0, 10, IMAGES, dtype=np.int32),
        "order": rng.permutation(IMAGES),
        **draws(batch, height, width, **{"flip": False, "shift": 0, "cutout": 0, **options}),
    }
    few = min(batch, 8)  # the reference works pixel by pixel

    def oracle() -> Any:
        given = type("Arrays", (), arrays)
        if implementation == "reference":
            return expression(batch, options, np, given)().astype(np.float64)
        return of(reference, few, {**options, "dtype": np.float64}, given)()

    pixels = batch * height * width * channels
    contest(
        Problem(
            op="gather_batch",
            shape=shape,
            direction=augmentation,
            batch=batch,
            arrays=arrays,
            oracle=oracle,
            bytes_moved=5 * pixels + 12 * batch,  # one byte in, four out; the order, and the labels in and out
            flops=pixels,
            ours=partial(of, ops, batch, options),
            expression=partial(expression, batch, options),
            reference=partial(of, reference, batch, options),
            reference_seconds=pixels * 1e-6,
            pytorch=partial(torchs, batch, options),
        ),
        implementation,
    )
