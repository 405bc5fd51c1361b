"""Train the CNN on Fashion-MNIST, extract its features, train an MLP on them, and compare the two.

All options of ``gpunet train hybrid`` can be given, for example:

    python scripts/cnn_feature_extraction.py --preset quick
    python scripts/cnn_feature_extraction.py --feature-layer block4 --joint-epochs 3

The run folder then holds the CNN (stages/1-cnn), the hybrid, their figures, and a map of the test images' features.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from gpunet.cli.main import main


def run() -> int:
    """Train the hybrid; then evaluate its CNN alone and draw the features."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["train", "hybrid", "--json", *sys.argv[1:]])
    if code:
        return code
    result = json.loads(output.getvalue().splitlines()[-1])
    run_dir = Path(result["run_dir"])

    from gpunet.experiments.inference import evaluate, feature_map

    feature_map(run_dir)
    cnn = evaluate(run_dir / "stages" / "1-cnn", figures=True)
    print(f"run folder: {run_dir}")
    print(f"CNN    test accuracy {cnn.correct / cnn.total:.2%}")
    print(f"hybrid test accuracy {result['test_accuracy']:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(run())
