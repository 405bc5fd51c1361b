"""Accuracy of ``gpunet train`` with its defaults on small data sets of its user, beside scikit-learn's MLPClassifier.

    python -m bench.own_data [--seeds 3] [--save] [NAME ...]

Each data set is saved as a user would have it, trained on through the same path as the command line, and evaluated on
the test part that gpunet splits off, the same for all seeds. The MLPClassifier has its defaults, on the same training
and validation parts together, as the data are and standardised, and is evaluated on the same test part.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import results
from bench.made_data import DATA
from bench.table import markdown
from gpunet.experiments.config import merge
from gpunet.experiments.prepare import DataConfig, RunData, prepare
from gpunet.experiments.run import fit
from gpunet.training import evaluate


@dataclass(frozen=True)
class Outcome:
    """A model on a data set. Accuracies are fractions of the test part, one for each seed."""

    data: str
    model: str
    train: int
    test: int
    batch: int
    lr: float
    epochs: int
    seeds: list[int]
    validation: list[float]
    accuracy: list[float]
    balanced: list[float]
    """The mean recall of the classes."""
    majority: float
    """The accuracy of always answering the most common class."""
    raw: list[float]
    """The MLPClassifier on the data as they are."""
    scaled: list[float]
    """The MLPClassifier on standardised data."""
    scaled_balanced: list[float]

    @property
    def lead(self) -> float:
        """By how much the mean is above the better one of the MLPClassifier's two."""
        return statistics.mean(self.accuracy) - max(statistics.mean(self.raw), statistics.mean(self.scaled))


def _balanced(labels: np.ndarray, predictions: np.ndarray) -> float:
    return statistics.mean(float((predictions[labels == label] == label).mean()) for label in np.unique(labels))


def _peer(data: RunData, seed: int, *, scaled: bool) -> np.ndarray:
    """The predictions of scikit-learn's MLPClassifier for the test part."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = [(part.images.reshape(len(part), -1), part.labels) for part in (data.split.train, data.split.validation)]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    steps = [StandardScaler()] if scaled else []
    model = make_pipeline(*steps, MLPClassifier(random_state=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs are its default
        model.fit(x, y)
    return np.asarray(model.predict(data.test.images.reshape(len(data.test), -1)))


def _peers(path: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    data = prepare(DataConfig(data=str(path)))
    raw = [_peer(data, seed, scaled=False) for seed in seeds]
    scaled = [_peer(data, seed, scaled=True) for seed in seeds]
    return {
        "raw": [float((found == data.test.labels).mean()) for found in raw],
        "scaled": [float((found == data.test.labels).mean()) for found in scaled],
        "scaled_balanced": [_balanced(data.test.labels, found) for found in scaled],
    }


def _outcome(name: str, kind: str, path: Path, seeds: Sequence[int], peers: dict[str, Any]) -> Outcome:
    fits, tests = [], []
    for seed in seeds:
        config = merge(kind, overrides={"data": str(path), "seed": seed})
        found = fit(config, run_dir=path.parent / f"{kind}-{seed}", device="cpu", given={"data", "seed"})
        tests.append(evaluate(found.model, found.loader("test"), keep_probabilities=True).probabilities)
        fits.append(found)
    used, data = fits[0].config.training, fits[0].data
    labels = data.test.labels
    predictions = [np.asarray(probabilities).argmax(1) for probabilities in tests]
    return Outcome(
        name,
        kind,
        train=len(data.split.train),
        test=len(data.test),
        batch=used.batch_size,
        lr=used.lr,
        epochs=used.epochs,
        seeds=list(seeds),
        validation=[found.validation_score for found in fits],
        accuracy=[float((found == labels).mean()) for found in predictions],
        balanced=[_balanced(labels, found) for found in predictions],
        majority=float(np.bincount(labels).max() / len(labels)),
        **peers,
    )


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation, in percent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} +- {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def table(found: Sequence[Outcome]) -> str:
    """The outcomes in Markdown, in percent."""
    header = ["data", "model", "train", "test", "batch", "lr", "epochs", "validation", "test accuracy"]
    header += ["MLPClassifier", "standardised", "ours - better", "balanced", "its balanced", "most common class"]
    lines = [
        [
            one.data, one.model, str(one.train), str(one.test), str(one.batch), f"{one.lr:g}", str(one.epochs),
            spread(one.validation), spread(one.accuracy), spread(one.raw), spread(one.scaled),
            f"{100 * one.lead:+.1f}", spread(one.balanced), spread(one.scaled_balanced), f"{100 * one.majority:.1f}",
        ]
        for one in found
    ]  # fmt: skip
    return markdown(header, lines, left=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.own_data", description=__doc__.partition("\n")[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of {', '.join(DATA)} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model (default: 3)")
    parser.add_argument("--models", nargs="*", help="only these models")
    parser.add_argument("--json", type=Path, help="write the results to this file, as a list of objects")
    parser.set_defaults(threads=None)
    results.save_option(parser)
    args = parser.parse_args(arguments)
    found: list[Outcome] = []
    for name in args.names or DATA:
        make, kinds = DATA[name]
        x, y = make()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.npz"
            np.savez(path, X=x, y=y)
            seeds = range(args.seeds)
            peers = _peers(path, seeds)
            for kind in kinds:
                if args.models is None or kind in args.models:
                    found.append(_outcome(name, kind, path, seeds, peers))
                    print(table(found[-1:]).splitlines()[2], flush=True)
    results.finish("own-data", [asdict(one) for one in found], table(found), args)


if __name__ == "__main__":
    main()
