"""``gpunet reproduce``: reproduce the published results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpunet.cli.compute import prepare, refuse_ranks
from gpunet.cli.console import print_json
from gpunet.cli.parser import Parser, choice, common_options, compute_options, json_option, number
from gpunet.experiments.presets import PRESETS
from gpunet.models import MODELS

if TYPE_CHECKING:
    from gpunet.experiments.published import Published
    from gpunet.experiments.reproduce import Reproduction
    from gpunet.report.metrics import PairedComparison


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.description = (
        "Train the published preset of a model with its published seeds, test each run once, and compare. Finished "
        "runs in the folder are not trained again; an interrupted run is resumed."
    )
    parser.set_defaults(run=run, json=False, preset=None, seeds=None, refit=False, out=None)
    parser.add_argument("kind", metavar=f"{{{','.join(MODELS)}}}", type=choice("the model", tuple(MODELS)))
    parser.add_argument(
        "--seeds", metavar="N", type=number("--seeds", 1, 1000), help="seeds 0 to N-1 (default: as published)"
    )
    parser.add_argument(
        "--preset",
        metavar=f"{{{','.join(PRESETS)}}}",
        type=choice("--preset", tuple(PRESETS)),
        help="named settings (default: the published preset, else best)",
    )
    parser.add_argument(
        "--refit", action="store_true", help="train on the validation images as well; reported separately"
    )
    parser.add_argument("--out", metavar="DIR", help="parent folder of the runs (default: runs/reproduce)")
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Train the missing runs, and print expected and found accuracies."""
    refuse_ranks("the results were published for one", "start it once")
    device = prepare(args)
    from gpunet.experiments.published import load_published
    from gpunet.experiments.reproduce import compare_with_cnn, reproduce

    folder = Path(args.out) if args.out is not None else Path("runs") / "reproduce"
    try:
        found = reproduce(
            args.kind,
            preset=args.preset,
            seeds=args.seeds,
            refit=args.refit,
            folder=folder,
            device=device,
            progress=args.verbosity >= 0,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished runs are kept; continue with the same command") from None
    expected = load_published().get(args.kind)
    if expected is not None and expected.preset != found.preset:
        expected = None
    compared = compare_with_cnn(found, folder) if args.kind == "hybrid" else {}
    if args.json:
        print_json(_as_dict(found, expected, compared))
    else:
        _print(found, expected, compared)


def _as_dict(found: Reproduction, expected: Published | None, compared: dict[int, PairedComparison]) -> dict[str, Any]:
    from dataclasses import asdict

    from gpunet import __version__
    from gpunet.experiments.reproduce import agreement

    within = agreement(expected, found) if expected is not None else None
    return {
        "model": found.kind,
        "preset": found.preset,
        "refit": found.refit,
        "expected": None if expected is None else asdict(expected),
        "mean": found.mean,
        "std": found.std,
        "seeds": [run.seed for run in found.runs],
        "accuracies": [run.accuracy for run in found.runs],
        "interval": found.interval,
        "tta_mean": sum(found.tta) / len(found.tta) if found.tta else None,
        "within_expected": None if within is None else within.inside,
        "mcnemar": {str(seed): asdict(comparison) for seed, comparison in compared.items()},
        "run_dirs": [str(run.run_dir) for run in found.runs],
        "device": found.device,
        "version": __version__,
    }


def _print(found: Reproduction, expected: Published | None, compared: dict[int, PairedComparison]) -> None:
    from gpunet.experiments.reproduce import agreement

    for run in found.runs:
        tta = "" if run.tta_correct is None else f", with mirror images {run.tta_correct / run.total:.2%}"
        print(f"seed {run.seed}: test accuracy {run.accuracy:.2%}{tta} ({run.run_dir})")
    what = f"{found.kind}, preset {found.preset}{', refit on all training images' if found.refit else ''}"
    low, high = found.interval
    text = _text(found.mean, found.std, len(found.runs))
    print(f"found ({what}): {text}, 95 % interval {100 * low:.2f}-{100 * high:.2f}")
    if found.tta:
        print(f"  with mirror images: {100 * sum(found.tta) / len(found.tta):.2f} %")
    if expected is None:
        print("expected: no results are published for this preset yet")
    elif found.refit and expected.refit_mean is None:
        print("expected: no results are published for a refit yet")
    else:
        if found.refit:
            text = _text(expected.refit_mean or 0.0, expected.refit_std, expected.refit_seeds or 0)
        else:
            low, high = expected.interval
            text = _text(expected.mean, expected.std, expected.seeds)
            text += f", 95 % interval {100 * low:.2f}-{100 * high:.2f}"
        print(f"expected: {text} ({expected.device})")
        tta_mean = expected.refit_tta_mean if found.refit else expected.tta_mean
        if tta_mean is not None:
            print(f"  with mirror images: {100 * tta_mean:.2f} %")
        _print_agreement(agreement(expected, found), len(found.runs))
    for seed, comparison in compared.items():
        print(
            f"seed {seed}: {comparison.only_second} images classified correctly only by the hybrid, "
            f"{comparison.only_first} only by the CNN: McNemar's p = {comparison.p_value:.3g}"
        )
    if found.kind == "hybrid" and not compared:
        print("for McNemar's test between the two, run gpunet reproduce cnn, then this command again")


def _print_agreement(within: Any, count: int) -> None:
    if within is None:
        print("only one seed is published, so there is no spread to compare with")
        return
    verdict = "within" if within.inside else "NOT within"
    seeds = f"{count} seed{'s' if count != 1 else ''}"
    print(
        f"the found mean lies {verdict} {100 * within.low:.2f}-{100 * within.high:.2f} %, the 95 % prediction interval "
        f"for the mean of {seeds} given the published ones"
    )


def _text(mean: float, std: float | None, count: int) -> str:
    spread = "" if std is None else f" +- {100 * std:.2f}"
    return f"test accuracy {100 * mean:.2f}{spread} % over {count} seed{'s' if count != 1 else ''}"
