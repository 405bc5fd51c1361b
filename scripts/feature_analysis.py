"""Compare the features of a trained CNN's layers: kNN, logistic regression, SVM and MLP probes, and two 2-D maps.

Takes all options of ``gpunet features``, for example:

    python scripts/feature_analysis.py runs/cnn-...
    python scripts/feature_analysis.py runs/hybrid-... --layers block3 features --out docs/results
"""

import sys

from gpunet.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["features", *sys.argv[1:]]))
