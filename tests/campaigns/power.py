"""Power losses: a training goes on from what had reached the disk, and ends in the same bits.

    python -m tests.campaigns.power --losses 25 [--model mlp] [--seed 0]

A run trains on an ext4 file system in an image file. At a random moment the image is copied, without a sync: the copy
is the disk after a loss of power. It is mounted (which replays its journal), and the run is resumed on it. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.campaigns.kills import OFTEN, command_line, run
from tests.campaigns.runs import MODELS, data_set, differences, next_words, run_folder, words

_MEGABYTES = 64


def lose_power(model: str, losses: int, *, seed: int = 0, epochs: int = 12) -> tuple[int, list[str]]:
    """Cut the power of runs of `model`.

    Returns:
        in how many cases a checkpoint had reached the disk, and what went wrong.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = data_set(folder)
        started = time.monotonic()
        run(words(model, data, folder / "whole", *OFTEN, epochs=epochs))
        longest = time.monotonic() - started
        whole = run_folder(folder / "whole")
        assert whole is not None
        resumed, found = 0, []
        for number in range(1, losses + 1):
            after = longest * (0.3 + 0.7 * rng.random())
            with _disk(folder / "disk") as disk:
                _train_until_the_cut(words(model, data, disk / "runs", *OFTEN, epochs=epochs), after, folder)
            with _disk(folder / "disk", copy=folder / "copy.img") as disk:
                begun = run_folder(disk / "runs")
                had_one = begun is not None and any(begun.rglob("last.safetensors"))
                resumed += had_one
                command = next_words(model, data, disk / "runs", *OFTEN, epochs=epochs)
                done = subprocess.run(command_line(command), capture_output=True, text=True, check=False)
                begun = run_folder(disk / "runs")
                if done.returncode or begun is None:
                    problems = [f"exit code {done.returncode}: {done.stderr.strip()[-400:]}"]
                else:
                    problems = differences(whole, begun)
                found += [f"loss {number}, after {after:.1f} s: {problem}" for problem in problems]
        return resumed, found


def _train_until_the_cut(command: list[str], after: float, folder: Path) -> None:
    with subprocess.Popen(command_line(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after)
        process.send_signal(signal.SIGSTOP)  # so that the copy is of one moment
        shutil.copyfile(folder / "disk.img", folder / "copy.img")
        process.kill()


@contextlib.contextmanager
def _disk(mounted: Path, copy: Path | None = None) -> Iterator[Path]:
    """A new file system at `mounted`, in the image beside it, or the one in the image `copy`."""
    image = copy or mounted.with_suffix(".img")
    mounted.mkdir(exist_ok=True)
    if copy is None:
        with image.open("wb") as file:
            file.truncate(_MEGABYTES << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def main() -> None:
    """Run the campaign, and exit with 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--losses", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    resumed, found = lose_power(options.model, options.losses, seed=options.seed)
    print(*found, sep="\n", end="\n" if found else "")
    what = f"{options.model}: {options.losses} power losses, {resumed} with a checkpoint on the disk"
    print(f"{what}, {len(found)} findings, {time.monotonic() - started:.0f} s")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
