"""The test accuracy of gpunet's MLPClassifier beside scikit-learn's, with default settings on small data sets.

    python -m bench.estimators [--seeds 3]

One stratified split of each data set, 30 % for testing; the mean over the seeds of the estimators. gpunet's
standardises its features; scikit-learn's does not, so that it is shown after a StandardScaler, too.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpunet.sklearn import MLPClassifier

DATA: dict[str, Callable[..., Any]] = {
    "digits": datasets.load_digits,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
}
CONTESTANTS: dict[str, Callable[[int], Any]] = {
    "gpunet": lambda seed: MLPClassifier(random_state=seed, device="cpu"),
    "scikit-learn": lambda seed: neural_network.MLPClassifier(random_state=seed),
    "scaler + scikit-learn": lambda seed: make_pipeline(
        StandardScaler(), neural_network.MLPClassifier(random_state=seed)
    ),
}


def accuracy(data: str, contestant: str, seeds: Sequence[int]) -> float:
    """The mean test accuracy of `contestant` on `data` over `seeds`."""
    X, y = DATA[data](return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = [CONTESTANTS[contestant](seed).fit(train, train_labels) for seed in seeds]
    return statistics.mean(float(one.score(test, test_labels)) for one in fitted)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    seeds = range(parser.parse_args(arguments).seeds)
    print("| data | " + " | ".join(CONTESTANTS) + " |")
    print("|---|" + "--:|" * len(CONTESTANTS))
    for data in DATA:
        row = [f"{100 * accuracy(data, contestant, seeds):.2f} %" for contestant in CONTESTANTS]
        print(f"| {data} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
