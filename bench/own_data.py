"""Accuracy of ``gpunet train`` with its defaults on small data sets of its user, beside scikit-learn's MLPClassifier.

    python -m bench.own_data [--seeds 3] [NAME ...]

Each data set is saved as a user would have it, trained on through the same path as the command line, and evaluated on
the test part that gpunet splits off. The MLPClassifier has its defaults, on the same training and validation parts
together, standardised, and is evaluated on the same test part.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpunet.experiments.config import merge
from gpunet.experiments.prepare import DataConfig, prepare
from gpunet.experiments.run import fit
from gpunet.training import evaluate


def _sklearn(name: str) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    def make() -> tuple[np.ndarray, np.ndarray]:
        from sklearn import datasets

        found = getattr(datasets, f"load_{name}")()
        return (found.images if "images" in found else found.data), found.target

    return make


def _colours() -> tuple[np.ndarray, np.ndarray]:
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


def _imbalanced() -> tuple[np.ndarray, np.ndarray]:
    """5100 rows of 20 features, one in 51 of them of the rare class."""
    from sklearn.datasets import make_classification

    x, y = make_classification(5100, 20, n_informative=6, weights=[50 / 51], flip_y=0, class_sep=1.0, random_state=0)
    return x, y


DATA: dict[str, tuple[Callable[[], tuple[np.ndarray, np.ndarray]], tuple[str, ...]]] = {
    "digits": (_sklearn("digits"), ("mlp", "cnn")),
    "wine": (_sklearn("wine"), ("mlp",)),
    "breast_cancer": (_sklearn("breast_cancer"), ("mlp",)),
    "colours": (_colours, ("mlp", "cnn")),
    "imbalanced": (_imbalanced, ("mlp",)),
}


def _peer(path: Path, seed: int) -> float:
    """Test accuracy of scikit-learn's MLPClassifier."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = prepare(DataConfig(data=str(path)))
    parts = [(part.images.reshape(len(part), -1), part.labels) for part in (data.split.train, data.split.validation)]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    model = make_pipeline(StandardScaler(), MLPClassifier(random_state=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs are its default
        model.fit(x, y)
    return float(model.score(data.test.images.reshape(len(data.test), -1), data.test.labels))


def _row(name: str, kind: str, path: Path, seeds: int) -> str:
    folders = [path.parent / f"{kind}-{seed}" for seed in range(seeds)]
    results = []
    for seed, folder in enumerate(folders):
        config = merge(kind, overrides={"data": str(path), "seed": seed})
        results.append(fit(config, run_dir=folder, device="cpu", given={"data", "seed"}))
    used, data = results[0].config.training, results[0].data
    counts = np.bincount(data.test.labels)
    accuracies = [
        np.mean([result.validation_accuracy for result in results]),
        np.mean([evaluate(result.model, result.loader("test")).accuracy for result in results]),
        np.mean([_peer(path, seed) for seed in range(seeds)]),
        counts.max() / counts.sum(),
    ]
    cells = [name, kind, len(data.split.train), len(data.test), used.batch_size, f"{used.lr:g}", used.epochs]
    return f"| {' | '.join(map(str, [*cells, *(f'{100 * value:.1f}' for value in accuracies)]))} |"


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of {', '.join(DATA)} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs that are averaged")
    args = parser.parse_args()
    columns = ["data", "model", "train", "test", "batch", "lr", "epochs"]
    columns += ["validation %", "test %", "MLPClassifier, test %", "most common class %"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for name in args.names or DATA:
        make, kinds = DATA[name]
        x, y = make()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.npz"
            np.savez(path, X=x, y=y)
            for kind in kinds:
                print(_row(name, kind, path, args.seeds), flush=True)


if __name__ == "__main__":
    main()
