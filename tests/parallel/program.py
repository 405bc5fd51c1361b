"""Trains one run of each model, as the ranks of ``mpiexec -n N python -m tests.parallel.program FOLDER`` or alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gpunet.experiments.config import merge
from gpunet.experiments.run import fit
from gpunet.parallel import world

COMMON: dict[str, Any] = {"epochs": 2, "batch_size": 32, "shards": 8, "seed": 3}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (16,), "dropout": 0.3, "class_weights": "balanced", "clip_norm": 1.0},
    "cnn": {"filters": (4, 8), "shift": 1, "flip": False, "alternate_flip": True, "ema_decay": 0.9},
    "hybrid": {
        "filters": (4, 8),
        "classifier_hidden": (8,),
        "classifier_epochs": 2,
        "joint_epochs": 1,
        "sync_batch_norm": True,
    },
}


def train(folder: Path) -> None:
    """Train all models on ``data.npz`` there, each in a folder of its name."""
    ranks = world()
    for kind, options in MODELS.items():
        config = merge(kind, overrides={**COMMON, **options, "data": str(folder / "data.npz")})
        if ranks.rank == 0:
            (folder / kind).mkdir()
        fit(config, run_dir=folder / kind, device="cpu", communicator=ranks)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
