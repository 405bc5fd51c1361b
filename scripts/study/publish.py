"""Publish the test accuracy of a preset over its seeds.

python -m scripts.study.publish mlp            trains missing runs, as gpunet reproduce does, and writes
                                               gpunet/experiments/published.json
python -m scripts.study.publish mlp --refit    adds the same preset, trained on the validation images as well

`python -m scripts.study.readme` then updates the README.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gpunet.errors import ConfigError
from gpunet.experiments.presets import PRESETS
from gpunet.experiments.published import Published, load_published
from gpunet.experiments.reproduce import Reproduction, reproduce
from gpunet.files import write_text_atomic
from gpunet.models import MODELS
from scripts.study.checkout import PUBLISHED, ROOT, commit
from scripts.study.command import run


def main(argv: Sequence[str] | None = None, *, root: Path = ROOT) -> None:
    """Train missing runs, print the results, and write them to the checkout `root`.

    Raises: as :func:`gpunet.experiments.reproduce.reproduce`, :func:`published_of` and :func:`save_published`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.study.publish",
        description="Publish the test accuracy of a preset over its seeds: train missing runs, as gpunet reproduce "
        f"does, and write {PUBLISHED.as_posix()}.",
    )
    parser.add_argument("kind", choices=list(MODELS))
    parser.add_argument("--refit", action="store_true", help="train on the validation images as well")
    parser.add_argument("--seeds", metavar="N", type=_count, help="seeds 0 to N-1 (default: as published)")
    parser.add_argument("--preset", choices=list(PRESETS), help="default: the published one, else best")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default="runs/reproduce",
        help="parent of the run folders (default: %(default)s)",
    )
    parser.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:N (default: GPUNET_DEVICE, else auto)")
    args = parser.parse_args(argv)
    found = reproduce(
        args.kind, preset=args.preset, seeds=args.seeds, refit=args.refit, folder=args.out, device=args.device
    )
    for one in found.runs:
        print(f"seed {one.seed}: test accuracy {one.accuracy:.2%}")
    spread = "" if found.std is None else f" +- {100 * found.std:.2f}"
    print(f"mean: {100 * found.mean:.2f}{spread} %")
    results = load_published(root / PUBLISHED)
    entry = published_of(found, results.get(found.kind), commit(root))
    save_published(root / PUBLISHED, {**results, found.kind: entry})
    print(f"written: {root / PUBLISHED}")


def published_of(found: Reproduction, before: Published | None, commit: str | None) -> Published:
    """`found`, trained at `commit`, as an entry of the published results; a refit is added to the entry `before`.

    Raises:
        ConfigError: the preset of a refit is not the published one.
    """
    tta_mean = statistics.fmean(found.tta) if found.tta else None
    if found.refit:
        if before is None or before.preset != found.preset:
            raise ConfigError(f"publish the preset {found.preset} of the {found.kind} before its refit")
        return replace(
            before,
            refit_mean=found.mean,
            refit_std=found.std,
            refit_seeds=len(found.runs),
            refit_tta_mean=tta_mean,
        )
    entry = Published(
        mean=found.mean,
        std=found.std,
        seeds=len(found.runs),
        interval=found.interval,
        tta_mean=tta_mean,
        preset=found.preset,
        parameters=found.runs[0].parameters,
        commit=commit,
        device=found.device,
        tta_std=statistics.stdev(found.tta) if len(found.tta) > 1 else None,
    )
    if before is None or before.preset != found.preset:
        return entry
    kept = ("refit_mean", "refit_std", "refit_seeds", "refit_tta_mean")
    return replace(entry, **{name: getattr(before, name) for name in kept})


def save_published(path: Path, results: Mapping[str, Published]) -> None:
    """Write `results` to `path`, in the order of the models.

    Raises:
        OutputError: it cannot be written.
    """
    document: dict[str, Any] = {kind: asdict(results[kind]) for kind in MODELS if kind in results}
    write_text_atomic(path, json.dumps(document, indent=2) + "\n")


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 1000:
        raise argparse.ArgumentTypeError(f"must be at least 1 and at most 1000, got {text:.80}")
    return count


if __name__ == "__main__":
    run(main)
