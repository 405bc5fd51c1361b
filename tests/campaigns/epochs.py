"""Many epochs of a tiny training: memory, handles and threads stay what they were.

python -m tests.campaigns.epochs --epochs 1000 [--model cnn]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

from gpunet.experiments.config import merge
from gpunet.experiments.run import fit
from gpunet.training import Callback, Trainer
from gpunet.training.history import Record
from tests.campaigns.runs import data_set

_OPTIONS = {
    "mlp": {"hidden": (16,)},
    "cnn": {"filters": (4, 8)},
}


class Watch(Callback):
    """Notes the resident memory in bytes, the open files and the threads after each epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        self.seen.append((memory, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()))


def watch_epochs(model: str, epochs: int) -> list[tuple[int, int, int]]:
    """Train `model`; returns what :class:`Watch` has noted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = {"data": str(data_set(folder)), "epochs": epochs, "batch_size": 16, "ema_decay": 0.9}
        watch = Watch()
        config = merge(model, overrides={**common, **_OPTIONS[model]})
        fit(config, run_dir=folder / "run", device="cpu", callbacks=lambda stage: [watch])
        return watch.seen


def main() -> None:
    """Run the campaign; exits with 1 if handles or threads grew, or memory by more than 4 KiB an epoch: its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=_OPTIONS, default="cnn")
    parser.add_argument("--epochs", type=int, default=1000)
    options = parser.parse_args()
    seen = watch_epochs(options.model, options.epochs)
    early, late = seen[len(seen) // 5], seen[-1]  # caches and arenas fill in the first fifth
    growth = (late[0] - early[0]) / (len(seen) - len(seen) // 5)
    sizes = " and ".join(f"{memory / 2**20:.1f}" for memory, _, _ in (early, late))
    print(
        f"{options.model}, {len(seen)} epochs, after a fifth and at the end: {sizes} MiB ({growth:.0f} bytes an epoch)"
    )
    print(f"open files {early[1]} and {late[1]}, threads {early[2]} and {late[2]}")
    sys.exit(growth > 4096 or late[1:] != early[1:])


if __name__ == "__main__":
    main()
