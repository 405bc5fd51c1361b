"""SIGKILL at random moments: however often a training is killed, it ends in the same bits.

    python -m tests.campaigns.kills --model cnn --kills 100 [--seed 0]

The state is saved within the epochs, too, every few steps. Each run is killed after a random time, and resumed until it
has ended; then the next one begins, until there were that many kills.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.campaigns.runs import BLANK, MODELS, data_set, differences, next_words, run_folder, words

OFTEN = ("--checkpoint-minutes", "0.0002")
"""Options that let a training save its state every few steps."""


def kill_runs(model: str, kills: int, *, seed: int = 0, epochs: int = 6) -> tuple[int, list[str]]:
    """Kill runs of `model`; returns how many runs have ended, and in what they differ from one that was not killed."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = data_set(folder)
        run(words(model, data, folder / "first", *OFTEN, epochs=epochs))  # whose kernels may have to be compiled
        started = time.monotonic()
        run(words(model, data, folder / "whole", *OFTEN, epochs=epochs))
        longest = time.monotonic() - started
        whole = run_folder(folder / "whole")
        assert whole is not None
        runs, found = 0, []
        while kills > 0:
            found_here, killed = _one(model, data, folder / "killed", whole, rng, longest, kills, epochs)
            kills -= killed
            runs += 1
            found += [f"run {runs}: {text}" for text in found_here]
            shutil.rmtree(folder / "killed")
        return runs, found


def _one(
    model: str, data: Path, runs: Path, whole: Path, rng: np.random.Generator, longest: float, kills: int, epochs: int
) -> tuple[list[str], int]:
    """(differences, kills) of one run."""
    killed = 0
    while True:
        command = next_words(model, data, runs, *OFTEN, epochs=epochs)
        with subprocess.Popen(
            command_line(command), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            try:
                # early moments, in which Python only loads its modules, are less interesting; some runs are to end
                limit = None if killed >= kills else longest * (0.4 + 0.8 * rng.random())
                _, errors = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                continue
        if process.returncode:
            return [f"exit code {process.returncode} after {killed} kills: {errors.strip()[-500:]}"], killed
        begun = run_folder(runs)
        assert begun is not None
        return differences(whole, begun), killed


def command_line(command: list[str]) -> list[str]:
    """`command` of gpunet as one of this Python."""
    return [sys.executable, "-c", f"{BLANK}; from gpunet.cli.main import entry_point; entry_point()", *command]


def run(command: list[str]) -> None:
    """Run `command` of gpunet; it must succeed."""
    subprocess.run(command_line(command), check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Run the campaign, and exit with 1 if a run ended in other bits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    runs, found = kill_runs(options.model, options.kills, seed=options.seed)
    print(*found, sep="\n", end="\n" if found else "")
    seconds = time.monotonic() - started
    print(f"{options.model}: {options.kills} kills, {runs} runs, {len(found)} differences, {seconds:.0f} s")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
