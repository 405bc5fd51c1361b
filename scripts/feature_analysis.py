"""Compare the features of the layers of a trained CNN: kNN, logistic regression, SVM and MLP on each, and two maps.

All options of ``gpunet features`` can be given, for example:

    python scripts/feature_analysis.py runs/cnn-...
    python scripts/feature_analysis.py runs/hybrid-... --layers block3 features --out docs/results
"""

import sys

from gpunet.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["features", *sys.argv[1:]]))
