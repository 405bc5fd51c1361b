"""Small data sets as users have them: three that scikit-learn ships, and five that are made here, the same each time.

The made ones stand for kinds of data: few pictures of many faces, handwritten signs with several forms of each,
coloured things anywhere on noise, counts of words, a rare class. None of them was tuned to a result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Made = tuple[np.ndarray, np.ndarray]
"""Images or rows, and labels."""


def _sklearn(name: str) -> Callable[[], Made]:
    def make() -> Made:
        from sklearn import datasets

        found = getattr(datasets, f"load_{name}")()
        return (found.images if "images" in found else found.data), found.target

    return make


def faces() -> Made:
    """400 grey pictures 32 x 32 of 40 faces, ten of each, as in the Olivetti faces: light, pose and mouth differ."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:32, :32] / 31.0
    images, labels = [], []
    for person in range(40):
        width, height, skin, hair = rng.uniform((0.26, 0.36, 120, 0.08), (0.36, 0.46, 210, 0.3))
        apart, level, eye, dark = rng.uniform((0.1, 0.38, 0.025, 30), (0.17, 0.47, 0.05, 90))
        nose, mouth, lip, place = rng.uniform((0.08, 0.07, 0.015, 0.68), (0.2, 0.16, 0.035, 0.76))
        for _ in range(10):
            dx, dy, turn, smile = rng.uniform((-0.06, -0.06, -0.05, -0.6), (0.06, 0.06, 0.05, 0.6))
            light, side = rng.uniform((0.7, -0.5), (1.15, 0.5))
            x, y = columns - 0.5 - dx, rows - 0.5 - dy
            picture = np.full((32, 32), 60.0)
            picture[(x / width) ** 2 + (y / height) ** 2 < 1] = skin
            picture[((x / width) ** 2 + (y / height) ** 2 < 1) & (y < -height + 2 * height * hair)] = dark
            x = x - turn
            for eye_x in (-apart / 2, apart / 2):
                picture[(x - eye_x) ** 2 + (2 * (y - level + 0.5)) ** 2 < eye**2 * 4] = dark
            picture[(abs(x) < 0.02) & (abs(y - (level - 0.5) - nose / 2 - 0.04) < nose / 2)] *= 0.75
            curve = y - (place - 0.5) + smile * x**2 * 4
            picture[(abs(x) < mouth) & (abs(curve) < lip)] = dark + 20
            picture = picture * light * (1 + side * x) + rng.normal(0, 8, (32, 32))
            images.append(picture.clip(0, 255))
            labels.append(person)
    return np.asarray(images).astype(np.uint8), np.asarray(labels)


def signs() -> Made:
    """3000 grey images 28 x 28 of ten handwritten signs, as in KMNIST: each sign has three forms of several strokes."""
    rng = np.random.default_rng(2)
    strokes = rng.uniform(4, 24, (10, 3, 4, 4, 2))  # sign, form, stroke, control point, coordinate
    grid = np.stack(np.mgrid[:28, :28], -1).reshape(-1, 1, 2)
    steps = np.linspace(0, 1, 24)[:, None]
    bezier = np.concatenate([(1 - steps) ** 3, 3 * steps * (1 - steps) ** 2, 3 * steps**2 * (1 - steps), steps**3], 1)
    labels = rng.integers(0, 10, 3000)
    images = np.zeros((3000, 28, 28))
    for image, label in zip(images, labels, strict=True):
        points = strokes[label, rng.integers(3)] + rng.normal(0, 1.3, (4, 4, 2))
        turn = np.eye(2) * rng.uniform(0.85, 1.15) + rng.normal(0, 0.1, (2, 2))
        path = (np.einsum("sk,lkc->lsc", bezier, points).reshape(1, -1, 2) - 14) @ turn + 14 + rng.normal(0, 1, 2)
        distance = ((grid - path) ** 2).sum(-1).min(1)
        image[:] = (255 * np.exp(-distance / rng.uniform(0.8, 2.2))).reshape(28, 28)
    images += rng.normal(0, 10, images.shape)
    return images.clip(0, 255).astype(np.uint8), labels


def colours() -> Made:
    """1200 colour images 16 x 16 of four classes: a red or a blue square or disc, anywhere on noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 1200)
    images = rng.integers(0, 120, (1200, 16, 16, 3))
    rows, columns = np.mgrid[:16, :16]
    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(4, 12, 2)
        square = np.maximum(abs(rows - y), abs(columns - x)) <= 3
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= 14
        image[square if label % 2 else disc, 2 * (label // 2)] += 90
    return images.astype(np.uint8), labels


def words() -> Made:
    """2000 texts of eight topics as counts of 1000 words: a few words are common to all, a topic prefers thirty."""
    rng = np.random.default_rng(3)
    common = 1 / np.arange(1, 1001)
    shares = np.tile(common / common.sum(), (8, 1))
    for share in shares:
        share[rng.choice(np.arange(50, 1000), 30, replace=False)] += 0.12 / 30
    shares /= shares.sum(1, keepdims=True)
    labels = rng.integers(0, 8, 2000)
    counts = [
        rng.multinomial(length, shares[label])
        for length, label in zip(rng.integers(20, 150, 2000), labels, strict=True)
    ]
    return np.asarray(counts), labels


def imbalanced() -> Made:
    """5100 rows of 20 features, one in 51 of them of the rare class."""
    from sklearn.datasets import make_classification

    x, y = make_classification(5100, 20, n_informative=6, weights=[50 / 51], flip_y=0, class_sep=1.0, random_state=0)
    return x, y


DATA: dict[str, tuple[Callable[[], Made], tuple[str, ...]]] = {
    "digits": (_sklearn("digits"), ("mlp", "cnn")),
    "wine": (_sklearn("wine"), ("mlp",)),
    "breast_cancer": (_sklearn("breast_cancer"), ("mlp",)),
    "faces": (faces, ("mlp", "cnn")),
    "signs": (signs, ("mlp", "cnn")),
    "colours": (colours, ("mlp", "cnn")),
    "words": (words, ("mlp",)),
    "imbalanced": (imbalanced, ("mlp",)),
}
"""How each is made, and the models that it is for."""
