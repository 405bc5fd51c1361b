"""Train the MLP 784-128-64-10 on Fashion-MNIST and draw its figures.

All options of ``gpunet train mlp`` can be given, for example:

    python scripts/mlp_from_scratch.py --activation gelu --epochs 10
    python scripts/mlp_from_scratch.py --preset baseline
"""

import sys

from gpunet.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "mlp", *sys.argv[1:]]))
